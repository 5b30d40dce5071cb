//! The connection between two sidecars: mutual TLS 1.3, both sides workloads of one trust domain.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_core::model::SpiffeId;
use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    pki_types::ServerName,
    server::{NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
};

use crate::{
    Identity, PeerRejected, Refusal, provider,
    resolve::Current,
    verifier::{Judge, Verifier},
    verify::{self, Shown},
};

/// ALPN: HTTP/1 inside.
pub const ALPN_H1: &[u8] = b"outrigger-h1";
/// ALPN: HTTP/2 inside.
pub const ALPN_H2: &[u8] = b"outrigger-h2";
/// ALPN: opaque bytes inside.
pub const ALPN_TCP: &[u8] = b"outrigger-tcp";

/// For the accepting side: demands the certificate of a workload of our trust domain and offers the protocols `alpn`.
/// Lives as long as the process: SVID and bundle are read from `identity` at each handshake.
pub fn server_config(identity: &Identity, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let verifier = Arc::new(Verifier(Peer { identity: identity.clone(), expected: None }));
    Arc::new(base_server(verifier, Arc::new(Current(identity.clone())), alpn))
}

/// For the dialling side: the peer must prove to be one of `expected`. One configuration per set: it is part of the
/// pool's key.
pub fn client_config(
    identity: &Identity,
    expected: impl Into<BTreeSet<SpiffeId>>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let verifier = Arc::new(Verifier(Peer { identity: identity.clone(), expected: Some(expected.into()) }));
    Arc::new(base_client(verifier, Some(identity), alpn))
}

/// What rustls wants for a name: peers are known by their identity, so nothing is sent and nothing is compared.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

#[expect(
    clippy::expect_used,
    reason = "the provider is a constant that has TLS 1.3 suites; a test builds both configurations"
)]
pub(crate) fn base_server(
    verifier: Arc<dyn ClientCertVerifier>,
    resolver: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    // A resumed session would be believed on the strength of a bundle that is no longer in force.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

#[expect(
    clippy::expect_used,
    reason = "the provider is a constant that has TLS 1.3 suites; a test builds both configurations"
)]
pub(crate) fn base_client(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Current(identity.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

/// Holds a peer to being a workload of our trust domain and, on the dialling side, one of those expected.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    pub(crate) expected: Option<BTreeSet<SpiffeId>>,
}

impl Judge for Peer {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Refusal> {
        let bundle = self.identity.bundle().ok_or_else(|| Refusal::new(PeerRejected::NoBundle))?;
        let id = verify::claimed_id(shown.end_entity, Some(bundle.trust_domain()))?;
        let refuse = |reason| Refusal::of(reason, &id);
        bundle.verify(shown).map_err(refuse)?;
        if id.as_workload().is_none() {
            return Err(refuse(PeerRejected::ReservedId));
        }
        if self.expected.as_ref().is_some_and(|expected| !expected.contains(&id)) {
            return Err(refuse(PeerRejected::UnexpectedIdentity));
        }
        Ok(())
    }
}
