//! Each decision on a request's path, ready to be made again and again: for nanoseconds and for instruction counts.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::{
    balance::{Eligible, PeakEwma, pick},
    model::{HttpMatch, Name, PathMatch, RetryBudget, RouteRule, ServiceName, WeightedBackend},
    names,
    outlier::Accrual,
    retry::Budget,
    route::{RequestHead, select, weighted},
    telemetry::{
        Histogram, Phase, PhaseTimes, timing,
        traces::{TraceId, Traces, trace_id},
    },
};

/// Makes one decision; false if it came out wrong, so that nothing is measured that does not work.
pub type Decide = Box<dyn FnMut() -> bool>;

/// One decision.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    /// What is decided.
    pub name: &'static str,
    /// Makes what it needs: only of the one that is asked for, so that it costs the others nothing.
    pub prepare: fn() -> Decide,
}

/// All of them.
pub const ALL: &[Decision] = &[
    Decision { name: "names: price.demo.svc.cluster.local:80", prepare: resolve },
    Decision { name: "route: the only prefix", prepare: || last_of(1) },
    Decision { name: "route: the last of 10 prefixes", prepare: || last_of(10) },
    Decision { name: "route: the last of 100 prefixes", prepare: || last_of(100) },
    Decision { name: "route: one of two weighted backends", prepare: one_of_two },
    Decision { name: "balance: P2C of 2", prepare: || pick_of(2) },
    Decision { name: "balance: P2C of 100", prepare: || pick_of(100) },
    Decision { name: "retry: count a request for the budget", prepare: count_for_budget },
    Decision { name: "retry: ask the budget for a retry", prepare: ask_the_budget },
    Decision { name: "telemetry: record", prepare: record },
    Decision { name: "telemetry: write the timing header", prepare: write_timing },
    Decision { name: "telemetry: read the timing header", prepare: read_timing },
    Decision { name: "telemetry: read the trace id", prepare: read_trace },
    Decision { name: "telemetry: a request in the application and out", prepare: stay },
    Decision { name: "telemetry: a call of a request in the application", prepare: call },
    Decision { name: "telemetry: a call of nobody", prepare: call_of_nobody },
];

#[expect(clippy::expect_used, reason = "constants of this file")]
fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn backend(service: &str, weight: u32) -> WeightedBackend {
    let service = ServiceName { namespace: name("demo"), name: name(service) };
    WeightedBackend { endpoint_set: format!("{service}:80").into(), service, port: 80, weight }
}

/// `count` rules for `/v0`, `/v1`, ... of which the last covers.
fn rules(count: usize) -> Vec<RouteRule> {
    (0..count)
        .map(|index| RouteRule {
            name: format!("demo/route#{index}").into(),
            condition: HttpMatch {
                path: Some(PathMatch::Prefix(format!("/v{index}"))),
                ..HttpMatch::default()
            },
            filters: Vec::new(),
            backends: vec![backend("price-v1", 90), backend("price-v2", 10)],
            request_timeout: None,
        })
        .collect()
}

fn resolve() -> Decide {
    let namespace = name("demo");
    Box::new(move || {
        names::resolve(black_box("price.demo.svc.cluster.local:80"), &namespace, "cluster.local").is_ok()
    })
}

fn last_of(count: usize) -> Decide {
    let (rules, path, headers) = (rules(count), format!("/v{}/quote", count - 1), HeaderMap::new());
    Box::new(move || {
        let head = RequestHead { method: &Method::GET, path: &path, query: None, headers: &headers };
        select(black_box(&rules), &head).is_some()
    })
}

fn one_of_two() -> Decide {
    let backends = [backend("price-v1", 90), backend("price-v2", 10)];
    Box::new(move || weighted(black_box(&backends), 0x9E37_79B9).is_some())
}

