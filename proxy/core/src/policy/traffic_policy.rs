//! The spec of a TrafficPolicy.

use outrigger_proto::{
    mesh::v1alpha1::{Backoff, Outlier, Resilience, Retry, RetryBudget, Statuses, Timeouts, TrafficLimits},
    policy::v1alpha1::{TargetRef, TrafficPolicySpec as Message},
};
use serde_json::{Map, Value, json};

use super::{
    duration,
    fields::{self, Fields, Shape, Spoken},
    route,
    tree::Node,
};
use crate::{
    model::{self, ResilienceOverrides, TrafficPolicySpec},
    wire::Findings,
};

pub(super) const SPEC: Shape = Shape {
    known: &["targetRefs", "timeouts", "retry", "retryBudget", "outlier", "limits"],
    elsewhere: &["targetRef"],
};
const TARGET: Shape =
    Shape { known: &["name", "port", "kind"], elsewhere: &["group", "namespace", "sectionName"] };
const TIMEOUTS: Shape = Shape { known: &["request", "perTry", "connect", "idle"], elsewhere: &[] };
const RETRY: Shape = Shape { known: &["attempts", "statuses", "onReset", "backoff"], elsewhere: &[] };
const BACKOFF: Shape = Shape { known: &["base", "max"], elsewhere: &[] };
const BUDGET: Shape = Shape { known: &["percent", "interval", "minPerSecond"], elsewhere: &[] };
const OUTLIER: Shape = Shape {
    known: &["consecutiveFailures", "baseEjection", "maxEjection", "maxEjectedPercent"],
    elsewhere: &[],
};
const LIMITS: Shape = Shape { known: &["connections", "requests", "pending"], elsewhere: &[] };

pub(super) fn read(findings: &mut Findings, spoken: &Spoken, fields: Fields<'_>) -> Message {
    let resilience = Resilience {
        timeouts: fields.map(findings, spoken, ("timeouts", &TIMEOUTS), timeouts),
        retry: fields
            .map(findings, spoken, ("retry", &RETRY), |findings, fields| retry(findings, spoken, fields)),
        retry_budget: fields.map(findings, spoken, ("retryBudget", &BUDGET), budget),
        outlier: fields.map(findings, spoken, ("outlier", &OUTLIER), outlier),
        limits: fields.map(findings, spoken, ("limits", &LIMITS), limits),
    };
    Message {
        targets: fields.list(findings, "targetRefs", |findings, node| target(findings, spoken, node)),
        resilience: Some(resilience),
    }
}

fn target(findings: &mut Findings, spoken: &Spoken, node: &Node) -> TargetRef {
    let Some(fields) = Fields::open(findings, spoken, node, &TARGET) else {
        return TargetRef::default();
    };
    route::only_services(findings, fields);
    TargetRef { name: fields.text(findings, "name"), port: fields.port(findings, "port") }
}

fn timeouts(findings: &mut Findings, fields: Fields<'_>) -> Timeouts {
    Timeouts {
        request: fields.duration(findings, "request"),
        per_try: fields.duration(findings, "perTry"),
        connect: fields.duration(findings, "connect"),
        idle: fields.duration(findings, "idle"),
    }
}

fn retry(findings: &mut Findings, spoken: &Spoken, fields: Fields<'_>) -> Retry {
    // An empty list is no list that is missing.
    let statuses = fields.get("statuses").map(|_| Statuses {
        codes: fields.list(findings, "statuses", |findings, node| {
            // A finding already; 0 is none to the decoder either.
            fields::number(findings, "", node).unwrap_or_default()
        }),
    });
    Retry {
        attempts: fields.number(findings, "attempts"),
        statuses,
        on_reset: fields.truth(findings, "onReset"),
        backoff: fields.map(findings, spoken, ("backoff", &BACKOFF), |findings, fields| Backoff {
            base: fields.duration(findings, "base"),
            max: fields.duration(findings, "max"),
        }),
    }
}

fn budget(findings: &mut Findings, fields: Fields<'_>) -> RetryBudget {
    RetryBudget {
        percent: fields.number(findings, "percent"),
        interval: fields.duration(findings, "interval"),
        min_per_second: fields.number(findings, "minPerSecond"),
    }
}

fn outlier(findings: &mut Findings, fields: Fields<'_>) -> Outlier {
    Outlier {
        consecutive_failures: fields.number(findings, "consecutiveFailures"),
        base_ejection: fields.duration(findings, "baseEjection"),
        max_ejection: fields.duration(findings, "maxEjection"),
        max_ejected_percent: fields.number(findings, "maxEjectedPercent"),
    }
}

fn limits(findings: &mut Findings, fields: Fields<'_>) -> TrafficLimits {
    TrafficLimits {
        connections: fields.number(findings, "connections"),
        requests: fields.number(findings, "requests"),
        pending: fields.number(findings, "pending"),
    }
}

/// A part that its author wrote is rendered whole, with what he left out of it.
pub(super) fn render(spec: &TrafficPolicySpec) -> Value {
    let ResilienceOverrides { timeouts, retry, budget, outlier, limits } = &spec.overrides;
    let parts = [
        ("targetRefs", Some(spec.targets.iter().map(render_target).collect())),
        ("timeouts", (*timeouts != model::Timeouts::default()).then(|| render_timeouts(timeouts))),
        ("retry", retry.as_ref().map(render_retry)),
        ("retryBudget", budget.as_ref().map(render_budget)),
        ("outlier", outlier.as_ref().map(render_outlier)),
        ("limits", limits.as_ref().map(render_limits)),
    ];
    let parts = parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?)));
    Value::Object(parts.collect())
}

fn render_target(target: &model::TargetRef) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), target.name.as_str().into());
    if let Some(port) = target.port {
        fields.insert("port".to_owned(), port.into());
    }
    Value::Object(fields)
}

fn render_timeouts(timeouts: &model::Timeouts) -> Value {
    let fields = [
        ("request", timeouts.request),
        ("perTry", timeouts.per_try),
        ("connect", timeouts.connect),
        ("idle", timeouts.idle),
    ];
    let fields = fields
        .into_iter()
        .filter_map(|(name, timeout)| Some((name.to_owned(), Value::from(duration::format(timeout?)))));
    Value::Object(fields.collect())
}

fn render_retry(retry: &model::Retry) -> Value {
    json!({
        "attempts": retry.attempts,
        "backoff": {
            "base": duration::format(retry.backoff_base),
            "max": duration::format(retry.backoff_max),
        },
        "onReset": retry.reset,
        "statuses": retry.statuses,
    })
}

fn render_budget(budget: &model::RetryBudget) -> Value {
    json!({
        "interval": duration::format(budget.interval),
        "minPerSecond": budget.min_per_second,
        "percent": budget.percent,
    })
}

fn render_outlier(outlier: &model::Outlier) -> Value {
    json!({
        "baseEjection": duration::format(outlier.base_ejection),
        "consecutiveFailures": outlier.consecutive_failures,
        "maxEjectedPercent": outlier.max_ejected_percent,
        "maxEjection": duration::format(outlier.max_ejection),
    })
}

fn render_limits(limits: &model::TrafficLimits) -> Value {
    json!({
        "connections": limits.connections,
        "pending": limits.pending,
        "requests": limits.requests,
    })
}
