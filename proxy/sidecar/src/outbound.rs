//! Outbound: from the own workload into the mesh. A forward proxy for mesh names, on loopback: absolute form, CONNECT,
//! and requests that are routed by their `Host`.

mod destination;
mod discover;
mod mesh;
mod service;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, response};
use hyper::{body::Incoming, ext, upgrade::OnUpgrade};
use outrigger_core::{
    model::{AppProtocol, ExternalTraffic, HeaderMutation, HttpFilter, RouteRule},
    reason::Reason,
    route,
    telemetry::{Class, EdgeKey, timing},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

pub use discover::{Discover, DiscoverError, Resolving};

use crate::{
    accept::Connection,
    attempt::Attempt,
    data_path::Shared,
    headers,
    http::{
        Form, Guarded, Link, RequestBody, ResponseBody, Upload, accepted, check_head, own_answer, serve,
        to_origin_form,
    },
    telemetry::{Direction, Exchange, Held, Record},
    tunnel,
    worker::Loaded,
};
use destination::{Choice, Destination, MeshPort};
use mesh::MeshPools;
pub(crate) use mesh::refused_us;

/// What an accepted connection occupies while something of it is open.
pub(crate) type Occupied = Arc<(Connection, Loaded)>;

/// The way into the mesh, on one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    shared: Arc<Shared>,
    pools: MeshPools,
    /// For names outside the mesh; made when the first one is asked for.
    resolver: OnceLock<TokioResolver>,
}

/// A connection of the own workload: its peer, and what it was CONNECTed to, if it was.
#[derive(Debug, Clone)]
struct Downstream {
    peer: SocketAddr,
    occupied: Occupied,
    tunnelled: Option<Arc<MeshPort>>,
}

