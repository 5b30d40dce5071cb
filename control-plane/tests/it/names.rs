//! Clients that know a server by its DNS name or address, as those of gRPC do, and nothing of SPIFFE: rustls as it comes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_proto::identity::v1alpha1::{
    ActivateAuthorityRequest, AuthorityKind, PrepareAuthorityRequest, RevokeAuthorityRequest,
    authority_service_client::AuthorityServiceClient,
};
use outrigger_tls::{Bundle, provider};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{running::ControlPlane, support::soon};

/// The control plane's clock, as it stands.
#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(SystemTime::UNIX_EPOCH).ok()?))
    }
}

/// Whether a client that trusts `bundle` takes the policy port for `name`.
async fn takes(control: &ControlPlane, bundle: &Bundle, name: &str) -> bool {
    let mut roots = RootCertStore::empty();
    for root in bundle.authorities() {
        roots.add(root.clone()).unwrap();
    }
    let now = At(control.state.clock.now());
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(now))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tcp = TcpStream::connect(control.addresses.policy).await.unwrap();
    match soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await {
        Ok(_) => true,
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("certificate"), "{error}");
            false
        }
    }
}

/// What an operator's program trusts: `ca.crt` as it is on disk now.
fn on_disk(control: &ControlPlane) -> Bundle {
    (*control.kept("admin").bundle().unwrap()).clone()
}

async fn all(control: &ControlPlane, bundle: &Bundle, names: &[&str]) {
    for name in names {
        assert!(takes(control, bundle, name).await, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_port_is_known_by_name_and_address_without_a_setting() {
    let control = ControlPlane::start().await;
    let bundle = on_disk(&control);
    all(&control, &bundle, &["localhost", "127.0.0.1"]).await;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if ServerName::try_from(host.as_str()).is_ok_and(|name| matches!(name, ServerName::DnsName(_))) {
        all(&control, &bundle, &[&host]).await;
    }
    for name in ["mesh.example.com", "127.0.0.2", "::1"] {
        assert!(!takes(&control, &bundle, name).await, "{name}");
    }
}

const NAMES: [&str; 3] = ["mesh.example.com", "192.0.2.7", "2001:db8::7"];

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_the_settings_take_the_place_of_those_and_are_renewed() {
    let control = ControlPlane::start().await.restart_with_names(&NAMES).await;
    let bundle = on_disk(&control);
    all(&control, &bundle, &NAMES).await;
    assert!(!takes(&control, &bundle, "localhost").await, "these, and no others");

    // Past half of its life.
    let first = control.state.upkeep.identity().svid().unwrap();
    control.pass(Duration::from_hours(13));
    let upkeep = control.state.upkeep.clone();
    tokio::task::spawn_blocking(move || upkeep.step()).await.unwrap().unwrap();
    assert_ne!(control.state.upkeep.identity().svid().unwrap().chain(), first.chain());
    all(&control, &bundle, &NAMES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_hold_while_a_root_takes_the_place_of_another() {
    let control = ControlPlane::start().await.restart_with_names(&NAMES).await;
    let old = on_disk(&control);
    let kind = AuthorityKind::Root.into();
    // With the credential as it is on disk now.
    let client = || AuthorityServiceClient::new(control.policy_port(Some(&control.kept("admin"))));
    client().prepare_authority(PrepareAuthorityRequest { kind }).await.unwrap();
    let both = on_disk(&control);
    assert_eq!(both.authorities().len(), 2);
    for bundle in [&old, &both] {
        all(&control, bundle, &NAMES).await;
    }
    let request = ActivateAuthorityRequest { kind, force: true, ..Default::default() };
    client().activate_authority(request).await.unwrap();
    for bundle in [&old, &both] {
        all(&control, bundle, &NAMES).await;
    }
    let request = RevokeAuthorityRequest { kind, force: true, ..Default::default() };
    client().revoke_authority(request).await.unwrap();
    let new = on_disk(&control);
    assert_eq!(new.authorities().len(), 1);
    for bundle in [&both, &new] {
        all(&control, bundle, &NAMES).await;
    }
    assert!(!takes(&control, &old, NAMES[0]).await, "who trusts only the old root is behind");
}
