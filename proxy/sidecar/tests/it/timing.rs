//! Where the time went: a delay that is put somewhere on purpose shows up there, and nowhere else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::support::{Pair, log};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const DELAY: Duration = Duration::from_millis(150);
/// What a loaded machine may add anywhere.
const NOISE: u64 = 60_000;

/// The phases of the request that is called so, microseconds.
async fn phases(request_id: &str) -> BTreeMap<String, u64> {
    let line = log::line(&[("request_id", request_id), ("direction", "outbound")]).await;
    let phases: BTreeMap<String, u64> = line["phases_us"]
        .split(' ')
        .map(|phase| phase.split_once('=').unwrap())
        .map(|(phase, time)| (phase.to_owned(), time.parse().unwrap()))
        .collect();
    let total: u64 = line["duration_us"].parse().unwrap();
    assert!(phases.values().sum::<u64>() <= total, "{line:?}");
    phases
}

fn only(phases: &BTreeMap<String, u64>, delayed: &str, at_least: Duration) {
    let at_least = u64::try_from(at_least.as_micros()).unwrap();
    for (phase, time) in phases {
        if phase == delayed {
            assert!((at_least..at_least + 4 * NOISE).contains(time), "{phase} is {time} of {phases:?}");
        } else {
            assert!(*time < NOISE, "{phase} is {time} of {phases:?}");
        }
    }
    assert!(phases.contains_key(delayed), "{delayed} is missing in {phases:?}");
}

/// The moment to be waited for is the measured quantity, so this waits in real time.
async fn delay() {
    let until = Instant::now() + DELAY;
    tokio::time::sleep_until(until.into()).await;
}

#[tokio::test]
async fn an_application_that_takes_its_time_is_charged_to_the_application() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: slow-app\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    delay().await;
    app.send(OK).await;
    client.head().await;
    only(&phases("slow-app").await, "app", DELAY);
    let metric = "outrigger_edge_phase_seconds_total{destination=\"demo/price\",port=\"80\",rule=\"\",class=\"request\",phase=\"app\"}";
    assert!(pair.front.metric(metric) >= DELAY.as_secs_f64(), "{}", pair.front.metrics());
    let text = pair.front.metrics();
    for line in [
        "# TYPE outrigger_edge_duration_seconds histogram",
        "# UNIT outrigger_edge_phase_seconds seconds",
        "outrigger_edge_duration_seconds_count{destination=\"demo/price\",port=\"80\",rule=\"\",class=\"request\"} 1",
        "outrigger_edge_duration_seconds_bucket{le=\"+Inf\",destination=\"demo/price\",port=\"80\",rule=\"\",class=\"request\"} 1",
        "outrigger_requests_total{direction=\"outbound\",status=\"2xx\",reason=\"\"} 1",
        "phase=\"unexplained\"}",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let edges = pair.front.telemetry.edges();
    assert_eq!((edges.len(), edges[0].requests, edges[0].failures, edges[0].total.count()), (1, 1, 0, 1));
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_charged_to_the_upload() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client
        .send("POST / HTTP/1.1\r\nhost: price\r\nx-request-id: slow-upload\r\ncontent-length: 2\r\n\r\na")
        .await;
    let mut app = pair.app.accept().await;
    app.head().await;
    delay().await;
    client.send("b").await;
    app.exactly(2).await;
    app.send(OK).await;
    client.head().await;
    only(&phases("slow-upload").await, "upload", DELAY);
}

#[tokio::test]
async fn an_application_that_streams_slowly_is_charged_to_the_stream() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: slow-stream\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
    client.head().await;
    delay().await;
    app.send("k").await;
    client.exactly(2).await;
    only(&phases("slow-stream").await, "stream", DELAY);
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_charged_to_the_stream() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: slow-reader\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    // More than all buffers on the way hold.
    let length = 32 << 20;
    app.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
    let body = vec![b'x'; length];
    let read = async {
        delay().await;
        client.head().await;
        client.exactly(length).await;
    };
    tokio::join!(app.send(&body), read);
    let phases = phases("slow-reader").await;
    assert!(phases["stream"] >= u64::try_from(DELAY.as_micros()).unwrap(), "{phases:?}");
}

#[tokio::test]
async fn a_handshake_that_hangs_is_charged_to_the_connection() {
    let pair = Pair::start().await;
    // Between the two sidecars, a relay that opens late.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, inbound) = (relay.local_addr().unwrap(), pair.price.path.inbound()[0]);
    tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        delay().await;
        let mut far = tokio::net::TcpStream::connect(inbound).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    });
    let mut endpoint = pair.endpoint();
    endpoint.address = address;
    pair.publish(2, pair.service(Vec::new()), &[endpoint]);
    let mut client = pair.client().await;
    let request = "GET / HTTP/1.1\r\nhost: price\r\nx-request-id: slow-handshake\r\n\r\n";
    pair.exchange(&mut client, request, OK).await;
    only(&phases("slow-handshake").await, "connect", DELAY);
}

#[tokio::test]
async fn an_inbound_that_tells_no_figures_is_charged_to_the_upstream_and_never_to_the_network() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: no-figures\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    delay().await;
    // The inbound side is gone, and its figures with it.
    drop(pair.price);
    client.head().await;
    let phases = phases("no-figures").await;
    assert!(!phases.contains_key("network") && !phases.contains_key("app"), "{phases:?}");
    assert!(phases["upstream"] >= u64::try_from(DELAY.as_micros()).unwrap(), "{phases:?}");
}
