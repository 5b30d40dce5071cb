//! One request from a peer to the application, and the answer back.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, Scheme},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use outrigger_core::{
    deadline::{Deadline, header as timeouts},
    grpc,
    reason::Reason,
    telemetry::{timing, traces::TraceId},
};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;

use super::{
    Answering, Downstream, Inbound,
    admission::{give_back, refuse_for_now},
    application::{KEEP, keep_for},
};
use crate::{
    carry,
    headers::{self, Field, Fields, Way},
    http::{
        Form, Gate, Idle, ResponseBody, Shape, Upload, check_head, check_size, expects_continue,
        is_idempotent, own_answer,
    },
    io::Ahead,
    settings::InboundProtocol,
    telemetry::{Direction, Exchange, Record},
    upstream::{Answer, Attempt, Demand, Failed, Head, Leg, Occupied},
};

/// TCP to an application on the same machine.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An application may close an idle connection at any time. A request that must not be sent twice takes none that was
/// idle for longer.
const FRESH: Duration = Duration::from_millis(100);

/// The caller's sidecar keeps the time that a body may stand still, and tells why; this one only does where that one
/// cannot, or does not.
const SLACK: Duration = Duration::from_secs(1);

/// A request on its way to the application.
struct Prepared {
    head: Head,
    upload: Arc<Upload>,
    leg: Leg,
    /// The downstream's side of an upgrade that was asked for.
    upgrade: Option<OnUpgrade>,
    deadline: Deadline,
    trace: TraceId,
}

impl Inbound {
    /// Answers a request of a connection. A block in place of an `async fn`, which keeps twice what it is given: this future is made
    /// for every request, and moved as a whole.
    pub(super) fn answer(both: &Arc<(Arc<Self>, Downstream)>, request: Request<Incoming>) -> Answering {
        let both = Arc::clone(both);
        Box::pin(async move {
            let (this, downstream) = &*both;
            let (mut exchange, shape) = (this.begin(&request, downstream), Shape::of(request.method()));
            match this.admit(&request, &exchange) {
                Ok(place) => exchange.hold_place(place),
                Err(refused) => return refuse_for_now(refused, shape, exchange),
            }
            let mut prepared = match this.prepare(request, downstream, &mut exchange) {
                Ok(prepared) => prepared,
                Err(reason) => return refuse(Failed::after(reason), shape, exchange),
            };
            match this.forward(&mut prepared, &mut exchange).await {
                Ok(answer) => this.deliver(answer, (prepared.upgrade, downstream), exchange),
                Err(failed) => refuse(failed, shape, exchange),
            }
        })
    }

    fn begin(&self, request: &Request<Incoming>, downstream: &Downstream) -> Exchange {
        let mut record = Record::new(Direction::Inbound, Arc::clone(&downstream.party));
        record.describe(request);
        record.generation = self.shared.snapshot.load().generation;
        record.upstream = Some(Arc::clone(&self.application.connector().party));
        Exchange::begin(&self.shared.telemetry, &downstream.link, record)
    }

    /// Checks the head, and makes it one for the application.
    fn prepare(
        &self,
        mut request: Request<Incoming>,
        downstream: &Downstream,
        exchange: &mut Exchange,
    ) -> Result<Prepared, Reason> {
        if downstream.link.is_ambiguous() {
            return Err(Reason::BadRequest);
        }
        let fields = Fields::of(request.headers());
        // A sidecar sends the target's own form, never what is said to a proxy.
        if check_head(&request, fields)?.form != Form::Origin {
            return Err(Reason::BadRequest);
        }
        check_size(&request, &self.shared.limits)?;
        let grpc = grpc::is_grpc(fields.get(Field::ContentType));
        if grpc {
            exchange.set_grpc();
        }
        let wants_http2 = headers::wants_http2(fields);
        let leg = self.leg(wants_http2);
        let idle = self.idle(headers::idle(fields));
        let expects = fields.has(Field::Expect);
        let asked = headers::asked_upgrade(request.version(), fields).filter(|_| leg == Leg::Http1);
        let upgrade = asked.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        let way = Way { leg, upgrade: asked };
        let names = headers::inbound_request(&mut head.headers, &downstream.client_cert, &way);
        let trace = names.trace;
        exchange.note(|record| record.name(names));
        let gate = if expects { open_gate(leg, &mut head) } else { Gate::Open };
        let upload = Upload::new(body, exchange.head_read(), head.version, gate, idle, grpc);
        exchange.set_upload(&upload);
        let left = timeouts::read(&head.headers, grpc).map_err(|_malformed| Reason::BadRequest)?;
        let deadline = Deadline::new(exchange.head_read().into_std(), None, left);
        let head = match leg {
            Leg::Http1 => {
                if wants_http2 {
                    headers::join_cookies(&mut head.headers);
                }
                Head { method: head.method, uri: head.uri, headers: head.headers }
            }
            Leg::Http2 => absolute(head)?,
        };
        Ok(Prepared { head, upload, leg, upgrade, deadline, trace })
    }

    /// How long the bodies may stand still: as long as the caller's policy says, if it does, and the own limit allows.
    fn idle(&self, said: Option<Duration>) -> Duration {
        let limits = &self.shared.limits;
        let said = said.unwrap_or(limits.body_timeout);
        let kept = if said.is_zero() { limits.inbound_idle } else { said.saturating_add(SLACK) };
        kept.min(limits.inbound_idle)
    }

