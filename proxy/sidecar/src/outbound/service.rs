//! Connections to an address of the own machine that leads to one service: served like the inside of a CONNECT to it,
//! for clients that know nothing of proxies.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use outrigger_core::{model::AppProtocol, reason::Reason};
use tokio::net::TcpStream;

use super::{
    Downstream, Occupied, Outbound,
    destination::{Destination, MeshPort},
    is_http1,
};
use crate::{
    http::{Form, Target, Transport as _},
    settings::ServiceTarget,
    telemetry::Direction,
};

impl Outbound {
    /// Serves one connection to its end. What cannot be served is reset: the client may speak anything, and an end
    /// without a word could be taken for an answer.
    pub(crate) async fn serve_service(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        occupied: Occupied,
        target: Arc<ServiceTarget>,
    ) {
        let port = match self.reach(&stream, &target).await {
            Ok(port) => port,
            Err(reason) => {
                self.shared.telemetry.refused_head(Direction::Outbound, peer, reason);
                stream.reset_on_close();
                return;
            }
        };
        let downstream = Downstream { peer, occupied, tunnelled: Some(Arc::new(port)) };
        self.serve_http(stream, Bytes::new(), downstream).await;
    }

    /// The port that the connection leads to, which has to be in the mesh and to speak what `stream` brings.
    async fn reach(&self, stream: &TcpStream, target: &ServiceTarget) -> Result<MeshPort, Reason> {
        let target = Target { form: Form::Authority, authority: target.authority().clone() };
        let port = match Destination::find(&self.shared, &target).await? {
            Destination::Mesh(port) => port,
            // A name of the mesh by its form, but not in this one.
            Destination::External { .. } => return Err(Reason::UnknownService),
        };
        match port.protocol() {
            AppProtocol::Http1 => Ok(port),
            AppProtocol::Detect if is_http1(stream, &Bytes::new(), self.shared.limits.head_timeout).await => {
                Ok(port)
            }
            AppProtocol::Detect
            | AppProtocol::Tcp
            | AppProtocol::Http2
            | AppProtocol::Grpc
            | AppProtocol::Tls => Err(Reason::UnsupportedProtocol),
        }
    }
}
