//! What each decision on a request's path costs.

use std::{
    hint::black_box,
    io,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method};
use outrigger_bench::{measure, report};
use outrigger_core::{
    balance::{Eligible, pick},
    model::{HttpMatch, Name, PathMatch, RouteRule, ServiceName, WeightedBackend},
    names,
    route::{RequestHead, select, weighted},
    telemetry::{
        Histogram, Phase, PhaseTimes, timing,
        traces::{TraceId, Traces, trace_id},
    },
};

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

fn main() -> io::Result<()> {
    let namespace = name("demo");
    report(
        "names: price.demo.svc.cluster.local:80",
        measure(|| {
            names::resolve(black_box("price.demo.svc.cluster.local:80"), &namespace, "cluster.local").is_ok()
        }),
    )?;

    let headers = HeaderMap::new();
    for count in [1, 10, 100] {
        let rules = rules(count);
        let path = format!("/v{}/quote", count - 1);
        let head = RequestHead { method: &Method::GET, path: &path, query: None, headers: &headers };
        report(
            &format!("route: the last of {count} prefixes"),
            measure(|| select(black_box(&rules), &head).is_some()),
        )?;
    }
    let backends = [backend("price-v1", 90), backend("price-v2", 10)];
    report(
        "route: one of two weighted backends",
        measure(|| weighted(black_box(&backends), 0x9E37_79B9).is_some()),
    )?;

    for endpoints in [2, 100] {
        let eligible = Eligible::new((0..endpoints).map(|index| (index, 1)));
        report(
            &format!("balance: P2C of {endpoints}"),
            measure(|| {
                pick(
                    black_box(&eligible),
                    |index| index as u64,
                    [0x9E37_79B9_7F4A_7C15, 0x1234_5678_9ABC_DEF0],
                )
            }),
        )?;
    }

    let histogram = Histogram::new();
    let mut phases = PhaseTimes::default();
    for phase in [Phase::ClientProxy, Phase::Network, Phase::ServerProxy, Phase::App, Phase::Stream] {
        phases.add(phase, Duration::from_micros(200));
    }
    report(
        "telemetry: record",
        measure(|| histogram.record(black_box(Duration::from_millis(1)), &phases, None)),
    )?;
    let figures = timing::Figures {
        total: Duration::from_micros(900),
        upload: Duration::from_micros(10),
        app: Duration::from_micros(700),
        waiting: Some(Duration::from_micros(500)),
    };
    let header = timing::encode(&figures);
    report("telemetry: write the timing header", measure(|| timing::encode(black_box(&figures))))?;
    report("telemetry: read the timing header", measure(|| timing::parse(black_box(&header)).is_ok()))?;

    let traceparent = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    report("telemetry: read the trace id", measure(|| trace_id(black_box(&traceparent))))?;
    // As many requests in the application as a busy one has.
    let mut traces = Traces::default();
    for number in 1..=256_u128 {
        traces.enter(number.to_be_bytes());
    }
    let (mut number, now) = (1_u128 << 64, Instant::now());
    report(
        "telemetry: a request in the application and out",
        measure(|| {
            number += 1;
            traces.enter(number.to_be_bytes()).map(|stay| {
                let waiting = traces.waiting(stay, now, now);
                traces.leave(stay);
                waiting
            })
        }),
    )?;
    let known: TraceId = 7_u128.to_be_bytes();
    report(
        "telemetry: a call of a request in the application",
        measure(|| traces.begin(black_box(known), now).map(|stay| traces.end(stay, now))),
    )?;
    report(
        "telemetry: a call of nobody",
        measure(|| traces.begin(black_box(TraceId::default()), now).is_none()),
    )
}
