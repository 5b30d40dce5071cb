//! Two ends of a pipe that shake hands.

use std::{collections::BTreeSet, io, sync::Arc};

use outrigger_core::model::SpiffeId;
use outrigger_tls::{Identity, PeerRejected, mesh, peer_id, reject_reason, testing::Authority};
use rustls::{
    ClientConfig, ServerConfig, client::ResolvesClientCert, server::ResolvesServerCert, sign::CertifiedKey,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub(crate) const TRUST_DOMAIN: &str = "outrigger.local";

pub(crate) type ServerSide = server::TlsStream<DuplexStream>;
pub(crate) type ClientSide = client::TlsStream<DuplexStream>;

/// Both ends' outcome. One byte crosses in each direction before a side counts as connected: in TLS 1.3 the client is
/// done before the server has judged it.
pub(crate) struct Outcome {
    pub(crate) server: io::Result<ServerSide>,
    pub(crate) client: io::Result<ClientSide>,
}

impl Outcome {
    /// Why the server refused the client.
    pub(crate) fn by_server(&self) -> Option<PeerRejected> {
        self.server.as_ref().err().and_then(|error| reject_reason(error))
    }

    /// Why the client refused the server.
    pub(crate) fn by_client(&self) -> Option<PeerRejected> {
        self.client.as_ref().err().and_then(|error| reject_reason(error))
    }

    pub(crate) fn both(self) -> (ServerSide, ClientSide) {
        (self.server.expect("the server is connected"), self.client.expect("the client is connected"))
    }

    /// Whom each side takes the other for: the client, as the server sees it, and the other way round.
    pub(crate) fn peers(self) -> (Option<SpiffeId>, Option<SpiffeId>) {
        let (server, client) = self.both();
        (peer_id(server.get_ref().1), peer_id(client.get_ref().1))
    }
}

pub(crate) async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut tls = TlsAcceptor::from(server).accept(far).await?;
        tls.write_all(b"s").await?;
        tls.flush().await?;
        tls.read_exact(&mut [0]).await?;
        Ok(tls)
    };
    let connect = async {
        let mut tls = TlsConnector::from(client).connect(mesh::server_name(), near).await?;
        tls.write_all(b"c").await?;
        tls.flush().await?;
        tls.read_exact(&mut [0]).await?;
        Ok(tls)
    };
    let (server, client) = tokio::join!(accept, connect);
    Outcome { server, client }
}

/// A front and a price that trust each other.
pub(crate) struct Pair {
    pub(crate) authority: Authority,
    pub(crate) front: Identity,
    pub(crate) price: Identity,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let authority = Authority::new(TRUST_DOMAIN);
        let front = authority.identity(authority.workload("demo", "front"));
        let price = authority.identity(authority.workload("demo", "price"));
        Self { authority, front, price }
    }

    /// The front dials, expecting the price, whoever `server` is.
    pub(crate) async fn dial(&self, server: &Identity) -> Outcome {
        let expected = BTreeSet::from([self.authority.workload_id("demo", "price")]);
        shake(
            mesh::server_config(server, &[mesh::ALPN_H2]),
            mesh::client_config(&self.front, expected, &[mesh::ALPN_H2]),
        )
        .await
    }

    /// `client` dials the price.
    pub(crate) async fn accept(&self, client: &Identity) -> Outcome {
        let expected = BTreeSet::from([self.authority.workload_id("demo", "price")]);
        shake(
            mesh::server_config(&self.price, &[mesh::ALPN_H2]),
            mesh::client_config(client, expected, &[mesh::ALPN_H2]),
        )
        .await
    }
}

/// Shows any chain at all: what an `Svid` would not take.
#[derive(Debug)]
pub(crate) struct Shows(pub(crate) Arc<CertifiedKey>);

impl Shows {
    pub(crate) fn new((chain, key): (Vec<Vec<u8>>, outrigger_tls::Key)) -> Arc<Self> {
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.pair().serialize_der());
        let signer = outrigger_tls::provider().key_provider.load_private_key(der.into()).unwrap();
        let chain = chain.into_iter().map(Into::into).collect();
        Arc::new(Self(Arc::new(CertifiedKey::new(chain, signer))))
    }

    /// The configuration `config` with this instead of its certificate.
    pub(crate) fn as_client(self: Arc<Self>, config: &ClientConfig) -> Arc<ClientConfig> {
        let mut config = config.clone();
        config.client_auth_cert_resolver = self;
        Arc::new(config)
    }

    pub(crate) fn as_server(self: Arc<Self>, config: &ServerConfig) -> Arc<ServerConfig> {
        let mut config = config.clone();
        config.cert_resolver = self;
        Arc::new(config)
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// What the server makes of the bytes `hello`.
pub(crate) async fn hello(server: Arc<ServerConfig>, hello: &[u8]) -> io::Result<ServerSide> {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(hello).await?;
    TlsAcceptor::from(server).accept(far).await
}
