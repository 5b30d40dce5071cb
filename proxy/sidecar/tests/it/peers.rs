//! Who may talk to whom: mutual TLS with the right identity, or nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::model::Endpoint;
use outrigger_tls::{
    Bundle, Identity, mesh,
    testing::{Authority, Leaf},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::support::{
    GET, Options, Pair, Side, TRUST_DOMAIN, endpoint, log,
    raw::{Raw, Server, soon},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A sidecar that claims to be `demo/price` with `identity`.
async fn impostor(pair: &Pair, identity: Identity) -> (Side, Server, Endpoint) {
    let app = Server::listen().await;
    let side = Side::start(identity, &[app.address()], &Options::default());
    let endpoint = endpoint(side.path.inbound()[0], &pair.authority, "price");
    (side, app, endpoint)
}

async fn refused(pair: &Pair, generation: u64, endpoint: &Endpoint, reason: &str) {
    pair.publish(generation, pair.service(Vec::new()), std::slice::from_ref(endpoint));
    let mut client = pair.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "), "{reason}");
    let address = client.address().to_string();
    log::line(&[("downstream.addr", &address), ("reason", "peer_rejected")]).await;
    log::line(&[("upstream.addr", &endpoint.address.to_string()), ("reason", reason)]).await;
    let metric = format!("outrigger_peers_rejected_total{{direction=\"outbound\",reason=\"{reason}\"}}");
    assert!(pair.front.metric(&metric) >= 1.0, "{}", pair.front.metrics());
}

#[tokio::test]
async fn an_upstream_must_prove_to_be_whom_the_endpoint_set_names() {
    let pair = Pair::start().await;
    let other = pair.authority.identity(pair.authority.workload("demo", "other"));
    let (_side, app, endpoint) = impostor(&pair, other).await;
    refused(&pair, 2, &endpoint, "unexpected_identity").await;
    assert!(!app.is_called().await);
}

#[tokio::test]
async fn an_upstream_of_another_authority_or_trust_domain_is_refused() {
    let pair = Pair::start().await;
    for (generation, domain, reason) in
        [(2, TRUST_DOMAIN, "unknown_authority"), (3, "elsewhere.example", "wrong_trust_domain")]
    {
        let authority = Authority::new(domain);
        let identity = authority.identity(authority.workload("demo", "price"));
        let (_side, _app, endpoint) = impostor(&pair, identity).await;
        refused(&pair, generation, &endpoint, reason).await;
    }
}

#[tokio::test]
async fn an_upstream_whose_certificate_has_expired_is_refused() {
    let pair = Pair::start().await;
    let mut leaf = Leaf::of(&pair.authority.workload_id("demo", "price"));
    leaf.not_after = SystemTime::now() - Duration::from_secs(60);
    let identity = pair.authority.identity(pair.authority.issue(&leaf));
    let (_side, _app, endpoint) = impostor(&pair, identity).await;
    refused(&pair, 2, &endpoint, "expired").await;
}

/// Shakes hands with `price`'s inbound listener as `identity`; says from where, and what came back.
async fn call(pair: &Pair, identity: &Identity, alpn: &[&[u8]]) -> (String, std::io::Result<String>) {
    call_with(pair, identity, alpn, GET).await
}

async fn call_with(
    pair: &Pair,
    identity: &Identity,
    alpn: &[&[u8]],
    request: &str,
) -> (String, std::io::Result<String>) {
    let expected = [pair.authority.workload_id("demo", "price")];
    let config = mesh::client_config(identity, expected, alpn);
    let stream = TcpStream::connect(pair.price.path.inbound()[0]).await.unwrap();
    let from = stream.local_addr().unwrap().to_string();
    let talk = async {
        let connector = TlsConnector::from(config);
        let mut stream = soon("a handshake", connector.connect(mesh::server_name(), stream)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(4096);
        soon("an answer", stream.read_buf(&mut answer)).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    (from, talk.await)
}

#[tokio::test]
async fn a_downstream_that_is_no_workload_of_the_mesh_is_refused_counted_and_logged() {
    let pair = Pair::start().await;
    let foreign = Authority::new(TRUST_DOMAIN);
    let elsewhere = Authority::new("elsewhere.example");
    let mut expired = Leaf::of(&pair.authority.workload_id("demo", "front"));
    expired.not_after = SystemTime::now() - Duration::from_secs(60);
    for (svid, reason) in [
        (foreign.workload("demo", "front"), "unknown_authority"),
        (elsewhere.workload("demo", "front"), "wrong_trust_domain"),
        (pair.authority.issue(&expired), "expired"),
        (pair.authority.operator("admin"), "reserved_id"),
        (pair.authority.control_plane(), "reserved_id"),
    ] {
        // It trusts the mesh; the mesh does not trust it.
        let identity = pair.authority.identity(svid);
        let metric = format!("outrigger_peers_rejected_total{{direction=\"inbound\",reason=\"{reason}\"}}");
        let before = pair.price.metric(&metric);
        let (from, answer) = call(&pair, &identity, &[mesh::ALPN_H1]).await;
        assert!(answer.is_err() || answer.as_deref().is_ok_and(str::is_empty), "{reason}: {answer:?}");
        log::line(&[("message", "peer rejected"), ("downstream.addr", &from), ("reason", reason)]).await;
        assert!(pair.price.metric(&metric) > before, "{reason}: {}", pair.price.metrics());
    }
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn plain_text_strangers_and_other_protocols_do_not_pass_the_inbound_listener() {
    let pair = Pair::start().await;
    let mut plain = Raw::connect(pair.price.path.inbound()[0]).await;
    plain.send(GET).await;
    assert!(!String::from_utf8_lossy(&plain.rest().await.0).contains("HTTP/1.1"));
    let nobody = Identity::empty();
    nobody.set_bundle(pair.authority.bundle());
    let (_, answer) = call(&pair, &nobody, &[mesh::ALPN_H1]).await;
    assert!(answer.is_err() || answer.as_deref().is_ok_and(str::is_empty), "{answer:?}");
    for alpn in [&[][..], &[b"http/1.1".as_slice()], &[b"h2".as_slice()]] {
        let (_, answer) = call(&pair, &pair.front.identity, alpn).await;
        assert!(answer.is_err() || answer.as_deref().is_ok_and(str::is_empty), "{alpn:?}: {answer:?}");
    }
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn what_a_peer_may_not_send_either_is_refused_by_the_inbound_listener_itself() {
    let pair = Pair::start().await;
    for (headers, status, reason) in [
        ("transfer-encoding: chunked\r\n\r\nzz\r\nhello", 400, "bad_request"),
        ("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello", 400, "bad_request"),
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: price\r\n{headers}");
        let (from, answer) = call_with(&pair, &pair.front.identity, &[mesh::ALPN_H1], &request).await;
        let answer = answer.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?}: {answer}");
        assert_eq!(crate::support::header(&answer, "connection"), Some("close"), "{answer}");
        log::line(&[("direction", "inbound"), ("downstream.addr", &from), ("reason", reason)]).await;
    }
}

#[tokio::test]
async fn a_peer_that_starts_no_handshake_is_let_go() {
    let limits =
        outrigger_proxy::http::Limits { handshake_timeout: Duration::from_millis(100), ..Default::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let mut silent = Raw::connect(pair.price.path.inbound()[0]).await;
    assert_eq!(silent.rest().await.0, b"");
}

#[tokio::test]
async fn leaf_and_bundle_are_swapped_while_traffic_flows() {
    let pair = Pair::start().await;
    let opened = "outrigger_upstream_connections_opened_total{direction=\"outbound\"}";
    let (mut client, mut app) = pair.asked(GET).await;
    // In the middle of a request, on both sides.
    pair.front.identity.set_svid(pair.authority.workload("demo", "front"));
    pair.price.identity.set_svid(pair.authority.workload("demo", "price"));
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.send(GET).await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(pair.front.metric(opened), 2.0, "a connection of the old credential was used again");

    // Both roots are trusted before anybody uses the new one.
    let next = Authority::new(TRUST_DOMAIN);
    let both = || {
        let roots = vec![pair.authority.root_der(), next.root_der()];
        Bundle::new(TRUST_DOMAIN.parse().unwrap(), roots, 2).unwrap()
    };
    for side in [&pair.front, &pair.price] {
        side.identity.set_bundle(both());
    }
    pair.price.identity.set_svid(next.workload("demo", "price"));
    pair.front.identity.set_svid(next.workload("demo", "front"));
    client.send(GET).await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(pair.front.metric(opened), 3.0);
}

#[tokio::test]
async fn without_an_identity_nothing_crosses() {
    let pair = Pair::start().await;
    let side = Side::start(Identity::empty(), &[pair.app.address()], &Options::default());
    side.snapshot.publish(
        outrigger_proxy::snapshot::Builder::new(&side.states)
            .config(Arc::clone(pair.front.snapshot.load().config.as_ref().unwrap()))
            .endpoint_set(
                Arc::from("demo/price:80"),
                Arc::new(crate::support::endpoint_set(&[pair.endpoint()])),
            )
            .service(Arc::new(pair.service(Vec::new())))
            .build(1),
    );
    let mut client = Raw::connect(side.path.outbound()).await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert!(!pair.app.is_called().await);
}
