//! Each decision on a request's path, ready to be made again and again: for nanoseconds and for instruction counts.

use std::{
    fmt,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::{
    balance::{Eligible, PeakEwma, pick},
    model::{HttpMatch, Name, PathMatch, RouteRule, ServiceName, WeightedBackend},
    names,
    outlier::Accrual,
    retry::Budget,
    route::{RequestHead, select, weighted},
    telemetry::{
        Histogram, Phase, PhaseTimes, timing,
        traces::{TraceId, Traces, trace_id},
    },
};

/// One decision.
pub struct Decision {
    /// What is decided.
    pub name: &'static str,
    /// Decides it once; false if it came out wrong, so that nothing is measured that does not work.
    pub decide: Box<dyn FnMut() -> bool>,
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision").field("name", &self.name).finish_non_exhaustive()
    }
}

fn decision(name: &'static str, decide: impl FnMut() -> bool + 'static) -> Decision {
    Decision { name, decide: Box::new(decide) }
}

/// All of them.
pub fn all() -> Vec<Decision> {
    let namespace = name("demo");
    vec![
        decision("names: price.demo.svc.cluster.local:80", move || {
            names::resolve(black_box("price.demo.svc.cluster.local:80"), &namespace, "cluster.local").is_ok()
        }),
        last_of("route: the only prefix", 1),
        last_of("route: the last of 10 prefixes", 10),
        last_of("route: the last of 100 prefixes", 100),
        one_of_two(),
        pick_of("balance: P2C of 2", 2),
        pick_of("balance: P2C of 100", 100),
        count_for_budget(),
        record(),
        write_timing(),
        read_timing(),
        read_trace(),
        stay(),
        call("telemetry: a call of a request in the application", 7),
        call("telemetry: a call of nobody", 0),
    ]
}

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

fn last_of(name: &'static str, count: usize) -> Decision {
    let (rules, path, headers) = (rules(count), format!("/v{}/quote", count - 1), HeaderMap::new());
    decision(name, move || {
        let head = RequestHead { method: &Method::GET, path: &path, query: None, headers: &headers };
        select(black_box(&rules), &head).is_some()
    })
}

fn one_of_two() -> Decision {
    let backends = [backend("price-v1", 90), backend("price-v2", 10)];
    decision("route: one of two weighted backends", move || {
        weighted(black_box(&backends), 0x9E37_79B9).is_some()
    })
}

/// Of endpoints that are healthy and were all answered by, as on the path of a request.
fn pick_of(name: &'static str, endpoints: usize) -> Decision {
    let eligible = Eligible::new((0..endpoints).map(|index| (index, 1)));
    let now = Instant::now();
    let states: Vec<_> = (0..endpoints)
        .map(|_| {
            let latency = PeakEwma::new(now);
            latency.record(now, Duration::from_millis(1));
            (Arc::new(Accrual::new(now)), latency)
        })
        .collect();
    decision(name, move || {
        let cost = |index: usize| {
            let (accrual, latency) = states.get(index)?;
            accrual.cost(now, latency.cost(now, index as u64))
        };
        pick(black_box(&eligible), cost, black_box([0x9E37_79B9_7F4A_7C15, 0x1234_5678_9ABC_DEF0])).is_some()
    })
}

fn count_for_budget() -> Decision {
    let now = Instant::now();
    let budget = Budget::new(now);
    decision("retry: count a request for the budget", move || {
        budget.request(black_box(now));
        true
    })
}

fn record() -> Decision {
    let histogram = Histogram::new();
    let mut phases = PhaseTimes::default();
    for phase in [Phase::ClientProxy, Phase::Network, Phase::ServerProxy, Phase::App, Phase::Stream] {
        phases.add(phase, Duration::from_micros(200));
    }
    decision("telemetry: record", move || {
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

fn write_timing() -> Decision {
    let figures = figures();
    decision("telemetry: write the timing header", move || !timing::encode(black_box(&figures)).is_empty())
}

fn read_timing() -> Decision {
    let header = timing::encode(&figures());
    decision("telemetry: read the timing header", move || timing::parse(black_box(&header)).is_ok())
}

fn read_trace() -> Decision {
    let traceparent = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    decision("telemetry: read the trace id", move || trace_id(black_box(&traceparent)).is_some())
}

/// As many requests in the application as a busy one has.
fn busy() -> Traces {
    let mut traces = Traces::default();
    for number in 1..=256_u128 {
        traces.enter(number.to_be_bytes());
    }
    traces
}

fn stay() -> Decision {
    let (mut traces, mut number, now) = (busy(), 1_u128 << 64, Instant::now());
    decision("telemetry: a request in the application and out", move || {
        number += 1;
        traces.enter(number.to_be_bytes()).is_some_and(|stay| {
            let _waiting = black_box(traces.waiting(stay, now, now));
            traces.leave(stay);
            true
        })
    })
}

/// Of the request with the trace `number`; 0: of none.
fn call(name: &'static str, number: u128) -> Decision {
    let (mut traces, now, trace): (_, _, TraceId) = (busy(), Instant::now(), number.to_be_bytes());
    decision(name, move || {
        let stay = traces.begin(black_box(trace), now);
        let found = stay.is_some();
        if let Some(stay) = stay {
            traces.end(stay, now);
        }
        found == (number != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_comes_out_right_and_has_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for Decision { name, mut decide } in all() {
            assert!(decide() && decide(), "{name}");
            assert!(names.insert(name), "{name}");
        }
    }
}
