//! How requests are retried, timed and limited: what an operator overrides, and what travels with an endpoint set. On the
//! wire a part is there or not; what is unset in one that is there is filled in here.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use outrigger_proto::mesh::v1alpha1 as proto;

use super::{
    Findings,
    limits::{self, MAX_SETUP_TIMEOUT, MIN_CONNECT_TIMEOUT},
    time::encode_duration,
};
use crate::model::{Outlier, Resilience, ResilienceOverrides, Retry, RetryBudget, Timeouts, TrafficLimits};

const MAX_ATTEMPTS: u32 = 10;
/// 429, and 500 to 599.
const MAX_STATUSES: usize = 101;
const PAUSE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
const BUDGET_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const MAX_RETRIES_PER_SECOND: u32 = 1_000;
const MAX_FAILURES: u32 = 1_000;
const BASE_EJECTION: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);
const MAX_EJECTION: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
/// Half of the endpoints must be left.
const MAX_EJECTED_PERCENT: u32 = 50;
const MAX_LIMIT: u32 = 1_000_000;

/// What the fields are called where their author sees them: on the wire, or in a document.
#[derive(Debug)]
pub(super) struct Vocabulary {
    per_try: &'static str,
    retry_budget: &'static str,
    min_per_second: &'static str,
    consecutive_failures: &'static str,
    base_ejection: &'static str,
    max_ejection: &'static str,
    max_ejected_percent: &'static str,
}

/// As in the messages of `outrigger.mesh`.
pub(super) const WIRE: Vocabulary = Vocabulary {
    per_try: "per_try",
    retry_budget: "retry_budget",
    min_per_second: "min_per_second",
    consecutive_failures: "consecutive_failures",
    base_ejection: "base_ejection",
    max_ejection: "max_ejection",
    max_ejected_percent: "max_ejected_percent",
};

/// As in a document.
pub(super) const DOCUMENT: Vocabulary = Vocabulary {
    per_try: "perTry",
    retry_budget: "retryBudget",
    min_per_second: "minPerSecond",
    consecutive_failures: "consecutiveFailures",
    base_ejection: "baseEjection",
    max_ejection: "maxEjection",
    max_ejected_percent: "maxEjectedPercent",
};

/// What is said in `wire`; a part that is wrong counts as not said, and is a finding.
pub(super) fn decode(
    findings: &mut Findings,
    words: &Vocabulary,
    wire: &proto::Resilience,
) -> ResilienceOverrides {
    fn part<W, T>(
        findings: &mut Findings,
        field: &str,
        wire: Option<&W>,
        decode: impl FnOnce(&mut Findings, &W) -> Option<T>,
    ) -> Option<T> {
        let wire = wire?;
        findings.within(field, |findings| decode(findings, wire))
    }
    let timeouts = part(findings, "timeouts", wire.timeouts.as_ref(), |findings, wire| {
        Some(timeouts(findings, words, wire))
    });
    ResilienceOverrides {
        timeouts: timeouts.unwrap_or_default(),
        retry: part(findings, "retry", wire.retry.as_ref(), retry),
        budget: part(findings, words.retry_budget, wire.retry_budget.as_ref(), |findings, wire| {
            budget(findings, words, wire)
        }),
        outlier: part(findings, "outlier", wire.outlier.as_ref(), |findings, wire| {
            outlier(findings, words, wire)
        }),
        limits: part(findings, "limits", wire.limits.as_ref(), traffic_limits),
    }
}

fn timeouts(findings: &mut Findings, words: &Vocabulary, wire: &proto::Timeouts) -> Timeouts {
    let request = whole(findings, "request", wire.request.as_ref(), limits::timeout);
    let per_try = whole(findings, words.per_try, wire.per_try.as_ref(), limits::timeout)
        // There is nothing above it that zero could override.
        .filter(|per_try| !per_try.is_zero());
    if let (Some(request), Some(per_try)) = (request.filter(|request| !request.is_zero()), per_try)
        && per_try > request
    {
        let (request, per_try) = (limits::describe(request), limits::describe(per_try));
        let message = format!("no attempt can take {per_try}: the whole request may take {request}");
        let remedy = format!("write at most {request}, or leave it out");
        findings.error(words.per_try, "conflict", message, &remedy);
    }
    let connect = whole(findings, "connect", wire.connect.as_ref(), |findings, field, value| {
        findings.duration(field, value, MIN_CONNECT_TIMEOUT, MAX_SETUP_TIMEOUT)
    });
    let idle = whole(findings, "idle", wire.idle.as_ref(), limits::timeout);
    Timeouts { request, per_try, connect, idle }
}

