//! Between two sidecars.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_tls::{
    Identity, PeerRejected, mesh, provider, refusal,
    testing::{Authority, Leaf, Under},
};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion};

use crate::support::{Outcome, Pair, Shows, TRUST_DOMAIN, shake};

const HOUR: Duration = Duration::from_secs(3600);

fn of(pair: &Pair, service_account: &str) -> Leaf {
    Leaf::of(&pair.authority.workload_id("demo", service_account))
}

/// A client, then a server, that shows `leaf`: what each is refused for.
async fn refused(pair: &Pair, leaf: &Leaf) -> (Option<PeerRejected>, Option<PeerRejected>) {
    let expected = BTreeSet::from([pair.authority.workload_id("demo", "price")]);
    let client = mesh::client_config(&pair.front, expected, &[mesh::ALPN_H2]);
    let server = mesh::server_config(&pair.price, &[mesh::ALPN_H2]);
    let as_client = Shows::new(pair.authority.issue_raw(leaf)).as_client(&client);
    let as_server = Shows::new(pair.authority.issue_raw(leaf)).as_server(&server);
    let by_server = shake(server, as_client).await.by_server();
    let by_client = shake(as_server, client).await.by_client();
    (by_server, by_client)
}

async fn refused_both_ways(pair: &Pair, leaf: &Leaf, reason: PeerRejected) {
    assert_eq!(refused(pair, leaf).await, (Some(reason), Some(reason)));
}

#[tokio::test]
async fn two_workloads_know_each_other_by_identity() {
    let pair = Pair::new();
    let (client, server) = pair.dial(&pair.price).await.peers();
    assert_eq!(client, pair.front.id());
    assert_eq!(server, pair.price.id());
}

#[tokio::test]
async fn tls_is_1_3_with_a_hybrid_key_exchange_and_the_offered_protocol() {
    let pair = Pair::new();
    let (server, client) = pair.dial(&pair.price).await.both();
    let (server, client) = (server.get_ref().1, client.get_ref().1);
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(mesh::ALPN_H2));
    assert_eq!(server.alpn_protocol(), Some(mesh::ALPN_H2));
    assert_eq!(server.server_name(), None);
}

#[tokio::test]
async fn nothing_is_resumed_and_nothing_is_sent_early() {
    let pair = Pair::new();
    let expected = BTreeSet::from([pair.authority.workload_id("demo", "price")]);
    let client = mesh::client_config(&pair.front, expected, &[mesh::ALPN_H2]);
    let server = mesh::server_config(&pair.price, &[mesh::ALPN_H2]);
    for _handshake in 0..2 {
        let outcome = shake(Arc::clone(&server), Arc::clone(&client)).await;
        let (server, client) = outcome.both();
        let (server, client) = (server.get_ref().1, client.get_ref().1);
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
        assert!(!client.is_early_data_accepted());
    }
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!client.enable_early_data && !client.enable_sni);
}

#[tokio::test]
async fn any_of_several_expected_identities_will_do() {
    let pair = Pair::new();
    let ids = ["cart", "price"].map(|account| pair.authority.workload_id("demo", account));
    let client = mesh::client_config(&pair.front, ids, &[mesh::ALPN_H1]);
    let server = mesh::server_config(&pair.price, &[mesh::ALPN_H2, mesh::ALPN_H1]);
    assert_eq!(shake(server, client).await.peers().1, pair.price.id());
}

#[tokio::test]
async fn a_workload_that_is_not_the_expected_one_is_refused_and_named() {
    let pair = Pair::new();
    let cart = pair.authority.identity(pair.authority.workload("demo", "cart"));
    let outcome = pair.dial(&cart).await;
    assert_eq!(outcome.by_client(), Some(PeerRejected::UnexpectedIdentity));
    let refusal = refusal(&outcome.client.unwrap_err()).unwrap();
    assert_eq!(refusal.presented, cart.id());
    assert!(outcome.server.is_err());
}

#[tokio::test]
async fn nobody_is_expected_by_an_empty_set() {
    let pair = Pair::new();
    let client = mesh::client_config(&pair.front, [], &[mesh::ALPN_H2]);
    let server = mesh::server_config(&pair.price, &[mesh::ALPN_H2]);
    assert_eq!(shake(server, client).await.by_client(), Some(PeerRejected::UnexpectedIdentity));
}

#[tokio::test]
async fn two_uri_names_are_refused_even_if_both_are_expected() {
    let pair = Pair::new();
    let mut leaf = of(&pair, "price");
    leaf.uris.push(pair.authority.workload_id("demo", "cart").to_string());
    refused_both_ways(&pair, &leaf, PeerRejected::TwoUriSans).await;
    leaf.uris = vec![leaf.uris[0].clone(), leaf.uris[0].clone()];
    refused_both_ways(&pair, &leaf, PeerRejected::TwoUriSans).await;
}

