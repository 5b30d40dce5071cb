//! Connections that lead to one port of one service: the inside of a CONNECT to a mesh name, and addresses of the own
//! machine that stand for a service. What is spoken there is declared, else found out from the first bytes; HTTP inside
//! is routed request by request (SEMANTICS D.7).

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{Request, Version};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use outrigger_core::{
    detect::{Verdict, decide},
    model::AppProtocol,
    reason::Reason,
};
use tokio::{net::TcpStream, time::Instant};

use super::{
    Begun, Downstream, Occupied, Outbound,
    destination::{Destination, MeshPort},
    said,
};
use crate::{
    carry,
    detect::Detection,
    http::{Form, Guarded, Target, Transport as _},
    settings::ServiceTarget,
    telemetry::{Direction, Party},
};

impl Outbound {
    /// Serves a connection to an address that stands for a service, to its end. What cannot be served is reset: the
    /// client may speak anything, and an end without a word could be taken for an answer.
    pub(crate) async fn serve_service(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        occupied: Occupied,
        target: Arc<ServiceTarget>,
    ) {
        let target = Target { form: Form::Authority, authority: target.authority().clone() };
        let found = match Destination::find(&self.shared, &target).await {
            Ok(Destination::Mesh(port)) => Ok(port),
            // A name of the mesh by its form, but not in this one.
            Ok(Destination::External { .. }) => Err(Reason::UnknownService),
            Err(reason) => Err(reason),
        };
        match found {
            Ok(port) => {
                let downstream = Downstream::new(peer, occupied, Some(port));
                self.serve_captured(stream, Bytes::new(), downstream).await;
            }
            Err(reason) => {
                let peer = Party::downstream(peer, self.shared.identity.id());
                self.shared.telemetry.refused_head(Direction::Outbound, peer, reason);
                stream.reset_on_close();
            }
        }
    }

    /// CONNECT to a name of the mesh: what is inside is served like a connection of its own, with mutual TLS from here.
    pub(super) fn tunnel_to_mesh(
        self: &Arc<Self>,
        request: &mut Request<Incoming>,
        port: Arc<MeshPort>,
        downstream: &Downstream,
    ) {
        let upgrade = hyper::upgrade::on(request);
        let downstream = Downstream { captured: Some(port), ..downstream.clone() };
        let this = Arc::clone(self);
        // Boxed: the future of a connection holds that of the connection inside it.
        let inside: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            if let Some((stream, prefix)) = upgraded(upgrade).await {
                this.serve_captured(stream, prefix, downstream).await;
            }
        });
        self.shared.tasks.spawn(inside);
    }

    async fn serve_captured(self: Arc<Self>, mut stream: TcpStream, prefix: Bytes, downstream: Downstream) {
        let Some(port) = downstream.captured.clone() else {
            return;
        };
        let limits = &self.shared.limits;
        let detection = match port.protocol() {
            AppProtocol::Tcp | AppProtocol::Tls => {
                return Box::pin(self.serve_opaque(stream, prefix, downstream, &port)).await;
            }
            // Either version is served: the application's sidecar speaks what the application does.
            AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => {
                if let Some(begun) = Begun::of(&mut stream, prefix, limits).await {
                    self.serve_http(stream, begun, downstream).await;
                }
                return;
            }
            AppProtocol::Detect => Detection {
                patience: limits.detect_timeout,
                counted: Some((self.shared.telemetry.metrics(), Direction::Outbound)),
            },
        };
        let Ok(first) = detection.run(&mut stream, BytesMut::from(prefix), said(decide)).await else {
            return;
        };
        let read = first.read.freeze();
        let version = match first.verdict {
            Ok(Verdict::Http2) => Version::HTTP_2,
            Ok(Verdict::Http1) => Version::HTTP_11,
            _ => return Box::pin(self.serve_opaque(stream, read, downstream, &port)).await,
        };
        self.serve_http(stream, Begun { read, version, since: Instant::now() }, downstream).await;
    }
}

/// The socket under a connection that left HTTP, with what was read of it already.
pub(super) async fn upgraded(upgrade: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "client went away before its tunnel was open");
            return None;
        }
    };
    let parts = upgraded.downcast::<hyper_util::rt::TokioIo<Guarded<TcpStream>>>().ok()?;
    let (stream, rest) = parts.io.into_inner().into_inner()?;
    Some((stream, carry::joined(parts.read_buf, rest)))
}