/// What becomes of a request.
enum Answer {
    /// The upstream's, with the moment at which it has to be delivered whole.
    Upstream(Box<response::Parts>, Incoming, Option<Instant>),
    /// `200` to a CONNECT; what follows is no longer of this connection's HTTP.
    Tunnel,
}

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, pools: MeshPools::default(), resolver: OnceLock::new() })
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, occupied: Occupied) {
        let downstream = Downstream { peer, occupied, tunnelled: None };
        self.serve_http(stream, Bytes::new(), downstream).await;
    }

    async fn serve_http(self: Arc<Self>, stream: TcpStream, prefix: Bytes, downstream: Downstream) {
        let limits = &self.shared.limits;
        let io = Guarded::new(stream, prefix, limits);
        let link = Arc::clone(io.link());
        let service = |request| {
            let (this, link, downstream) = (Arc::clone(&self), Arc::clone(&link), downstream.clone());
            async move { this.answer(request, &link, &downstream).await }
        };
        let refused = Box::pin(serve(io, limits, &self.shared.draining_outbound, service)).await;
        if let Some(reason) = refused {
            self.shared.telemetry.refused_head(Direction::Outbound, downstream.peer, reason);
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        link: &Arc<Link>,
        downstream: &Downstream,
    ) -> Response<ResponseBody> {
        let mut record = Record::new(Direction::Outbound, downstream.peer);
        record.describe(&request);
        record.downstream_identity = self.shared.identity.id();
        let mut exchange = Exchange::begin(&self.shared.telemetry, link, record);
        let connects = request.method() == Method::CONNECT;
        match Box::pin(self.handle(request, link, downstream, &mut exchange)).await {
            Ok(Answer::Upstream(head, body, deadline)) => {
                exchange.answered(head.status);
                let timeout = self.shared.limits.body_timeout;
                Response::from_parts(*head, ResponseBody::upstream(body, timeout, deadline, exchange))
            }
            Ok(Answer::Tunnel) => {
                exchange.answered(StatusCode::OK);
                accepted(exchange)
            }
            Err(reason) => {
                let mut refusal = own_answer(reason, exchange);
                if connects {
                    // What comes after a CONNECT was not watched: neither its framing nor how slowly it comes.
                    refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                refusal
            }
        }
    }

    async fn handle(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        link: &Link,
        downstream: &Downstream,
        exchange: &mut Exchange,
    ) -> Result<Answer, Reason> {
        if link.is_ambiguous() {
            return Err(Reason::BadRequest);
        }
        let target = check_head(&request)?;
        if self.shared.hop.is_in(request.headers()) {
            return Err(Reason::LoopDetected);
        }
        exchange.note(|record| record.authority = Some(target.authority.as_str().to_owned()));
        let destination = match &downstream.tunnelled {
            // Like a captured connection: where it was opened to decides, not the Host.
            Some(_) if target.form == Form::Authority => return Err(Reason::BadRequest),
            Some(port) => Destination::Mesh(port.renewed(&self.shared)),
            None => Destination::find(&self.shared, &target).await?,
        };
        exchange.note(|record| record.generation = destination.generation());
        match (destination, target.form) {
            (Destination::Mesh(port), Form::Authority) => self.tunnel_to_mesh(&mut request, port, downstream),
            (Destination::Mesh(port), _) => {
                to_origin_form(&mut request, &target)?;
                self.forward(request, &port, exchange).await
            }
            (Destination::External { host, port, traffic, .. }, Form::Authority) => {
                self.tunnel_outside(&mut request, (&host, port), traffic, downstream).await
            }
            (Destination::External { .. }, _) => Err(Reason::ExternalDenied),
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        port: &MeshPort,
        exchange: &mut Exchange,
    ) -> Result<Answer, Reason> {
        let choice = port.choose(&request)?;
        let edge = EdgeKey {
            destination: Some(choice.destination.clone()),
            rule: choice.rule_name(),
            class: Class::Request,
        };
        exchange.note(|record| {
            record.destination.clone_from(&edge.destination);
            record.route.clone_from(&edge.rule);
        });
        exchange.set_edge(choice.edge(&edge, self.shared.telemetry.edge_table()));
        if let Some(rule) = choice.rule {
            edit(rule, request.headers_mut(), request_edits);
        }
        let names = headers::outbound_request(request.headers_mut(), &self.shared.hop);
        exchange.note(|record| record.name(names));
        let timeout = choice.rule.map_or(port.config().request_timeout, |rule| {
            rule.request_timeout.or(port.config().request_timeout)
        });
        let started =
            exchange.stamps().map_or_else(Instant::now, |stamps| Instant::from_std(stamps.head_read));
        let deadline = timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| started + timeout);
        let (request, upload) = RequestBody::wrap(request, self.shared.limits.body_timeout);
        exchange.set_upload(&upload);
        let attempt = self.attempt(&choice, request, &upload, port.config().connect_timeout, exchange);
        let response = match deadline {
            Some(deadline) => {
                timeout_at(deadline, attempt).await.map_err(|_elapsed| Reason::RequestTimeout)??
            }
            None => attempt.await?,
        };
        let (mut head, body) = response.into_parts();
        self.read_figures(&head.headers, exchange);
        headers::outbound_response(&mut head.headers);
        if let Some(rule) = choice.rule {
            edit(rule, &mut head.headers, response_edits);
        }
        head.version = http::Version::HTTP_11;
        Ok(Answer::Upstream(Box::new(head), body, deadline))
    }

    async fn attempt(
        &self,
        choice: &Choice<'_>,
        mut request: Request<RequestBody>,
        upload: &Arc<Upload>,
        connect_timeout: Duration,
        exchange: &mut Exchange,
    ) -> Result<Response<Incoming>, Reason> {
        let (endpoint, state) = choice.pick()?;
        exchange.note(|record| {
            record.upstream = Some(endpoint.address);
            record.upstream_identity = Some(endpoint.identity.clone());
        });
        let in_flight = state.begin();
        if upload.is_expecting() {
            let upload = Arc::clone(upload);
            ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    upload.continued();
                }
            });
        }
        let peer = self.pools.of(state, &self.shared);
        let limits = &self.shared.limits;
        let attempt = Attempt {
            pool: peer.pool(),
            connect: &*peer,
            connect_timeout,
            max_idle: limits.pool_idle,
            limits,
            telemetry: &self.shared.telemetry,
        };
        let (response, mut lease) = attempt.send(request, upload, exchange).await?;
        lease.set_keep(limits.pool_idle);
        exchange.hold(Held { lease: Some(lease), in_flight: Some(in_flight) });
        Ok(response)
    }

    /// The peer is authenticated and the connection our own: its figures are read here, and stripped with all others.
    fn read_figures(&self, headers: &http::HeaderMap, exchange: &mut Exchange) {
        match headers.get(timing::HEADER).map(timing::parse) {
            Some(Ok(figures)) => exchange.set_figures(figures),
            Some(Err(_)) => {
                self.shared.telemetry.metrics().timings_invalid.inc();
            }
            None => {}
        }
    }

    /// CONNECT to a name of the mesh: what is inside is served like a connection of its own, with mutual TLS from here.
    fn tunnel_to_mesh(
        self: &Arc<Self>,
        request: &mut Request<Incoming>,
        port: MeshPort,
        downstream: &Downstream,
    ) -> Result<Answer, Reason> {
        let detect = match port.protocol() {
            AppProtocol::Http1 => false,
            AppProtocol::Detect => true,
            AppProtocol::Tcp | AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tls => {
                return Err(Reason::UnsupportedProtocol);
            }
        };
        let upgrade = hyper::upgrade::on(request);
        let downstream = Downstream { tunnelled: Some(Arc::new(port)), ..downstream.clone() };
        let this = Arc::clone(self);
        let shared = Arc::clone(&self.shared);
        // Boxed: the future of a connection holds that of the connection inside it.
        let inside: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let Some((stream, prefix)) = upgraded(upgrade).await else {
                return;
            };
            if detect && !is_http1(&stream, &prefix, this.shared.limits.head_timeout).await {
                let peer = downstream.peer;
                this.shared.telemetry.refused_head(Direction::Outbound, peer, Reason::UnsupportedProtocol);
                return;
            }
            this.serve_http(stream, prefix, downstream).await;
        });
        shared.tasks.spawn(inside);
        Ok(Answer::Tunnel)
    }

    async fn tunnel_outside(
        self: &Arc<Self>,
        request: &mut Request<Incoming>,
        (host, port): (&str, Option<u16>),
        traffic: ExternalTraffic,
        downstream: &Downstream,
    ) -> Result<Answer, Reason> {
        if traffic != ExternalTraffic::Connect443 || port != Some(443) {
            return Err(Reason::ExternalDenied);
        }
        let upstream = tunnel::open(host, 443, &self.resolver, &self.shared.never_dialled).await?;
        let upgrade = hyper::upgrade::on(request);
        let occupied = Arc::clone(&downstream.occupied);
        self.shared.tasks.spawn(async move {
            if let Some((stream, prefix)) = upgraded(upgrade).await {
                tunnel::relay(stream, prefix, upstream).await;
            }
            drop(occupied);
        });
        Ok(Answer::Tunnel)
    }
}

