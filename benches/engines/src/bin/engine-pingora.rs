//! A pair on pingora-proxy, as it can be used without a fork: its own server, listener, connector and pool.
//!
//! Its rustls connector knows peers by DNS names only, so the outbound side verifies the DNS name that the leaf has beside
//! its SPIFFE ID; and it links ring, whose provider is not used: aws-lc-rs is installed before anything asks for one.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use clap::Parser;
use outrigger_engines::{Arguments, Leg, Side};
use pingora_core::{
    listeners::tls::TlsSettings,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use rustls::{RootCertStore, crypto::aws_lc_rs, server::WebPkiClientVerifier};

/// Enough for the most connections that are asked for; the default closes beyond 128.
const POOL: usize = 2_000;
const CONNECT: Duration = Duration::from_secs(5);

/// Sends every request to one peer.
struct Proxy(HttpPeer);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    // The default adds compression.
    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _context: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(self.0.clone()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if arguments.leg != Leg::Http1 {
        return Err("pingora opens a connection for each stream; its HTTP/2 leg is not measured".into());
    }
    let provider = aws_lc_rs::default_provider();
    provider.install_default().map_err(|_| "a provider was installed before ours")?;
    let settings = ServerConf { threads: 1, upstream_keepalive_pool_size: POOL, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy(peer(&arguments)?));
    let listen = arguments.listen.to_string();
    match arguments.side {
        Side::Outbound => service.add_tcp(&listen),
        Side::Inbound => service.add_tls_with_settings(&listen, None, tls(&arguments)?),
    }
    server.add_service(service);
    server.run_forever()
}

fn peer(arguments: &Arguments) -> Result<HttpPeer, Box<dyn Error>> {
    let mut peer = match arguments.side {
        Side::Inbound => HttpPeer::new(arguments.upstream, false, String::new()),
        Side::Outbound => {
            let own = CertKey::new(arguments.chain()?, arguments.private_key()?.pair().serialize_der());
            // An empty name would turn verification off.
            let (namespace, account) = arguments.peer.as_workload().ok_or("the peer is no workload")?;
            let name = format!("{account}.{namespace}.mesh");
            HttpPeer::new_mtls(arguments.upstream, name, Arc::new(own))
        }
    };
    if arguments.side == Side::Outbound {
        let roots = arguments.roots()?.into_iter().map(|der| WrappedX509::new(der, parse_x509));
        peer.options.ca = Some(roots.collect());
    }
    peer.options.connection_timeout = Some(CONNECT);
    Ok(peer)
}

/// Demands a certificate of the authority.
fn tls(arguments: &Arguments) -> Result<TlsSettings, Box<dyn Error>> {
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).ok_or("a path is not UTF-8");
    let mut settings = TlsSettings::intermediate(&path(&arguments.certificate)?, &path(&arguments.key)?)?;
    let mut roots = RootCertStore::empty();
    for root in arguments.roots()? {
        roots.add(root.into())?;
    }
    settings.set_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?);
    Ok(settings)
}
