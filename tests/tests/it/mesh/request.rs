//! One request over one hop: identity, headers, refusals, telemetry.

use http_body_util::Full;
use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::PRICE;
use crate::support::{Application, Client, Mesh, process::eventually};

#[tokio::test]
async fn a_request_crosses_two_sidecars_as_the_workload_that_sent_it() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let _price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();

    let request = Request::post("http://price/quote?of=tea")
        .header("x-forwarded-client-cert", "forged")
        .header("outrigger-anything", "forged")
        .header("x-own", "kept")
        .body(Full::from("two cups"))
        .unwrap();
    let answer = front.client().send(request).await.unwrap();

    assert_eq!((answer.status, answer.text().as_str()), (200, "a price"));
    assert!(
        answer.headers.keys().all(|name| !name.as_str().starts_with("outrigger-")),
        "{:?}",
        answer.headers
    );
    let asked = app.asked();
    let [asked] = asked.as_slice() else { panic!("asked once: {asked:?}") };
    assert_eq!((asked.method().as_str(), asked.uri().to_string().as_str()), ("POST", "/quote?of=tea"));
    assert_eq!(asked.body().as_ref(), b"two cups");
    assert_eq!(asked.headers()["x-own"], "kept");
    assert!(!asked.headers().contains_key("outrigger-anything"));
    let caller = asked.headers()["x-forwarded-client-cert"].to_str().unwrap();
    assert!(caller.contains("spiffe://outrigger.local/ns/demo/sa/front"), "{caller}");
    assert!(asked.headers().contains_key("traceparent") && asked.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn every_form_of_a_mesh_name_reaches_the_service_and_nothing_else_is_proxied() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let _price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();

    for name in
        ["price", "price.demo", "price.demo.mesh", "price.demo.svc.cluster.local", "price.demo.mesh:80"]
    {
        let answer = front.client().get(&format!("http://{name}/")).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    let direct = format!("http://{}/", app.address);
    for (url, reason) in [
        ("http://nobody.demo.mesh/", "unknown_service"),
        ("http://price.demo.mesh:81/", "unknown_service"),
        (direct.as_str(), "external_denied"),
        ("http://example.com/", "external_denied"),
    ] {
        let answer = front.client().get(url).await.unwrap();
        assert!(
            answer.status >= 400 && answer.text().contains(reason),
            "{url}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert_eq!(app.asked().len(), 5);
}

#[tokio::test]
async fn an_inbound_pair_answers_only_the_mesh() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let inbound = price.inbound.unwrap();

    let mut plain = tokio::net::TcpStream::connect(inbound).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: price\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    assert!(app.asked().is_empty());

    eventually("count of the failed handshake", async || {
        let counted = "outrigger_handshakes_failed_total{direction=\"inbound\"} 1";
        price.metrics().await.lines().any(|line| line == counted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hop_is_measured_logged_and_shown() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let _price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    for _ in 0..20 {
        assert_eq!(front.client().get("http://price/").await.unwrap().status, 200);
    }

    let metrics = front.metrics().await;
    assert!(metrics.contains("outrigger_") && metrics.contains("demo/price"), "{metrics}");
    assert!(metrics.trim_end().ends_with("# EOF"), "OpenMetrics ends with # EOF");
    let hops = eventually("hop at the control plane", async || {
        let hops = mesh.outrigger(&["hops", "-o", "json"]).await.json();
        hops.to_string().contains("\"demo/price\"").then_some(hops)
    })
    .await;
    assert!(hops.to_string().contains("server_proxy"), "{hops}");
    let logged = front.log();
    let access = logged.lines().filter(|line| line.contains("demo/price") && line.contains("200")).count();
    assert!(access >= 20, "{logged}");
    assert!(Client::direct().get(&format!("http://{}/live", front.health)).await.unwrap().status == 200);
}

#[tokio::test]
async fn what_the_parser_refuses_is_in_the_log_and_nothing_else_that_it_says() {
    let mesh = Mesh::start().await;
    let front = mesh.join("front-1", "front", &[], None).await;
    let mut client = tokio::net::TcpStream::connect(front.outbound).await.unwrap();
    // Settings, an answer to a ping that nobody sent, and a request of which there is only a path.
    let frames = [
        &b"\0\0\0\x04\0\0\0\0\0"[..],
        b"\0\0\x08\x06\x01\0\0\0\0whatever",
        b"\0\0\x01\x01\x05\0\0\0\x01\x84",
    ];
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frames.concat()).await.unwrap();

    let line = eventually("line of the log", async || {
        front.log().lines().find(|line| line.contains("HTTP/2 refused")).map(str::to_owned)
    })
    .await;
    for field in ["WARN", "outbound", "downstream", "malformed_head", "malformed headers: missing method"] {
        assert!(line.contains(field), "{field}: {line}");
    }
    let counted = front.metrics().await;
    assert!(counted.contains("ended=\"stream\",reason=\"malformed_head\"} 1\n"), "{counted}");
    let log = front.log();
    assert!(!log.contains("h2::"), "{log}");
}