/// The socket under a connection that left HTTP, with what was read of it already.
async fn upgraded(upgrade: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "client went away before its tunnel was open");
            return None;
        }
    };
    let parts = upgraded.downcast::<hyper_util::rt::TokioIo<Guarded<TcpStream>>>().ok()?;
    let (stream, rest) = parts.io.into_inner().into_inner()?;
    let prefix = match (parts.read_buf.is_empty(), rest.is_empty()) {
        (_, true) => parts.read_buf,
        (true, false) => rest,
        (false, false) => [parts.read_buf, rest].concat().into(),
    };
    Some((stream, prefix))
}

/// Whether the first byte could begin a method. TLS and most others begin with one that could not.
async fn is_http1(stream: &TcpStream, prefix: &Bytes, patience: Duration) -> bool {
    let first = match prefix.first() {
        Some(first) => *first,
        None => {
            let mut first = [0; 1];
            match tokio::time::timeout(patience, stream.peek(&mut first)).await {
                Ok(Ok(1)) => first[0],
                _ => return false,
            }
        }
    };
    first.is_ascii_alphabetic()
}

fn request_edits(filter: &HttpFilter) -> Option<&HeaderMutation> {
    match filter {
        HttpFilter::RequestHeaders(mutation) => Some(mutation),
        HttpFilter::ResponseHeaders(_) => None,
    }
}

fn response_edits(filter: &HttpFilter) -> Option<&HeaderMutation> {
    match filter {
        HttpFilter::ResponseHeaders(mutation) => Some(mutation),
        HttpFilter::RequestHeaders(_) => None,
    }
}

/// Applies a rule's edits. What frames the message, and what is said of the connection it came on, is not theirs to
/// change: the message would be framed wrong, or fields of one connection would be passed on.
fn edit(rule: &RouteRule, headers: &mut http::HeaderMap, edits: fn(&HttpFilter) -> Option<&HeaderMutation>) {
    if rule.filters.is_empty() {
        return;
    }
    let fixed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION]
        .map(|name| (headers.get_all(&name).iter().cloned().collect::<Vec<_>>(), name));
    for mutation in rule.filters.iter().filter_map(edits) {
        route::mutate(mutation, headers);
    }
    for (values, name) in fixed {
        headers.remove(&name);
        for value in values {
            headers.append(&name, value);
        }
    }
}