#[tokio::test]
async fn a_certificate_without_uri_name_is_refused() {
    let pair = Pair::new();
    let leaf = Leaf { uris: Vec::new(), ..of(&pair, "price") };
    refused_both_ways(&pair, &leaf, PeerRejected::NoUriSan).await;
}

#[tokio::test]
async fn a_uri_that_is_no_identity_is_refused() {
    let pair = Pair::new();
    for uri in [
        format!("spiffe://{TRUST_DOMAIN}/price"),
        format!("spiffe://{TRUST_DOMAIN}/ns/demo/sa/price/"),
        format!("spiffe://{TRUST_DOMAIN}/ns/demo/sa/price?x"),
        format!("spiffe://{TRUST_DOMAIN}/outrigger/other"),
        format!("https://{TRUST_DOMAIN}/ns/demo/sa/price"),
    ] {
        let leaf = Leaf { uris: vec![uri], ..of(&pair, "price") };
        refused_both_ways(&pair, &leaf, PeerRejected::InvalidId).await;
    }
}

#[tokio::test]
async fn another_trust_domain_is_refused_even_under_our_own_authority() {
    let pair = Pair::new();
    for uri in ["spiffe://elsewhere/ns/demo/sa/price", "spiffe://elsewhere/anything"] {
        let leaf = Leaf { uris: vec![uri.to_owned()], ..of(&pair, "price") };
        refused_both_ways(&pair, &leaf, PeerRejected::WrongTrustDomain).await;
    }
}

#[tokio::test]
async fn another_mesh_is_refused_as_another_trust_domain() {
    let pair = Pair::new();
    let other = Authority::new("elsewhere");
    let stranger = other.identity(other.workload("demo", "price"));
    stranger.set_bundle(pair.authority.bundle());
    assert_eq!(pair.dial(&stranger).await.by_client(), Some(PeerRejected::WrongTrustDomain));
    assert_eq!(pair.accept(&stranger).await.by_server(), Some(PeerRejected::WrongTrustDomain));
}

#[tokio::test]
async fn the_right_name_from_a_wrong_authority_is_refused() {
    let pair = Pair::new();
    // The same names all the way up, other keys.
    let impostor = Authority::new(TRUST_DOMAIN);
    let stranger = impostor.identity(impostor.workload("demo", "price"));
    stranger.set_bundle(pair.authority.bundle());
    assert_eq!(pair.dial(&stranger).await.by_client(), Some(PeerRejected::UnknownAuthority));
    assert_eq!(pair.accept(&stranger).await.by_server(), Some(PeerRejected::UnknownAuthority));
}

#[tokio::test]
async fn an_authority_that_the_peer_brings_along_is_not_believed() {
    let pair = Pair::new();
    let impostor = Authority::new(TRUST_DOMAIN);
    let (mut chain, key) = impostor.issue_raw(&Leaf::of(&impostor.workload_id("demo", "price")));
    chain.push(impostor.root_der());
    chain.push(pair.authority.root_der());
    let server = Shows::new((chain, key)).as_server(&mesh::server_config(&pair.price, &[]));
    let client = mesh::client_config(&pair.front, [pair.authority.workload_id("demo", "price")], &[]);
    assert_eq!(shake(server, client).await.by_client(), Some(PeerRejected::UnknownAuthority));
}

#[tokio::test]
async fn a_chain_without_its_intermediate_is_refused() {
    let pair = Pair::new();
    let (mut chain, key) = pair.authority.issue_raw(&of(&pair, "price"));
    chain.truncate(1);
    let server = Shows::new((chain, key)).as_server(&mesh::server_config(&pair.price, &[]));
    let client = mesh::client_config(&pair.front, [pair.authority.workload_id("demo", "price")], &[]);
    assert_eq!(shake(server, client).await.by_client(), Some(PeerRejected::UnknownAuthority));
}

#[tokio::test]
async fn expired_and_not_yet_valid_certificates_are_refused() {
    let pair = Pair::new();
    let now = SystemTime::now();
    let expired = Leaf { not_before: now - 2 * HOUR, not_after: now - HOUR, ..of(&pair, "price") };
    refused_both_ways(&pair, &expired, PeerRejected::Expired).await;
    let early = Leaf { not_before: now + HOUR, not_after: now + 2 * HOUR, ..of(&pair, "price") };
    refused_both_ways(&pair, &early, PeerRejected::NotYetValid).await;
}

#[tokio::test]
async fn reserved_identities_are_refused_as_mesh_peers() {
    let pair = Pair::new();
    for svid in [pair.authority.operator("admin"), pair.authority.control_plane()] {
        let reserved = pair.authority.identity(svid);
        assert_eq!(pair.accept(&reserved).await.by_server(), Some(PeerRejected::ReservedId));
        let ids = [reserved.id().unwrap()];
        // Even where somebody expects it.
        let client = mesh::client_config(&pair.front, ids, &[mesh::ALPN_H2]);
        let server = mesh::server_config(&reserved, &[mesh::ALPN_H2]);
        assert_eq!(shake(server, client).await.by_client(), Some(PeerRejected::ReservedId));
    }
}

