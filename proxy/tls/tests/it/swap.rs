//! SVID and bundle change while the configurations stay.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_tls::{Bundle, Evidence, Identity, PeerRejected, mesh, testing::Authority};
use rustls::{ClientConfig, ServerConfig, Side, pki_types::UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Outcome, Pair, TRUST_DOMAIN, shake};

struct Kept {
    pair: Pair,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Kept {
    fn new() -> Self {
        let pair = Pair::new();
        let price = pair.authority.workload_id("demo", "price");
        let client = mesh::client_config(&pair.front, [price], &[mesh::ALPN_H2]);
        let server = mesh::server_config(&pair.price, &[mesh::ALPN_H2]);
        Self { pair, client, server }
    }

    async fn shake(&self) -> Outcome {
        shake(Arc::clone(&self.server), Arc::clone(&self.client)).await
    }
}

fn both(one: &Authority, two: &Authority) -> Bundle {
    Bundle::new(one.trust_domain().clone(), vec![one.root_der(), two.root_der()], 2).unwrap()
}

#[tokio::test]
async fn a_new_leaf_is_shown_from_the_next_handshake_on() {
    let kept = Kept::new();
    let (_, before) = kept.shake().await.both();
    let renewed = kept.pair.authority.workload("demo", "price");
    let leaf = renewed.chain()[0].clone();
    kept.pair.price.set_svid(renewed);
    let (_, after) = kept.shake().await.both();
    let shown =
        |client: &crate::support::ClientSide| client.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_ne!(shown(&before), leaf);
    assert_eq!(shown(&after), leaf);
}

#[tokio::test]
async fn an_open_connection_survives_a_change_of_leaf_and_bundle() {
    let kept = Kept::new();
    let (mut server, mut client) = kept.shake().await.both();
    let next = Authority::new(TRUST_DOMAIN);
    for identity in [&kept.pair.front, &kept.pair.price] {
        identity.set_bundle(next.bundle());
    }
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    // But nobody new comes in on the old authority's word.
    assert_eq!(kept.shake().await.by_client(), Some(PeerRejected::UnknownAuthority));
}

#[tokio::test]
async fn an_open_connection_is_judged_again_by_the_bundle_and_the_time() {
    let kept = Kept::new();
    let (server, client) = kept.shake().await.both();
    let now = UnixTime::now();
    let tomorrow = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 2 * 24 * 3600));
    let client_shown = Evidence::of(server.get_ref().1, Side::Client).unwrap();
    let server_shown = Evidence::of(client.get_ref().1, Side::Server).unwrap();
    let of_client = |now| client_shown.judge(&kept.pair.price, now).map_err(|refusal| refusal.reason);
    let of_server = |now| server_shown.judge(&kept.pair.front, now).map_err(|refusal| refusal.reason);
    assert_eq!((of_client(now), of_server(now)), (Ok(()), Ok(())));
    assert_eq!(of_client(tomorrow), Err(PeerRejected::Expired));
    let leaf = kept.pair.front.svid().unwrap().not_after();
    assert_eq!(client_shown.next_expiry(SystemTime::now()), Some(leaf));
    // The intermediate lives on after the leaf.
    assert!(client_shown.next_expiry(leaf + Duration::from_secs(1)).is_some_and(|next| next > leaf));
    let next = Authority::new(TRUST_DOMAIN);
    kept.pair.front.set_bundle(both(&kept.pair.authority, &next));
    kept.pair.price.set_bundle(next.bundle());
    assert_eq!((of_client(now), of_server(now)), (Err(PeerRejected::UnknownAuthority), Ok(())));
}

#[tokio::test]
async fn an_authority_is_rotated_without_a_failed_handshake() {
    let kept = Kept::new();
    let next = Authority::new(TRUST_DOMAIN);
    let sides = [(&kept.pair.front, "front"), (&kept.pair.price, "price")];
    let prepared = both(&kept.pair.authority, &next);
    for (identity, _) in sides {
        identity.set_bundle(prepared.clone());
        kept.shake().await.both();
    }
    for (identity, account) in sides {
        identity.set_svid(next.workload("demo", account));
        kept.shake().await.both();
    }
    for (identity, _) in sides {
        identity.set_bundle(next.bundle());
        kept.shake().await.both();
    }
}

#[tokio::test]
async fn every_change_is_told() {
    let authority = Authority::new(TRUST_DOMAIN);
    let identity = Identity::empty();
    let mut changed = identity.clone().changed();
    identity.set_svid(authority.workload("demo", "price"));
    changed.changed().await.unwrap();
    assert_eq!((*changed.borrow_and_update(), identity.credential_generation()), (1, 1));
    identity.set_bundle(authority.bundle());
    changed.changed().await.unwrap();
    assert_eq!((*changed.borrow_and_update(), identity.credential_generation()), (2, 1));
}