    /// What the application speaks; where that is not declared, what the caller spoke.
    fn leg(&self, wants_http2: bool) -> Leg {
        match self.protocol {
            InboundProtocol::Http2 | InboundProtocol::Grpc => Leg::Http2,
            InboundProtocol::Detect if wants_http2 => Leg::Http2,
            InboundProtocol::Http1 | InboundProtocol::Tcp | InboundProtocol::Detect => Leg::Http1,
        }
    }

    async fn forward(&self, prepared: &mut Prepared, exchange: &mut Exchange) -> Result<Answer, Failed> {
        let Prepared { head, upload, leg, upgrade, deadline, trace } = prepared;
        let limits = &self.shared.limits;
        let attempt = Attempt {
            upstream: &self.application,
            leg: *leg,
            demand: Demand {
                max_idle: if is_idempotent(&head.method) { Duration::MAX } else { FRESH },
                keep: KEEP,
                closes_silently: true,
                connect_timeout: CONNECT_TIMEOUT,
                queue_timeout: limits.queue_timeout,
                connections: limits.app_connections,
                pending: limits.app_pending,
            },
            deadline: *deadline,
            grpc: exchange.is_grpc(),
            limits,
            telemetry: &self.shared.telemetry,
            may_switch: upgrade.is_some(),
            counts_informational: true,
        };
        exchange.enter(*trace);
        let sent = {
            // Pinned where it is made: it is large, and would be moved twice else.
            let mut sending = pin!(attempt.send(head, upload, (Instant::now(), &mut *exchange)));
            match deadline.limit() {
                // A caller that waits no longer must not cost the application any more.
                Some(limit) => timeout_at(Instant::from_std(limit.at), sending.as_mut())
                    .await
                    .unwrap_or(Err(Failed::after(limit.reason))),
                None => sending.as_mut().await,
            }
        };
        give_back(&sent, exchange);
        let answer = sent?;
        upload.settle();
        Ok(answer)
    }

    fn deliver(
        &self,
        answer: Answer,
        (upgrade, peer): (Option<OnUpgrade>, &Downstream),
        mut exchange: Exchange,
    ) -> Response<ResponseBody> {
        let Answer { mut head, body, mut occupied, refused: _ } = answer;
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let switched = switches.then(|| head.headers.get(header::UPGRADE).cloned()).flatten();
        let upstream = head.extensions.remove::<OnUpgrade>();
        let kept = headers::inbound_response(&mut head.headers);
        if let Some(Occupied::Http1(lease)) = &mut occupied {
            lease.set_keep(keep_for(kept));
        }
        head.version = Version::HTTP_11;
        let now = Instant::now();
        let mut timing = timing_value(&exchange, now);
        timing.set_sensitive(!peer.naming.is_due(now, || head.headers.contains_key(header::DATE)));
        head.headers.insert(timing::HEADER, timing);
        exchange.answered(head.status, &head.headers, now);
        if switches && let (Some(protocol), Some(downstream), Some(upstream)) = (switched, upgrade, upstream)
        {
            headers::switch(&mut head.headers, protocol);
            exchange.hold_upstream(occupied);
            let (idle, cut, switched) =
                (self.shared.limits.inbound_idle, peer.cut.clone(), exchange.switch());
            self.shared.tasks.spawn(peer.switched.track_future(async move {
                let cut = cut.cancelled();
                carry::upgraded::<TlsStream<Ahead>>(downstream, upstream, idle, cut, switched).await;
            }));
            return Response::from_parts(head, ResponseBody::own(bytes::Bytes::new(), None));
        }
        exchange.hold_upstream(occupied);
        let idle = exchange.idle().unwrap_or_else(|| Idle::new(self.shared.limits.inbound_idle));
        Response::from_parts(head, ResponseBody::upstream(body, idle, None, exchange))
    }
}

/// Whether the body of a request that expects something waits for leave to be sent; what else is expected is not passed on.
fn open_gate(leg: Leg, head: &mut Parts) -> Gate {
    let continues = expects_continue(Fields::of(&head.headers));
    if leg == Leg::Http1 && head.version != Version::HTTP_2 && continues {
        return Gate::Expecting;
    }
    head.headers.remove(header::EXPECT);
    Gate::Open
}

/// Another one in each answer, see [`headers::Naming`].
fn timing_value(exchange: &Exchange, now: Instant) -> HeaderValue {
    let mut value = timing::encode(&exchange.inbound_figures(now));
    value.set_sensitive(true);
    value
}

/// The own answer, which tells the caller's sidecar what it means.
pub(super) fn refuse(failed: Failed, shape: Shape, exchange: Exchange) -> Response<ResponseBody> {
    let timing = timing_value(&exchange, Instant::now());
    let mut response = own_answer(failed.reason, shape, exchange);
    let name = if failed.unprocessed { headers::UNPROCESSED } else { headers::REASON };
    let headers = response.headers_mut();
    headers.insert(name, HeaderValue::from_static(failed.reason.as_str()));
    headers.insert(timing::HEADER, timing);
    response
}

/// An HTTP/2 application is told its authority in the target.
fn absolute(head: Parts) -> Result<Head, Reason> {
    let Parts { method, uri, mut headers, .. } = head;
    let host = headers.remove(header::HOST).ok_or(Reason::BadRequest)?;
    let authority = Authority::try_from(host.as_bytes()).map_err(|_invalid| Reason::BadRequest)?;
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    let uri = Uri::from_parts(parts).map_err(|_invalid| Reason::BadRequest)?;
    Ok(Head { method, uri, headers })
}
