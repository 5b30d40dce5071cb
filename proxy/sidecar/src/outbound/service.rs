//! Connections to an address of the own machine that leads to one service: served like the inside of a CONNECT to it,
//! for clients that know nothing of proxies.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use outrigger_core::{model::AppProtocol, reason::Reason};
use tokio::net::TcpStream;

use super::{
    Downstream, Occupied, Outbound,
    destination::{Destination, MeshPort},
};
use crate::{
    detect::{Detection, Undecided},
    http::{Form, Target, Transport as _},
    settings::ServiceTarget,
    telemetry::Direction,
};

impl Outbound {
    /// Serves one connection to its end. What cannot be served is reset: the client may speak anything, and an end
    /// without a word could be taken for an answer.
    pub(crate) async fn serve_service(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        occupied: Occupied,
        target: Arc<ServiceTarget>,
    ) {
        let (port, read) = match self.reach(&mut stream, &target).await {
            Ok(reached) => reached,
            Err(reason) => {
                self.shared.telemetry.refused_head(Direction::Outbound, peer, reason);
                stream.reset_on_close();
                return;
            }
        };
        let downstream = Downstream { peer, occupied, tunnelled: Some(Arc::new(port)) };
        self.serve_http(stream, read, downstream).await;
    }

    /// The port that the connection leads to, which has to be in the mesh and to speak what `stream` brings; and what
    /// was read of `stream` to find that out.
    async fn reach(
        &self,
        stream: &mut TcpStream,
        target: &ServiceTarget,
    ) -> Result<(MeshPort, Bytes), Reason> {
        let target = Target { form: Form::Authority, authority: target.authority().clone() };
        let port = match Destination::find(&self.shared, &target).await? {
            Destination::Mesh(port) => port,
            // A name of the mesh by its form, but not in this one.
            Destination::External { .. } => return Err(Reason::UnknownService),
        };
        match port.protocol() {
            AppProtocol::Http1 => Ok((port, Bytes::new())),
            AppProtocol::Detect => Ok((port, self.read_http1(stream).await?)),
            AppProtocol::Tcp | AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tls => {
                Err(Reason::UnsupportedProtocol)
            }
        }
    }

    /// The first bytes of `stream`, if they could begin a method. TLS and most others begin with one that could not.
    async fn read_http1(&self, stream: &mut TcpStream) -> Result<Bytes, Reason> {
        let detection = Detection {
            patience: self.shared.detect_timeout,
            metrics: self.shared.telemetry.metrics(),
            direction: Direction::Outbound,
        };
        let first = |read: &[u8]| read.first().map(u8::is_ascii_alphabetic);
        let detected = detection.run(stream, BytesMut::new(), first).await.map_err(|error| {
            tracing::debug!(%error, "client went away before it said anything");
            Reason::ClientClosed
        })?;
        match detected.verdict {
            Ok(true) => Ok(detected.read.freeze()),
            // It came and went, as probes do.
            Err(Undecided::Ended) => Err(Reason::ClientClosed),
            Ok(false) | Err(Undecided::TimedOut | Undecided::Full) => Err(Reason::UnsupportedProtocol),
        }
    }
}
