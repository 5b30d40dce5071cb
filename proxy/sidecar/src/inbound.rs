//! Inbound: from the mesh to the own application. Every connection is mutual TLS with a peer of the mesh; nothing else
//! passes.

mod application;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, ext};
use outrigger_core::{model::SpiffeId, reason::Reason, telemetry::timing};
use outrigger_tls::{Evidence, mesh, peer_id};
use rustls::Side;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    attempt::Attempt,
    data_path::Shared,
    headers,
    http::{
        Form, Guarded, Link, RequestBody, ResponseBody, Upload, check_head, is_idempotent, own_answer, serve,
    },
    pool::Pool,
    telemetry::{Direction, Exchange, Held, Record},
    trust::Watch,
};
use application::{Application, keep_for};

/// TCP to an application on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An application may close an idle connection at any time. A request that must not be sent twice takes none that was
/// idle for longer.
const FRESH: Duration = Duration::from_millis(100);

/// The way to one application, on one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    application: Application,
    pool: Arc<Pool>,
}

impl Inbound {
    pub(crate) fn new(shared: Arc<Shared>, app: SocketAddr) -> Arc<Self> {
        let pool = Pool::new(&shared.limits);
        let application =
            Application { address: app, telemetry: shared.telemetry.clone(), limits: shared.limits.clone() };
        Arc::new(Self { shared, application, pool })
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let watch = Watch::begin(&self.shared.identity);
        let Some((stream, identity, evidence)) = self.handshake(stream, peer).await else {
            return;
        };
        let limits = &self.shared.limits;
        // No request more: for all connections when the data path drains, for this one when its peer is distrusted.
        let closing = self.shared.draining_inbound.child_token();
        let (close, telemetry) = (closing.clone(), self.shared.telemetry.clone());
        let mut trusted = watch.over(evidence, limits, move |refusal| {
            close.cancel();
            telemetry.distrusted(Direction::Inbound, peer, &refusal);
        });
        let io = Guarded::new(stream, Bytes::new(), limits);
        let link = Arc::clone(io.link());
        let service = |request| {
            let (this, link, identity) = (Arc::clone(&self), Arc::clone(&link), identity.clone());
            async move { this.answer(request, &link, peer, identity).await }
        };
        let served = Box::pin(serve(io, limits, &closing, service));
        let refused = tokio::select! {
            biased;
            refused = served => refused,
            () = trusted.cut() => {
                // Whatever is on its way ends here, and must not look whole.
                link.reset();
                None
            }
        };
        if let Some(reason) = refused {
            self.shared.telemetry.refused_head(Direction::Inbound, peer, reason);
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, SpiffeId, Evidence)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.shared.server_tls));
        let metrics = self.shared.telemetry.metrics();
        let accepted = timeout(self.shared.limits.handshake_timeout, acceptor.accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                match outrigger_tls::refusal(&error) {
                    Some(refusal) => {
                        metrics.rejected(Direction::Inbound, refusal.reason);
                        if let Some(unsaid) = self.shared.telemetry.say(Direction::Inbound) {
                            let presented = refusal.presented.as_ref().map(SpiffeId::as_str);
                            let reason = refusal.reason.as_str();
                            tracing::warn!(downstream.addr = %peer, presented, reason, unsaid, "peer rejected");
                        }
                    }
                    None => {
                        metrics.handshake_failed(Direction::Inbound);
                        tracing::debug!(downstream.addr = %peer, %error, "handshake failed");
                    }
                }
                return None;
            }
            Err(_elapsed) => {
                metrics.handshake_failed(Direction::Inbound);
                tracing::debug!(downstream.addr = %peer, "handshake timed out");
                return None;
            }
        };
        let (_, connection) = stream.get_ref();
        let ours = connection.alpn_protocol() == Some(mesh::ALPN_H1);
        match (peer_id(connection), Evidence::of(connection, Side::Client)) {
            (Some(identity), Some(evidence)) if ours => Some((stream, identity, evidence)),
            _ => {
                metrics.handshake_failed(Direction::Inbound);
                tracing::debug!(downstream.addr = %peer, "peer offered no protocol of the mesh");
                None
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        link: &Arc<Link>,
        peer: SocketAddr,
        identity: SpiffeId,
    ) -> Response<ResponseBody> {
        let mut record = Record::new(Direction::Inbound, peer);
        record.describe(&request);
        record.generation = self.shared.snapshot.load().generation;
        record.upstream = Some(self.application.address);
        record.downstream_identity = Some(identity.clone());
        let mut exchange = Exchange::begin(&self.shared.telemetry, link, record);
        match Box::pin(self.forward(request, link, &identity, &mut exchange)).await {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                headers::inbound_response(&mut head.headers);
                head.version = http::Version::HTTP_11;
                head.headers.insert(timing::HEADER, timing::encode(&exchange.inbound_figures()));
                exchange.answered(head.status);
                let timeout = self.shared.limits.body_timeout;
                Response::from_parts(head, ResponseBody::upstream(body, timeout, None, exchange))
            }
            Err(reason) => {
                let figures = exchange.inbound_figures();
                let mut response = own_answer(reason, exchange);
                response.headers_mut().insert(timing::HEADER, timing::encode(&figures));
                response
            }
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        link: &Link,
        peer: &SpiffeId,
        exchange: &mut Exchange,
    ) -> Result<Response<Incoming>, Reason> {
        if link.is_ambiguous() {
            return Err(Reason::BadRequest);
        }
        // A sidecar sends the target's own form, never what is said to a proxy.
        if check_head(&request)?.form != Form::Origin {
            return Err(Reason::BadRequest);
        }
        let own = self.shared.identity.id();
        let names = headers::inbound_request(request.headers_mut(), peer, own.as_ref());
        exchange.note(|record| record.name(names));
        let max_idle = if is_idempotent(request.method()) { Duration::MAX } else { FRESH };
        let (mut request, upload) = RequestBody::wrap(request, self.shared.limits.body_timeout);
        exchange.set_upload(&upload);
        self.on_informational(&mut request, &upload);
        let attempt = Attempt {
            pool: &self.pool,
            connect: &self.application,
            connect_timeout: CONNECT_TIMEOUT,
            max_idle,
            limits: &self.shared.limits,
            telemetry: &self.shared.telemetry,
        };
        let (response, mut lease) = attempt.send(request, &upload, exchange).await?;
        lease.set_keep(keep_for(response.headers()));
        exchange.hold(Held { lease: Some(lease), in_flight: None });
        Ok(response)
    }

    /// `100 Continue` opens the way for the body, which makes the parser on the mesh leg say it there. Others cannot be
    /// passed on by the parser, and are counted.
    fn on_informational(&self, request: &mut Request<RequestBody>, upload: &Arc<Upload>) {
        let (upload, telemetry) = (Arc::clone(upload), self.shared.telemetry.clone());
        ext::on_informational(request, move |response| {
            if response.status() == http::StatusCode::CONTINUE {
                upload.continued();
            } else {
                telemetry.metrics().informational_dropped.inc();
            }
        });
    }
}