/// Of endpoints that are healthy and were all answered by, as on the path of a request.
fn pick_of(endpoints: usize) -> Decide {
    let eligible = Eligible::new((0..endpoints).map(|index| (index, 1)));
    let now = Instant::now();
    let states: Vec<_> = (0..endpoints)
        .map(|_| {
            let latency = PeakEwma::new(now);
            latency.record(now, Duration::from_millis(1));
            (Arc::new(Accrual::new(now)), latency)
        })
        .collect();
    Box::new(move || {
        let cost = |index: usize| {
            let (accrual, latency) = states.get(index)?;
            accrual.cost(now, latency.cost(now, index as u64))
        };
        pick(black_box(&eligible), cost, black_box([0x9E37_79B9_7F4A_7C15, 0x1234_5678_9ABC_DEF0])).is_some()
    })
}

fn count_for_budget() -> Decide {
    let now = Instant::now();
    let budget = Budget::new(now);
    Box::new(move || {
        budget.request(black_box(now));
        true
    })
}

/// Refusing costs what granting does: both add the interval up.
fn ask_the_budget() -> Decide {
    let (policy, now) = (RetryBudget::default(), Instant::now());
    let budget = Budget::new(now);
    (0..100_000).for_each(|_| budget.request(now));
    let soon = now + Duration::from_secs(1);
    Box::new(move || {
        let _granted = black_box(budget.try_retry(black_box(soon), &policy));
        true
    })
}

fn record() -> Decide {
    let histogram = Histogram::new();
    let mut phases = PhaseTimes::default();
    for phase in [Phase::ClientProxy, Phase::Network, Phase::ServerProxy, Phase::App, Phase::Stream] {
        phases.add(phase, Duration::from_micros(200));
    }
    Box::new(move || {
        histogram.record(black_box(Duration::from_millis(1)), &phases, None);
        true
    })
}

fn figures() -> timing::Figures {
    timing::Figures {
        total: Duration::from_micros(900),
        upload: Duration::from_micros(10),
        app: Duration::from_micros(700),
        waiting: Some(Duration::from_micros(500)),
    }
}

fn write_timing() -> Decide {
    let figures = figures();
    Box::new(move || !timing::encode(black_box(&figures)).is_empty())
}

fn read_timing() -> Decide {
    let header = timing::encode(&figures());
    Box::new(move || timing::parse(black_box(&header)).is_ok())
}

fn read_trace() -> Decide {
    let traceparent = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    Box::new(move || trace_id(black_box(&traceparent)).is_some())
}

/// As many requests are in the application as a busy one has.
const IN_APPLICATION: u128 = 256;

fn busy() -> Traces {
    let mut traces = Traces::default();
    for number in 1..=IN_APPLICATION {
        traces.enter(number.to_be_bytes());
    }
    traces
}

fn stay() -> Decide {
    let (mut traces, mut number, now) = (busy(), 1_u128 << 64, Instant::now());
    Box::new(move || {
        number += 1;
        traces.enter(number.to_be_bytes()).is_some_and(|stay| {
            let _waiting = black_box(traces.waiting(stay, now, now));
            traces.leave(stay);
            true
        })
    })
}

/// Of each in turn: where the table has an entry depends on its seed.
fn call() -> Decide {
    let (mut traces, mut number, now) = (busy(), 0_u128, Instant::now());
    Box::new(move || {
        number = number % IN_APPLICATION + 1;
        let known: TraceId = number.to_be_bytes();
        traces.begin(black_box(known), now).map(|stay| traces.end(stay, now)).is_some()
    })
}

fn call_of_nobody() -> Decide {
    let (mut traces, mut number, now) = (busy(), IN_APPLICATION, Instant::now());
    Box::new(move || {
        number += 1;
        traces.begin(black_box(number.to_be_bytes()), now).is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_comes_out_right_and_has_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for Decision { name, prepare } in ALL {
            let mut decide = prepare();
            assert!(decide() && decide(), "{name}");
            assert!(names.insert(name), "{name}");
        }
    }
}