#[tokio::test]
async fn an_authority_is_refused_where_a_workload_belongs() {
    let pair = Pair::new();
    let leaf = Leaf { authority: true, ..of(&pair, "price") };
    refused_both_ways(&pair, &leaf, PeerRejected::WrongPurpose).await;
}

#[tokio::test]
async fn a_workload_cannot_issue_for_another() {
    let pair = Pair::new();
    let (chain, key) = pair.authority.issue_raw(&of(&pair, "front"));
    let forged = Authority::issue_under(&chain, &key, &of(&pair, "price"));
    let server = Shows::new(forged).as_server(&mesh::server_config(&pair.price, &[]));
    let client = mesh::client_config(&pair.front, [pair.authority.workload_id("demo", "price")], &[]);
    assert_eq!(shake(server, client).await.by_client(), Some(PeerRejected::WrongPurpose));
}

#[tokio::test]
async fn a_certificate_for_the_other_side_only_is_refused() {
    let pair = Pair::new();
    let for_clients = Leaf { purposes: vec![ExtendedKeyUsagePurpose::ClientAuth], ..of(&pair, "price") };
    assert_eq!(refused(&pair, &for_clients).await, (None, Some(PeerRejected::WrongPurpose)));
    let for_servers = Leaf { purposes: vec![ExtendedKeyUsagePurpose::ServerAuth], ..of(&pair, "price") };
    assert_eq!(refused(&pair, &for_servers).await, (Some(PeerRejected::WrongPurpose), None));
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_refused() {
    let pair = Pair::new();
    let (chain, _key) = pair.authority.issue_raw(&of(&pair, "price"));
    let thief = (chain, outrigger_tls::Key::generate().unwrap());
    let server = Shows::new(thief).as_server(&mesh::server_config(&pair.price, &[]));
    let client = mesh::client_config(&pair.front, [pair.authority.workload_id("demo", "price")], &[]);
    assert_eq!(shake(server, client).await.by_client(), Some(PeerRejected::BadSignature));
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let pair = Pair::new();
    let nobody = Identity::empty();
    nobody.set_bundle(pair.authority.bundle());
    assert_eq!(pair.accept(&nobody).await.by_server(), Some(PeerRejected::NoCertificate));
}

#[tokio::test]
async fn without_a_bundle_nobody_is_believed() {
    let pair = Pair::new();
    let lost = Identity::empty();
    lost.set_svid(pair.authority.workload("demo", "price"));
    assert_eq!(pair.accept(&lost).await.by_client(), Some(PeerRejected::NoBundle));
    assert_eq!(pair.dial(&lost).await.by_server(), Some(PeerRejected::NoBundle));
    // And without an SVID a server has nothing to show.
    assert!(pair.dial(&Identity::empty()).await.server.is_err());
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let pair = Pair::new();
    let server = mesh::server_config(&pair.price, &[]);
    // The hello of a client that offers nothing newer: rustls here is built without TLS 1.2.
    let outcome = crate::support::hello(server, TLS12_HELLO).await;
    let error = outcome.unwrap_err();
    let rustls_error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    assert!(matches!(rustls_error, Some(rustls::Error::PeerIncompatible(_))), "{error:?}");
}

/// Version 1.2, ECDHE-ECDSA with AES-128-GCM, P-256, no `supported_versions`.
const TLS12_HELLO: &[u8] = &[
    22, 3, 1, 0, 69, 1, 0, 0, 65, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 22, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0,
    0, 13, 0, 4, 0, 2, 4, 3,
];

#[tokio::test]
async fn another_protocol_than_ours_is_refused() {
    let pair = Pair::new();
    let client = mesh::client_config(&pair.front, [pair.authority.workload_id("demo", "price")], &[b"h2"]);
    let outcome: Outcome = shake(mesh::server_config(&pair.price, &[mesh::ALPN_H2]), client).await;
    assert!(outcome.server.is_err() && outcome.client.is_err());
}

#[tokio::test]
async fn a_plain_tls_client_that_trusts_everybody_gets_nowhere_without_an_svid() {
    let pair = Pair::new();
    let roots = rustls::RootCertStore { roots: Vec::new() };
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let outcome = shake(mesh::server_config(&pair.price, &[]), client.into()).await;
    assert!(outcome.server.is_err() && outcome.client.is_err());
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let names: BTreeSet<_> = PeerRejected::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), PeerRejected::ALL.len());
    let snake = |name: &&&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    assert!(names.iter().all(|name| snake(&name)));
}

#[tokio::test]
async fn a_workload_directly_under_the_root_is_accepted() {
    let pair = Pair::new();
    let leaf = Leaf { under: Under::Root, ..of(&pair, "price") };
    let price = pair.authority.identity(pair.authority.issue(&leaf));
    assert_eq!(pair.dial(&price).await.peers().1, price.id());
}
