//! Outbound: from the own workload into the mesh. A forward proxy for mesh names, on loopback: absolute form, CONNECT,
//! and requests that are routed by their `Host` or `:authority`; beside it, addresses that each lead to one service.

mod attempts;
mod captured;
mod destination;
mod discover;
mod external;
mod forward;
mod leg;
mod mesh;
mod opaque;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
use hickory_resolver::TokioResolver;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, response};
use hyper::body::Incoming;
use outrigger_core::{
    detect::{Verdict, version},
    grpc,
    reason::Reason,
};
use outrigger_tls::Identity;
use tokio::{net::TcpStream, time::Instant};

pub use discover::{Discover, DiscoverError, Resolving};

use crate::{
    accept::Connection,
    data_path::Shared,
    detect::Detection,
    headers::{Field, Fields},
    http::{
        Clients, Closing, Form, Guarded, Idle, Limits, Link, Overheard, ResponseBody, Shape, Target,
        accepted, ask_patience, check_head, check_size, overhear, own_answer, serve_http1, serve_http2,
        to_origin_form,
    },
    overload::Line,
    telemetry::{Authority, Direction, Exchange, Party, Record, Role},
    upstream::UpstreamBody,
    worker::Loaded,
};
use destination::{Destination, Last, MeshPort};
use mesh::MeshPools;

/// What an accepted connection occupies while something of it is open.
pub(crate) type Occupied = Arc<(Connection, Loaded)>;

/// The way into the mesh, on one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    shared: Arc<Shared>,
    pools: MeshPools,
    /// For names outside the mesh; made when the first one is asked for.
    resolver: OnceLock<TokioResolver>,
    /// Its worker's.
    line: Option<Arc<Line>>,
}

/// A connection of the own workload: its peer, and what it leads to, if it leads to one service only.
#[derive(Debug, Clone)]
struct Downstream {
    peer: SocketAddr,
    /// The same as it is logged.
    party: OnceLock<Arc<Party>>,
    occupied: Occupied,
    captured: Option<Arc<MeshPort>>,
    last: Arc<Last>,
}

/// A request that is being answered.
type Answering = Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>;

/// What becomes of a request.
enum Answer {
    /// The upstream's, with the moment at which it has to be delivered whole.
    Upstream(Box<response::Parts>, UpstreamBody, Option<Instant>),
    /// The upstream's, after which the connection is no longer HTTP's.
    Switched(Box<response::Parts>),
    /// `200` to a CONNECT; what follows is no longer of this connection's HTTP.
    Tunnel,
}

/// Why a request is answered here.
struct Refusal {
    reason: Reason,
    /// So did a peer's sidecar, in place of its application.
    of_peer: bool,
}

impl Downstream {
    fn new(peer: SocketAddr, occupied: Occupied, captured: Option<Arc<MeshPort>>) -> Self {
        Self { peer, party: OnceLock::new(), occupied, captured, last: Arc::default() }
    }

    /// The own workload at the peer's address.
    fn party(&self, identity: &Identity) -> Arc<Party> {
        named_once(&self.party, self.peer, identity)
    }
}

/// Whoever has our `identity`, at `peer`: kept in `party` as soon as there is one, for it stays the same. It has no name before
/// the credential came.
fn named_once(party: &OnceLock<Arc<Party>>, peer: SocketAddr, identity: &Identity) -> Arc<Party> {
    if let Some(party) = party.get() {
        return Arc::clone(party);
    }
    let made = Party::downstream(peer, identity.id());
    if made.is_known() {
        let _other_was_first = party.set(Arc::clone(&made));
    }
    made
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, of_peer: false }
    }
}