fn retry(findings: &mut Findings, wire: &proto::Retry) -> Option<Retry> {
    let said = Retry::enabled();
    let attempts = findings.number("attempts", wire.attempts.unwrap_or(said.attempts), 0, MAX_ATTEMPTS);
    let statuses = match &wire.statuses {
        Some(wire) => statuses(findings, &wire.codes),
        None => said.statuses,
    };
    let backoff = wire.backoff.unwrap_or_default();
    let (backoff_base, backoff_max) = findings.within("backoff", |findings| {
        let base = duration(findings, "base", backoff.base.as_ref(), (PAUSE, said.backoff_base));
        let max = duration(findings, "max", backoff.max.as_ref(), (PAUSE, said.backoff_max));
        at_most(findings, ("base", base), ("max", max))
    })?;
    Some(Retry {
        attempts: attempts?,
        statuses,
        reset: wire.on_reset.unwrap_or(said.reset),
        backoff_base,
        backoff_max,
    })
}

fn statuses(findings: &mut Findings, codes: &[u32]) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::new();
    findings.each("statuses", codes, MAX_STATUSES, |findings, code| {
        match u16::try_from(*code).ok().filter(|status| matches!(status, 429 | 500..=599)) {
            Some(status) if !statuses.insert(status) => {
                findings.error("", "duplicate", format!("{status} is given twice"), "write it once");
            }
            Some(_) => {}
            None => {
                let message = format!("{code} is no status that trying again could mend");
                findings.error("", "out_of_range", message, "write 429, or a number from 500 to 599");
            }
        }
        Some(())
    });
    statuses
}

fn budget(findings: &mut Findings, words: &Vocabulary, wire: &proto::RetryBudget) -> Option<RetryBudget> {
    let default = RetryBudget::default();
    let percent = findings.number("percent", wire.percent.unwrap_or(default.percent), 0, 100);
    let interval =
        duration(findings, "interval", wire.interval.as_ref(), (BUDGET_INTERVAL, default.interval));
    let min_per_second = wire.min_per_second.unwrap_or(default.min_per_second);
    let min_per_second = findings.number(words.min_per_second, min_per_second, 0, MAX_RETRIES_PER_SECOND);
    Some(RetryBudget { percent: percent?, interval: interval?, min_per_second: min_per_second? })
}

fn outlier(findings: &mut Findings, words: &Vocabulary, wire: &proto::Outlier) -> Option<Outlier> {
    let default = Outlier::default();
    let failures = wire.consecutive_failures.unwrap_or(default.consecutive_failures);
    let consecutive_failures = findings.number(words.consecutive_failures, failures, 0, MAX_FAILURES);
    let base = wire.base_ejection.as_ref();
    let base = duration(findings, words.base_ejection, base, (BASE_EJECTION, default.base_ejection));
    let max = wire.max_ejection.as_ref();
    let max = duration(findings, words.max_ejection, max, (MAX_EJECTION, default.max_ejection));
    let ejections = at_most(findings, (words.base_ejection, base), (words.max_ejection, max));
    let percent = wire.max_ejected_percent.unwrap_or(default.max_ejected_percent);
    let max_ejected_percent = findings.number(words.max_ejected_percent, percent, 0, MAX_EJECTED_PERCENT);
    let (base_ejection, max_ejection) = ejections?;
    Some(Outlier {
        consecutive_failures: consecutive_failures?,
        base_ejection,
        max_ejection,
        max_ejected_percent: max_ejected_percent?,
    })
}

fn traffic_limits(findings: &mut Findings, wire: &proto::TrafficLimits) -> Option<TrafficLimits> {
    let default = TrafficLimits::default();
    let connections =
        findings.number("connections", wire.connections.unwrap_or(default.connections), 1, MAX_LIMIT);
    let requests = findings.number("requests", wire.requests.unwrap_or(default.requests), 1, MAX_LIMIT);
    let pending = findings.number("pending", wire.pending.unwrap_or(default.pending), 0, MAX_LIMIT);
    Some(TrafficLimits { connections: connections?, requests: requests?, pending: pending? })
}

