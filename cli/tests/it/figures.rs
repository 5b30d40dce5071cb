//! The commands that show figures: `hops` and `status SERVICE`.

use std::process::Output;

use outrigger_proto::{
    status::v1alpha1 as status,
    telemetry::v1alpha1::{
        Class, EndpointState,
        endpoint_state::{Ejected, Health, Healthy},
    },
};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::fake::Fake;

fn time(micros: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 0, nanos: micros * 1_000 })
}

fn hop(source: &str, destination: &str, depth: u32) -> status::Hop {
    let share = |phase: &str, micros| status::PhaseShare { phase: phase.to_owned(), time: time(micros) };
    status::Hop {
        source: format!("spiffe://outrigger.local/ns/demo/sa/{source}"),
        destination: destination.to_owned(),
        port: 80,
        depth,
        requests: 1_000,
        failures: 1,
        p50: time(1_300),
        p99: time(2_500),
        mean: time(1_400),
        mean_phases: vec![share("client_proxy", 40), share("connect", 0), share("app", 1_360)],
        slowest_mean: time(2_600),
        slowest_phases: vec![share("client_proxy", 50), share("connect", 0), share("app", 2_550)],
        slowest_requests: 10,
        ..status::Hop::default()
    }
}

fn chain() -> Vec<status::Hop> {
    let mut first = hop("front", "demo/price-v1", 0);
    first.mean_app = Some(status::AppSplit { requests: 1_000, own: time(160), waiting: time(1_200) });
    let mut second = hop("price", "demo/stock", 1);
    second.class = Class::Stream.into();
    vec![first, second]
}

fn set(fake: &Fake, hops: Vec<status::Hop>) {
    fake.script.lock().expect("the script").hops = hops;
}

#[tokio::test]
async fn hops_shows_where_the_time_went() {
    let fake = Fake::start().await;
    set(&fake, vec![hop("front", "demo/price-v1", 0)]);
    let ran = fake.run(&["hops"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in ["demo/front -> demo/price-v1", "99.90 %", "1.30ms", "CLIENT PROXY", "slowest 1 %", "2.55ms"]
    {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("CONNECT"), "a phase that took no time: {}", ran.stdout);
    let ran = fake.run(&["hops", "-o", "json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(printed["hops"][0]["mean"]["phases"]["app"], 1.36);
}

#[tokio::test]
async fn hops_of_a_service_draws_the_chain_behind_it() {
    let fake = Fake::start().await;
    set(&fake, chain());
    let ran = fake.run(&["hops", "demo/price", "--slowest", "0.1%"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[1].starts_with("demo/front -> demo/price-v1 "), "{}", ran.stdout);
    assert!(lines[2].starts_with("  demo/price -> demo/stock [stream] "), "{}", ran.stdout);
    for part in ["APP SELF", "DOWNSTREAM CALLS", "160µs", "1.20ms", "slowest 0.1 %"] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let asked = fake.script.lock().expect("the script").hops_asked.pop().expect("asked");
    assert_eq!((asked.service.as_str(), asked.slowest_ppm), ("demo/price", 1_000));
    let ran = fake.run(&["hops", "demo/price", "-o", "json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(printed["hops"][0]["mean"]["app"]["waiting"], 1.2);
    assert_eq!(printed["hops"][0]["class"], "request");
    assert_eq!((&printed["hops"][1]["class"], &printed["hops"][1]["depth"]), (&"stream".into(), &1.into()));
}

#[tokio::test]
async fn a_service_that_there_is_not_is_5_and_named() {
    let fake = Fake::start().await;
    for command in ["hops", "status"] {
        let ran = fake.run(&[command, "prise"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), ""), "{ran:?}");
        assert!(ran.stderr.contains("there is no service default/prise"), "{ran:?}");
    }
    assert_eq!(fake.run(&["hops", "demo/prise", "--watch"]).await.code, Some(5));
    assert_eq!(fake.run(&["hops", "Price"]).await.code, Some(2), "no name at all");
}

#[tokio::test]
async fn a_watch_shows_what_is_new_until_it_is_interrupted() {
    let fake = Fake::start().await;
    set(&fake, chain());
    let mut watch = fake.spawn(&["hops", "demo/price", "--watch"]);
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut blocks = 0;
    while blocks < 3 {
        let line = lines.next_line().await.expect("text").expect("it goes on");
        blocks += usize::from(line.starts_with("requests of the last "));
    }
    let pid = watch.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?)).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
    let Output { status, stderr, .. } = watch.wait_with_output().await.expect("it ends");
    assert!(status.success() && stderr.is_empty(), "{status}: {}", String::from_utf8_lossy(&stderr));
    let script = fake.script.lock().expect("the script");
    let since: Vec<&[u8]> = script.hops_asked.iter().map(|asked| asked.since.as_slice()).collect();
    // The third moment is forgotten: it starts anew.
    assert_eq!(since[..6], [&[][..], &[1], &[2], &[3], &[], &[5]]);
}

#[tokio::test]
async fn a_watch_for_programs_is_a_document_each_time() {
    let fake = Fake::start().await;
    set(&fake, chain());
    let mut watch = fake.spawn(&["hops", "--watch", "-o", "json"]);
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut text = String::new();
    let document = loop {
        text.push_str(&lines.next_line().await.expect("text").expect("it goes on"));
        if let Ok(document) = serde_json::from_str::<serde_json::Value>(&text) {
            break document;
        }
    };
    assert!(document["milliseconds"].as_f64().expect("how long") >= 1_000.0);
    assert_eq!(document["hops"].as_array().expect("hops").len(), 2);
}

#[tokio::test]
async fn status_of_a_service_shows_each_endpoint_as_each_proxy_sees_it() {
    let seen = |instance: &str, health| status::SeenEndpoint {
        node_id: format!("spiffe://outrigger.local/ns/demo/sa/front#{instance}"),
        age: Some(prost_types::Duration { seconds: 3, nanos: 400_000_000 }),
        state: Some(EndpointState {
            service: "demo/price".to_owned(),
            port: 80,
            address: "10.0.0.1:17006".to_owned(),
            workload: "demo/price-1".to_owned(),
            in_flight: 3,
            latency: time(1_310),
            connections: 2,
            health: Some(health),
        }),
    };
    let until = Some(prost_types::Duration { seconds: 24, nanos: 0 });
    let ejected = Ejected { reason: "consecutive_failures".to_owned(), until, times: 2 };
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").endpoints = status::ListEndpointsResponse {
        endpoints: vec![
            seen("front-1", Health::Healthy(Healthy {})),
            seen("front-2", Health::Ejected(ejected)),
        ],
        omitted: 0,
    };
    let ran = fake.run(&["status", "demo/price"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in [
        "demo/price: 1 endpoint as 2 proxies see them, 1 of 2 views not healthy; 6 requests in flight, 4 connections",
        "10.0.0.1:17006",
        "demo/front#front-2",
        "ejected for consecutive failures, 24s left, 2 times in a row",
        "1.31ms",
        "3s ago",
    ] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let ran = fake.run(&["status", "price.demo", "-o", "json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(printed["endpoints"][0]["health"]["state"], "healthy");
    let ejected = &printed["endpoints"][1]["health"];
    assert_eq!(
        (&ejected["reason"], &ejected["millisecondsLeft"]),
        (&"consecutive_failures".into(), &24_000.0.into())
    );
}