impl Refusal {
    fn is_want_of_room(&self) -> bool {
        if self.of_peer { self.reason.is_want_of_room_there() } else { self.reason.is_want_of_room() }
    }
}

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>, line: Option<Arc<Line>>) -> Arc<Self> {
        Arc::new(Self { shared, pools: MeshPools::default(), resolver: OnceLock::new(), line })
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr, occupied: Occupied) {
        let downstream = Downstream::new(peer, occupied, None);
        if let Some(begun) = Begun::of(&mut stream, Bytes::new(), &self.shared.limits).await {
            self.serve_http(stream, begun, downstream).await;
        }
    }

    async fn serve_http(self: Arc<Self>, stream: TcpStream, begun: Begun, downstream: Downstream) {
        let shared = Arc::clone(&self.shared);
        let Begun { read, version, since } = begun;
        let (limits, closing) = (&shared.limits, &Closing::new(&shared.draining_outbound));
        let peer = downstream.peer;
        let refused = match version {
            Version::HTTP_2 => {
                let io = Guarded::http2(stream, read, limits);
                let service = self.service(io.link(), downstream);
                let served = serve_http2(io, Clients::One, limits, closing, service);
                let tell = |refused: &Overheard| {
                    shared.telemetry.refused(Direction::Outbound, Role::Downstream, peer, refused);
                };
                Box::pin(overhear(served, tell)).await
            }
            _ => {
                let io = Guarded::http1(stream, read, limits).begun(since);
                let service = self.service(io.link(), downstream);
                Box::pin(serve_http1(io, limits, closing, service)).await
            }
        };
        if let Some(reason) = refused {
            let peer = Party::downstream(peer, shared.identity.id());
            shared.telemetry.refused_head(Direction::Outbound, peer, reason);
        }
    }

    fn service(
        self: &Arc<Self>,
        link: &Arc<Link>,
        downstream: Downstream,
    ) -> impl Fn(Request<Incoming>) -> Answering + Send + use<> {
        // One count for all of it, and not one for each part.
        let all = Arc::new((Arc::clone(self), Arc::clone(link), downstream));
        move |request| Self::answer(&all, request)
    }

    /// Answers a request of a connection. Blocks, here and in [`Self::handle`], in place of an `async fn`, which keeps twice what
    /// it is given: this future is made for every request, and moved as a whole.
    fn answer(all: &Arc<(Arc<Self>, Arc<Link>, Downstream)>, request: Request<Incoming>) -> Answering {
        let all = Arc::clone(all);
        Box::pin(async move {
            let (this, link, downstream) = &*all;
            let mut exchange = this.begin(&request, link, downstream);
            let connects = request.method() == Method::CONNECT;
            let shape = Shape::of(request.method());
            match this.handle(request, link, downstream, &mut exchange).await {
                Ok(answer) => this.respond(answer, exchange),
                Err(refusal) => refuse(&refusal, (shape, connects), exchange),
            }
        })
    }

    fn begin(&self, request: &Request<Incoming>, link: &Arc<Link>, downstream: &Downstream) -> Exchange {
        let mut record = Record::new(Direction::Outbound, downstream.party(&self.shared.identity));
        record.describe(request);
        Exchange::begin(&self.shared.telemetry, link, record)
    }

    fn respond(&self, answer: Answer, mut exchange: Exchange) -> Response<ResponseBody> {
        match answer {
            Answer::Upstream(head, body, deadline) => {
                exchange.answered(head.status, &head.headers, Instant::now());
                let idle = exchange.idle().unwrap_or_else(|| Idle::new(self.shared.limits.body_timeout));
                Response::from_parts(*head, ResponseBody::upstream(body, idle, deadline, exchange))
            }
            Answer::Switched(head) => Response::from_parts(*head, ResponseBody::own(Bytes::new(), None)),
            Answer::Tunnel => {
                exchange.answered(StatusCode::OK, &http::HeaderMap::new(), Instant::now());
                accepted(exchange)
            }
        }
    }

    /// What kind it is, and what is wrong with it, without a look at where it goes.
    fn check(
        &self,
        request: &Request<Incoming>,
        link: &Link,
        exchange: &mut Exchange,
    ) -> Result<Target, Reason> {
        let fields = Fields::of(request.headers());
        // First of all: a refusal is put in gRPC's words.
        if grpc::is_grpc(fields.get(Field::ContentType)) {
            exchange.set_grpc();
        }
        if let Some(line) = &self.line {
            line.admit(exchange.head_read().into_std()).map_err(|refused| refused.reason)?;
        }
        if link.is_ambiguous() {
            return Err(Reason::BadRequest);
        }
        let target = check_head(request, fields)?;
        check_size(request, &self.shared.limits)?;
        if self.shared.hop.is_in(fields) {
            return Err(Reason::LoopDetected);
        }
        exchange.note(|record| record.authority = Some(Authority::Target(target.authority.clone())));
        Ok(target)
    }

    fn handle<'a>(
        self: &'a Arc<Self>,
        mut request: Request<Incoming>,
        link: &Link,
        downstream: &'a Downstream,
        exchange: &'a mut Exchange,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send + 'a {
        let target = self.check(&request, link, exchange);
        async move {
            let target = target?;
            let destination = match &downstream.captured {
                // Where the connection was opened to decides, not the Host.
                Some(_) if target.form == Form::Authority => {
                    return Err(Reason::BadRequest.into());
                }
                Some(port) => Destination::Mesh(port.renewed(&self.shared)),
                None => self.find(&target, downstream).await?,
            };
            exchange.note(|record| record.generation = destination.generation());
            match (destination, target.form) {
                (Destination::Mesh(port), Form::Authority) => {
                    self.tunnel_to_mesh(&mut request, port, downstream);
                    Ok(Answer::Tunnel)
                }
                (Destination::Mesh(port), _) => {
                    to_origin_form(&mut request, &target)?;
                    let forwarding = self.forward(request, &port, exchange)?;
                    forwarding.await
                }
                (Destination::External { host, port, traffic, .. }, Form::Authority) => {
                    Box::pin(self.tunnel_outside(&mut request, (&host, port), traffic, downstream)).await?;
                    Ok(Answer::Tunnel)
                }
                (Destination::External { .. }, _) => Err(Reason::ExternalDenied.into()),
            }
        }
    }
}