/// What `decode` makes of it, if it is a whole number of milliseconds.
fn whole(
    findings: &mut Findings,
    field: &str,
    wire: Option<&prost_types::Duration>,
    decode: impl FnOnce(&mut Findings, &str, Option<&prost_types::Duration>) -> Option<Duration>,
) -> Option<Duration> {
    let value = decode(findings, field, wire);
    limits::whole_milliseconds(findings, field, value);
    value
}

/// A duration of `range`, or `default` when there is none.
fn duration(
    findings: &mut Findings,
    field: &str,
    wire: Option<&prost_types::Duration>,
    (range, default): (RangeInclusive<Duration>, Duration),
) -> Option<Duration> {
    if wire.is_none() {
        return Some(default);
    }
    whole(findings, field, wire, |findings, field, wire| {
        findings.duration(field, wire, *range.start(), *range.end())
    })
}

/// Both, if the first is not above the second. One may be there by default: its author then did not think of it.
fn at_most(
    findings: &mut Findings,
    (field, base): (&str, Option<Duration>),
    (upper, max): (&str, Option<Duration>),
) -> Option<(Duration, Duration)> {
    let (base, max) = (base?, max?);
    if base <= max {
        return Some((base, max));
    }
    let (base, max) = (limits::describe(base), limits::describe(max));
    let remedy = format!("write at most {max}, or at least {base} for {upper}");
    findings.error(field, "conflict", format!("{base} is more than {upper}, which is {max}"), &remedy);
    None
}

/// What differs from the default; `None` when nothing does.
pub(super) fn encode(resilience: &Resilience) -> Option<proto::Resilience> {
    fn unless_default<T: Clone + Default + PartialEq>(part: &T) -> Option<T> {
        (*part != T::default()).then(|| part.clone())
    }
    let Resilience { timeouts, retry, budget, outlier, limits } = resilience;
    (*resilience != Resilience::default()).then(|| {
        let overrides = ResilienceOverrides {
            timeouts: timeouts.clone(),
            retry: unless_default(retry),
            budget: unless_default(budget),
            outlier: unless_default(outlier),
            limits: unless_default(limits),
        };
        (&overrides).into()
    })
}

impl From<&ResilienceOverrides> for proto::Resilience {
    fn from(overrides: &ResilienceOverrides) -> Self {
        let timeouts = &overrides.timeouts;
        Self {
            timeouts: (*timeouts != Timeouts::default()).then(|| timeouts.into()),
            retry: overrides.retry.as_ref().map(Into::into),
            retry_budget: overrides.budget.as_ref().map(Into::into),
            outlier: overrides.outlier.as_ref().map(Into::into),
            limits: overrides.limits.as_ref().map(Into::into),
        }
    }
}

impl From<&Timeouts> for proto::Timeouts {
    fn from(timeouts: &Timeouts) -> Self {
        Self {
            request: timeouts.request.map(encode_duration),
            per_try: timeouts.per_try.map(encode_duration),
            connect: timeouts.connect.map(encode_duration),
            idle: timeouts.idle.map(encode_duration),
        }
    }
}

impl From<&Retry> for proto::Retry {
    fn from(retry: &Retry) -> Self {
        Self {
            attempts: Some(retry.attempts),
            statuses: Some(proto::Statuses {
                codes: retry.statuses.iter().copied().map(u32::from).collect(),
            }),
            on_reset: Some(retry.reset),
            backoff: Some(proto::Backoff {
                base: Some(encode_duration(retry.backoff_base)),
                max: Some(encode_duration(retry.backoff_max)),
            }),
        }
    }
}

impl From<&RetryBudget> for proto::RetryBudget {
    fn from(budget: &RetryBudget) -> Self {
        Self {
            percent: Some(budget.percent),
            interval: Some(encode_duration(budget.interval)),
            min_per_second: Some(budget.min_per_second),
        }
    }
}

impl From<&Outlier> for proto::Outlier {
    fn from(outlier: &Outlier) -> Self {
        Self {
            consecutive_failures: Some(outlier.consecutive_failures),
            base_ejection: Some(encode_duration(outlier.base_ejection)),
            max_ejection: Some(encode_duration(outlier.max_ejection)),
            max_ejected_percent: Some(outlier.max_ejected_percent),
        }
    }
}

impl From<&TrafficLimits> for proto::TrafficLimits {
    fn from(limits: &TrafficLimits) -> Self {
        Self {
            connections: Some(limits.connections),
            requests: Some(limits.requests),
            pending: Some(limits.pending),
        }
    }
}
