//! Peers that were trusted when they came: after a change of the bundle, or past the end of a certificate, their open
//! connections are closed, in both directions, and no others.

use std::time::{Duration, SystemTime};

use outrigger_core::model::Outgoing;
use outrigger_proxy::http::Limits;
use outrigger_tls::{
    Bundle, Svid,
    testing::{Authority, Leaf},
};

use crate::support::{GET, Options, Pair, TRUST_DOMAIN, header, raw::Raw};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const OPENED: &str = "outrigger_upstream_connections_opened_total{direction=\"outbound\"}";

/// Peers are judged at once, and what is in flight then may take `grace`.
async fn pair(grace: Duration) -> Pair {
    let limits = Limits { distrust_spread: Duration::ZERO, distrust_grace: grace, ..Limits::default() };
    Pair::with(&Options { limits, ..Options::default() }).await
}

const LONG: Duration = Duration::from_secs(3600);

fn distrusted(direction: &str, reason: &str) -> String {
    format!("outrigger_connections_distrusted_total{{direction=\"{direction}\",reason=\"{reason}\"}}")
}

fn bundle(authorities: &[&Authority]) -> Bundle {
    let roots = authorities.iter().map(|authority| authority.root_der()).collect();
    Bundle::new(TRUST_DOMAIN.parse().unwrap(), roots, 2).unwrap()
}

/// The public key of an authority, as bundles name it.
fn key(authority: &Authority) -> [u8; 32] {
    outrigger_tls::spki_sha256(&authority.root_der()).unwrap()
}

/// Expires while the test runs.
fn short_lived(authority: &Authority, account: &str) -> Svid {
    let mut leaf = Leaf::of(&authority.workload_id("demo", account));
    leaf.not_after = SystemTime::now() + Duration::from_secs(2);
    authority.issue(&leaf)
}

/// An exchange on connections that are there.
async fn once_more(client: &mut Raw, app: &mut Raw) {
    client.send(GET).await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    crate::support::raw::soon(what, waiting).await;
}