/// An answer of this proxy's own, or of a peer's in its application's place.
fn refuse(refusal: &Refusal, (shape, connects): (Shape, bool), exchange: Exchange) -> Response<ResponseBody> {
    let shape = if exchange.is_grpc() { Shape::Grpc } else { shape };
    let mut response = own_answer(refusal.reason, shape, exchange);
    if refusal.is_want_of_room() {
        ask_patience(shape, response.headers_mut());
    }
    if connects {
        // What comes after a CONNECT was not watched: neither its framing nor how slowly it comes.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Outbound {
    async fn find(&self, target: &Target, downstream: &Downstream) -> Result<Destination, Reason> {
        if let Some(port) = downstream.last.recall(&target.authority, &self.shared) {
            return Ok(Destination::Mesh(port));
        }
        let found = Box::pin(Destination::find(&self.shared, target)).await?;
        if let Destination::Mesh(port) = &found {
            downstream.last.remember(&target.authority, port);
        }
        Ok(found)
    }
}

/// A connection of which the first bytes say that HTTP is spoken there.
struct Begun {
    read: Bytes,
    version: Version,
    /// When they came.
    since: Instant,
}

impl Begun {
    /// Waits for them, after `prefix`; `None`: nothing comes. A client may be idle first; once it has begun, it has no more
    /// time for its head than another one.
    async fn of(stream: &mut TcpStream, prefix: Bytes, limits: &Limits) -> Option<Self> {
        let detection = |patience| Detection { patience, counted: None };
        let said_anything = |read: &[u8]| (!read.is_empty()).then_some(());
        let first =
            detection(limits.idle_timeout).run(stream, BytesMut::from(prefix), said_anything).await.ok()?;
        first.verdict.ok()?;
        let since = Instant::now();
        let first = detection(limits.head_timeout).run(stream, first.read, said(version)).await.ok()?;
        let version = match first.verdict {
            Ok(Verdict::Http2) => Version::HTTP_2,
            // The parser says what is wrong with it.
            _ => Version::HTTP_11,
        };
        Some(Self { read: first.read.freeze(), version, since })
    }
}

/// A verdict, once there is one.
fn said(decide: fn(&[u8]) -> Verdict) -> impl Fn(&[u8]) -> Option<Verdict> {
    move |read| Some(decide(read)).filter(|verdict| *verdict != Verdict::More)
}

#[cfg(test)]
mod tests {
    use outrigger_tls::testing::Authority as Issuer;

    use super::*;

    #[test]
    fn a_connection_that_came_before_the_credential_has_a_name_as_soon_as_there_is_one() {
        let (identity, party) = (Identity::empty(), OnceLock::new());
        let named = || named_once(&party, ([127, 0, 0, 1], 1).into(), &identity);
        assert!(!named().is_known());
        identity.set_svid(Issuer::new("outrigger.local").workload("demo", "front"));
        let first = named();
        assert!(first.is_known());
        assert!(Arc::ptr_eq(&named(), &first), "made once");
    }
}
