//! Dialling the control plane.

use std::{future::Future, io, pin::Pin, sync::Arc, task, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::{ServerTrust, trust::client_config};
use crate::{Identity, mesh::server_name};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is probed so often, also when no call is open: the configuration stream must notice a dead peer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A probe without an answer for so long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Not `host:port`.
    #[error("'{0}' is not the address of a control plane: write host:port")]
    Address(String),
    /// Nobody answered, or somebody who is not our control plane: see [`crate::reject_reason`] on this error.
    #[error("the control plane cannot be reached")]
    Connect(#[source] tonic::transport::Error),
}

/// What listens at the address is another program's port, or a plain one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "what listens there does not speak TLS; operators call the control plane's policy port (17100 by default), proxies \
     its discovery port (17110 by default)"
)]
struct NotTls;

/// Connects to the control plane at `address` (`host:port`), shows `identity`'s SVID if it has one, and returns when
/// TLS stands. Reconnects by itself; each new connection reads SVID and bundle afresh.
///
/// With TLS 1.3 a server's refusal of *our* certificate arrives only with the first call.
///
/// # Errors
/// If the address is malformed, or no TLS connection to the control plane comes about within 5 s.
pub async fn channel(
    address: &str,
    trust: ServerTrust,
    identity: Option<&Identity>,
) -> Result<Channel, ChannelError> {
    let (endpoint, connector) = parts(address, trust, identity)?;
    endpoint.connect_with_connector(connector).await.map_err(ChannelError::Connect)
}

/// The same, but connects with the first call.
///
/// # Errors
/// If the address is malformed.
pub fn channel_lazy(
    address: &str,
    trust: ServerTrust,
    identity: Option<&Identity>,
) -> Result<Channel, ChannelError> {
    let (endpoint, connector) = parts(address, trust, identity)?;
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn parts(
    address: &str,
    trust: ServerTrust,
    identity: Option<&Identity>,
) -> Result<(Endpoint, Connector), ChannelError> {
    let malformed = || ChannelError::Address(address.chars().take(120).collect());
    let authority: http::uri::Authority = address.parse().map_err(|_invalid| malformed())?;
    if authority.port_u16().is_none() || authority.host().is_empty() || address.contains('@') {
        return Err(malformed());
    }
    let endpoint = Endpoint::from_shared(format!("https://{authority}"))
        .map_err(|_invalid| malformed())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector =
        Connector { authority: Arc::from(authority.as_str()), config: client_config(trust, identity) };
    Ok((endpoint, connector))
}

/// TCP and TLS to one address. Bounded in time by the endpoint's connect timeout around it.
#[derive(Debug, Clone)]
struct Connector {
    authority: Arc<str>,
    config: Arc<ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self { authority, config } = self.clone();
        Box::pin(async move {
            let tcp = TcpStream::connect(&*authority).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(config).connect(server_name(), tcp).await.map_err(legible)?;
            Ok(TokioIo::new(tls))
        })
    }
}

/// What listens at the address speaks TLS, and is none of the control plane's ports: they all speak HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "what listens there is no port of a control plane, but may be a proxy's; operators call the control plane's policy port \
     (17100 by default), proxies its discovery port (17110 by default)"
)]
struct NotControlPlane;

/// "Corrupt message" is what rustls calls an answer in plain, and "no application protocol" what a proxy says to a call.
fn legible(error: io::Error) -> io::Error {
    let found = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match found {
        Some(rustls::Error::InvalidMessage(_)) => io::Error::new(error.kind(), NotTls),
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            io::Error::new(error.kind(), NotControlPlane)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_and_is_no_control_plane_is_told_as_such() {
        for (found, said) in [
            (
                rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                "what listens there does not speak TLS",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
                "no port of a control plane, but may be a proxy's; operators call the control plane's policy port",
            ),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "received fatal alert"),
        ] {
            let told = legible(io::Error::other(found)).to_string();
            assert!(told.contains(said), "{told}");
        }
    }
}