#[tokio::test]
async fn an_inbound_connection_whose_authority_is_gone_finishes_its_request_and_is_closed() {
    let pair = pair(LONG).await;
    let (mut client, mut app) = pair.asked(GET).await;
    let next = Authority::new(TRUST_DOMAIN);
    // `front` still trusts `price`; `price` no longer trusts `front`.
    pair.price.identity.set_bundle(next.bundle());
    until("the judgement", || pair.price.metric(&distrusted("inbound", "unknown_authority")) == 1.0).await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    // The next request would have to shake hands anew, which is refused.
    client.send(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_connection_of_one_request_at_a_time_takes_none_more_from_a_peer_that_is_not_believed() {
    const CHUNKED: &str =
        "POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let pair = pair(LONG).await;
    let mut client = pair.client().await;
    client.send(CHUNKED).await;
    let mut app = pair.app.accept().await;
    app.until("0\r\n\r\n").await;
    app.send(OK).await;
    client.head().await;
    let next = Authority::new(TRUST_DOMAIN);
    pair.price.identity.set_bundle(next.bundle());
    until("the judgement", || pair.price.metric(&distrusted("inbound", "unknown_authority")) == 1.0).await;
    // In a drain it would have a moment for what is on its way.
    client.send(CHUNKED).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_request_that_takes_longer_than_the_grace_is_cut() {
    let pair = pair(Duration::ZERO).await;
    let (mut client, mut app) = pair.asked(GET).await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    client.until("abc").await;
    pair.price.identity.set_bundle(Authority::new(TRUST_DOMAIN).bundle());
    let (rest, end) = client.rest().await;
    assert_eq!((rest, end), (Vec::new(), crate::support::raw::End::Reset));
    app.rest().await;
}

#[tokio::test]
async fn a_pooled_connection_whose_authority_is_gone_takes_no_request_more() {
    let pair = pair(LONG).await;
    let mut client = pair.client().await;
    pair.exchange(&mut client, GET, OK).await;
    assert_eq!(pair.front.metric(OPENED), 1.0);
    let next = Authority::new(TRUST_DOMAIN);
    pair.front.identity.set_bundle(next.bundle());
    until("the judgement", || pair.front.metric(&distrusted("outbound", "unknown_authority")) == 1.0).await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_bundle_that_still_vouches_for_the_peer_closes_nothing() {
    let pair = pair(Duration::ZERO).await;
    let (mut client, mut app) = pair.asked(GET).await;
    app.send(OK).await;
    client.head().await;
    let next = Authority::new(TRUST_DOMAIN);
    for side in [&pair.front, &pair.price] {
        side.identity.set_bundle(bundle(&[&pair.authority, &next]));
    }
    for _ in 0..3 {
        once_more(&mut client, &mut app).await;
    }
    assert_eq!(pair.front.metric(OPENED), 1.0, "a connection was given up without need");
}

#[tokio::test]
async fn connections_end_with_the_certificates_they_were_opened_with() {
    let pair = pair(LONG).await;
    pair.front.identity.set_svid(short_lived(&pair.authority, "front"));
    pair.price.identity.set_svid(short_lived(&pair.authority, "price"));
    let mut client: Raw = pair.client().await;
    client.send(GET).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    // Renewed on both sides while the request is in flight; its connection knows the old ones only.
    pair.front.identity.set_svid(pair.authority.workload("demo", "front"));
    pair.price.identity.set_svid(pair.authority.workload("demo", "price"));
    until("the end of the caller's certificate", || {
        pair.price.metric(&distrusted("inbound", "expired")) == 1.0
    })
    .await;
    until("the end of the callee's certificate", || {
        pair.front.metric(&distrusted("outbound", "expired")) == 1.0
    })
    .await;
    app.send(OK).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(header(&head, "connection"), None, "the workload's own connection is none of it: {head}");
    once_more(&mut client, &mut app).await;
    assert_eq!(pair.front.metric(OPENED), 2.0);
}

#[tokio::test]
async fn a_tainted_certificate_takes_its_connections_along_once_there_is_a_better_one() {
    let pair = pair(LONG).await;
    let next = Authority::new(TRUST_DOMAIN);
    let mut client = pair.client().await;
    pair.exchange(&mut client, GET, OK).await;
    let tainted = Outgoing { tainted: vec![key(&pair.authority)], ..Outgoing::default() };
    for side in [&pair.front, &pair.price] {
        side.identity.set_bundle(bundle(&[&pair.authority, &next]).with_outgoing(tainted.clone()));
    }
    // Neither has another one yet: what would be gained?
    client.send(GET).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    assert_eq!(pair.front.metric(OPENED), 1.0);
    pair.front.identity.set_svid(next.workload("demo", "front"));
    until("the caller's end of it", || pair.front.metric(&distrusted("outbound", "tainted")) == 1.0).await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"), "what is in flight is finished");

    client.send(GET).await;
    app.head().await;
    assert_eq!(pair.front.metric(OPENED), 2.0);
    pair.price.identity.set_svid(next.workload("demo", "price"));
    until("the callee's end of it", || pair.price.metric(&distrusted("inbound", "tainted")) >= 1.0).await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"), "what is in flight is finished");
    once_more(&mut client, &mut app).await;
    assert_eq!(pair.front.metric(OPENED), 3.0);
}

#[tokio::test]
async fn a_revoked_intermediate_vouches_for_nobody_though_its_root_is_trusted() {
    let pair = pair(LONG).await;
    let mut client = pair.client().await;
    pair.exchange(&mut client, GET, OK).await;
    let trusted = bundle(&[&pair.authority]);
    let intermediate = pair.price.identity.svid().unwrap().authorities(&trusted)[0];
    let revoked = Outgoing { revoked: vec![intermediate], ..Outgoing::default() };
    pair.front.identity.set_bundle(trusted.with_outgoing(revoked));
    until("the judgement", || pair.front.metric(&distrusted("outbound", "revoked")) == 1.0).await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn what_is_revoked_in_haste_waits_for_no_turn() {
    let limits = Limits { distrust_spread: LONG, distrust_grace: LONG, ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let mut client = pair.client().await;
    pair.exchange(&mut client, GET, OK).await;
    let haste = Outgoing { at_once: true, ..Outgoing::default() };
    pair.front.identity.set_bundle(Authority::new(TRUST_DOMAIN).bundle().with_outgoing(haste));
    until("the judgement", || pair.front.metric(&distrusted("outbound", "unknown_authority")) == 1.0).await;
}

/// A caller that gives each of its peers a turn within the hour, and has one that waits for its own: the bundle changed.
struct Waiting {
    pair: Pair,
    client: Raw,
    app: Raw,
    /// Trusted by the caller as of the change.
    next: Authority,
}

impl Waiting {
    async fn begin() -> Self {
        let limits = Limits { distrust_spread: LONG, distrust_grace: LONG, ..Limits::default() };
        let pair = Pair::with(&Options { limits, ..Options::default() }).await;
        let (mut client, mut app) = pair.asked(GET).await;
        app.send(OK).await;
        client.head().await;
        let next = Authority::new(TRUST_DOMAIN);
        pair.front.identity.set_bundle(bundle(&[&pair.authority, &next]));
        let mut waiting = Self { pair, client, app, next };
        waiting.pass().await;
        waiting
    }

    /// Whoever was woken before has run when this is through.
    async fn pass(&mut self) {
        for _ in 0..3 {
            once_more(&mut self.client, &mut self.app).await;
        }
    }

    async fn until_distrusted(&self, reason: &str) {
        let figure = distrusted("outbound", reason);
        until("the judgement", || self.pair.front.metric(&figure) == 1.0).await;
    }
}

#[tokio::test]
async fn what_is_revoked_in_haste_overtakes_a_change_whose_turn_has_not_come() {
    let waiting = Box::pin(Waiting::begin()).await;
    let haste = Outgoing { at_once: true, ..Outgoing::default() };
    waiting.pair.front.identity.set_bundle(bundle(&[&waiting.next]).with_outgoing(haste));
    waiting.until_distrusted("unknown_authority").await;
}

#[tokio::test]
async fn a_better_certificate_takes_its_connections_along_before_the_turn_that_the_taint_gave_them() {
    let mut waiting = Box::pin(Waiting::begin()).await;
    let front = waiting.pair.front.identity.clone();
    let tainted = Outgoing { tainted: vec![key(&waiting.pair.authority)], ..Outgoing::default() };
    front.set_bundle(bundle(&[&waiting.pair.authority, &waiting.next]).with_outgoing(tainted));
    waiting.pass().await;
    front.set_svid(waiting.next.workload("demo", "front"));
    waiting.until_distrusted("tainted").await;
}

#[tokio::test]
async fn a_renewed_certificate_closes_nothing() {
    let pair = pair(Duration::ZERO).await;
    let (mut client, mut app) = pair.asked(GET).await;
    pair.front.identity.set_svid(pair.authority.workload("demo", "front"));
    pair.price.identity.set_svid(pair.authority.workload("demo", "price"));
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    for side in [&pair.front, &pair.price] {
        for direction in ["inbound", "outbound"] {
            for reason in ["tainted", "revoked", "unknown_authority", "expired"] {
                assert_eq!(side.metric(&distrusted(direction, reason)), 0.0);
            }
        }
    }
}
