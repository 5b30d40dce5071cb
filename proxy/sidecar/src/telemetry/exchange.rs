//! One request from its head to its last byte: what it holds, when each step was, and how it ended. However it ends,
//! it is recorded exactly once.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, header};
use outrigger_core::{
    grpc::{self, Messages},
    outlier::verdict,
    reason::Reason,
    telemetry::{
        Class,
        hop::{self, Stamps},
        timing::Figures,
        traces::TraceId,
    },
};
use tokio::time::Instant;

use super::{Calling, Direction, Inside, Party, Record, Telemetry, Times};
use crate::{
    endpoint::{Counted, Trial},
    http::{Gate, Idle, Link, Upload},
    overload::Place,
    upstream::Occupied,
};

/// What a stream's window is unless its receiver says that it is smaller (RFC 9113 §6.9.2).
const LEAST_WINDOW: u64 = 65_535;

/// What an exchange holds until the response's last byte came from the upstream.
#[derive(Debug, Default)]
struct Held {
    /// A connection goes back to its pool, if the exchange ended well.
    occupied: Option<Occupied>,
    /// Counts the request at its endpoint, and tells how it went.
    trial: Option<Trial>,
    /// Counts it at its destination.
    counted: Option<Counted>,
    /// An inbound's: the place at the application, until it answers.
    place: Option<Place>,
    /// Likewise: the request is in the application.
    inside: Option<Inside>,
    /// An outbound's: the application waits for it.
    calling: Option<Calling>,
}

/// See the module.
pub(crate) struct Exchange(Option<Box<Inner>>);

struct Inner {
    telemetry: Telemetry,
    link: Arc<Link>,
    record: Record,
    stamps: Stamps,
    figures: Option<Figures>,
    /// A gRPC call: what of its response was seen.
    grpc: Option<Messages>,
    upload: Option<Arc<Upload>>,
    held: Held,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0.as_ref().map(|inner| &inner.record);
        f.debug_tuple("Exchange").field(&record).finish()
    }
}

impl Exchange {
    /// Begins with a head that was just read.
    pub(crate) fn begin(telemetry: &Telemetry, link: &Arc<Link>, record: Record) -> Self {
        link.begin();
        Self(Some(Box::new(Inner {
            telemetry: telemetry.clone(),
            link: Arc::clone(link),
            record,
            stamps: Stamps::new(Instant::now().into_std()),
            figures: None,
            grpc: None,
            upload: None,
            held: Held::default(),
        })))
    }

    /// Adds to what is logged.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(inner) = &mut self.0 {
            note(&mut inner.record);
        }
    }

    /// Stamps a step.
    pub(crate) fn stamp(&mut self, stamp: impl FnOnce(&mut Stamps)) {
        if let Some(inner) = &mut self.0 {
            stamp(&mut inner.stamps);
        }
    }

    /// Where the last attempt went.
    pub(crate) fn upstream(&self) -> Option<Arc<Party>> {
        self.0.as_ref().and_then(|inner| inner.record.upstream.clone())
    }

    /// The steps so far.
    pub(crate) fn stamps(&self) -> Option<Stamps> {
        self.0.as_ref().map(|inner| inner.stamps)
    }

    /// When the request's head was read whole.
    pub(crate) fn head_read(&self) -> Instant {
        self.0.as_ref().map_or_else(Instant::now, |inner| Instant::from_std(inner.stamps.head_read))
    }

    /// An inbound sidecar's own figures, up to `now`.
    pub(crate) fn inbound_figures(&self, now: Instant) -> Figures {
        let Some(inner) = &self.0 else {
            return Figures::default();
        };
        let stamps = &inner.stamps;
        let now = now.into_std();
        let total = now.saturating_duration_since(stamps.head_read);
        let Some(handed_on) = stamps.handed_on else {
            return Figures { total, ..Figures::default() };
        };
        // One that did not answer was waited for all the same.
        let answered = stamps.response_head.unwrap_or(now);
        let uploaded = inner.uploaded().unwrap_or(answered).clamp(handed_on, answered.max(handed_on));
        Figures {
            total,
            upload: uploaded.saturating_duration_since(handed_on),
            app: answered.saturating_duration_since(uploaded),
            waiting: inner
                .held
                .inside
                .as_ref()
                .and_then(|inside| inside.waiting(Instant::from_std(uploaded), Instant::from_std(answered))),
        }
    }

    /// Keeps its place at the application until that answers, or it does not get that far.
    pub(crate) fn hold_place(&mut self, place: Option<Place>) {
        if let Some(inner) = &mut self.0 {
            inner.held.place = place;
        }
    }

    /// The application answered with `status`, and its place is free.
    pub(crate) fn leave_answered(&mut self, status: StatusCode) {
        if let Some(inner) = &mut self.0
            && let Some(place) = inner.held.place.take()
            && let Some(answered) = inner.stamps.response_head
            && let Some(begun) = inner.stamps.handed_on.max(inner.uploaded())
        {
            place.answered(status, answered, answered.saturating_duration_since(begun) + inner.waited());
        }
    }

    /// The time is over, and its place is free: for the application's answer, or for a connection to it.
    pub(crate) fn leave_late(&mut self) {
        if let Some(inner) = &mut self.0 {
            if inner.stamps.handed_on.is_some() {
                inner.leave(Instant::now());
            } else if let Some(place) = inner.held.place.take() {
                place.not_taken(Instant::now().into_std(), inner.waited());
            }
        }
    }

    /// It is a gRPC call: how it ended is told at its end, and whether it is a stream by its messages.
    pub(crate) fn set_grpc(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.grpc = Some(Messages::new());
        }
    }

    /// Whether it is a gRPC call.
    pub(crate) fn is_grpc(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.grpc.is_some())
    }

    /// Where the rest of the request's body is, and how long the exchange may be idle.
    pub(crate) fn set_upload(&mut self, upload: &Arc<Upload>) {
        if let Some(inner) = &mut self.0 {
            inner.link.may_be(upload.idle());
            inner.upload = Some(Arc::clone(upload));
        }
    }

    /// How long it may be without a byte in either direction, once that is known.
    pub(crate) fn idle(&self) -> Option<Arc<Idle>> {
        let upload = self.0.as_ref().and_then(|inner| inner.upload.as_ref());
        upload.map(|upload| Arc::clone(upload.idle()))
    }

    /// What the inbound sidecar told of its time.
    pub(crate) fn set_figures(&mut self, figures: Figures) {
        if let Some(inner) = &mut self.0 {
            inner.figures = Some(figures);
        }
    }

    /// The request goes to the application now: calls of the same `trace` are its own.
    pub(crate) fn enter(&mut self, trace: TraceId) {
        if let Some(inner) = &mut self.0 {
            inner.held.inside = Some(inner.telemetry.traces().enter(trace));
        }
    }

    /// It is a call of the own workload, perhaps on behalf of a request that it works on.
    pub(crate) fn call(&mut self, trace: TraceId) {
        if let Some(inner) = &mut self.0
            && inner.telemetry.traces().is_used()
        {
            let begun = Instant::from_std(inner.stamps.head_read);
            inner.held.calling = Some(inner.telemetry.traces().call(trace, begun));
        }
    }

    /// Counts it at its destination until the response's last byte.
    pub(crate) fn hold_counted(&mut self, counted: Counted) {
        if let Some(inner) = &mut self.0 {
            inner.held.counted = Some(counted);
        }
    }

    /// Counts it at its endpoint, likewise, and in place of the attempt before.
    pub(crate) fn hold_trial(&mut self, trial: Trial) {
        if let Some(inner) = &mut self.0 {
            inner.held.trial = Some(trial);
        }
    }

    /// The attempt under way.
    pub(crate) fn trial(&mut self) -> Option<&mut Trial> {
        self.0.as_mut().and_then(|inner| inner.held.trial.as_mut())
    }

    /// Keeps what the rest of the response comes on, likewise.
    pub(crate) fn hold_upstream(&mut self, occupied: Option<Occupied>) {
        if let Some(inner) = &mut self.0 {
            inner.held.occupied = occupied;
        }
    }

    /// The response's head is on its way to the downstream since `now`.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap, now: Instant) {
        let Some(inner) = &mut self.0 else {
            return;
        };
        inner.record.status = Some(status);
        inner.stamps.head_sent = Some(now.into_std());
        if inner.grpc.is_some() {
            // An answer without a body has its trailers in the head.
            inner.record.grpc_status = grpc::status(headers);
        } else if is_event_stream(headers) {
            inner.record.class = Class::Stream;
        }
    }

    /// Whether the downstream's window may keep `more` bytes back for as long as it likes, although its parser takes them
    /// at once. Only what is timed to its last byte is asked: what a peer of the mesh gets, its own sidecar times.
    pub(crate) fn outgrows_window(&self, more: usize) -> bool {
        self.0.as_ref().is_some_and(|inner| {
            inner.record.direction == Direction::Outbound
                && inner.link.is_multiplexed()
                && inner.record.bytes + more as u64 > LEAST_WINDOW
        })
    }

    /// A part of the response's body went through.
    pub(crate) fn delivered(&mut self, data: &[u8]) {
        if let Some(inner) = &mut self.0 {
            inner.record.bytes += data.len() as u64;
            if let Some(messages) = &mut inner.grpc {
                messages.push(data);
            }
        }
    }

    /// Its trailers did.
    pub(crate) fn trailed(&mut self, trailers: &HeaderMap) {
        if let Some(inner) = &mut self.0
            && inner.grpc.is_some()
        {
            inner.record.grpc_status = grpc::status(trailers).or(inner.record.grpc_status);
        }
    }

    /// The connection leaves HTTP with this answer: for it the exchange is over, and what is returned ends with
    /// [`Self::over`].
    pub(crate) fn switch(&mut self) -> Self {
        let mut inner = self.0.take();
        if let Some(inner) = &mut inner {
            inner.record.class = Class::Upgrade;
            std::mem::take(&mut inner.link).finish(Instant::now());
            inner.link.begin();
        }
        Self(inner)
    }

    /// What followed the answer is over: so many bytes went to the downstream, and so many came from it.
    pub(crate) fn over(mut self, sent: u64, received: u64, reason: Option<Reason>) {
        if let Some(mut inner) = self.0.take() {
            inner.record.bytes = sent;
            inner.record.received = received;
            inner.release(false);
            inner.end(Instant::now(), reason);
        }
    }

    /// The whole response was taken from the upstream: ends when the kernel has its last byte.
    pub(crate) fn complete(mut self) {
        let Some(mut inner) = self.0.take() else {
            return;
        };
        let now = Instant::now();
        inner.finish_grpc();
        inner.judge(now);
        inner.release(true);
        inner.link.finish(now);
        let link = Arc::clone(&inner.link);
        link.on_flushed(Box::new(move |flushed| match flushed {
            Some(at) => inner.end(at, None),
            None => {
                let reason = inner.telemetry.left();
                inner.end(Instant::now(), Some(reason));
            }
        }));
    }

    /// The response broke off after its head: the downstream must see a reset.
    pub(crate) fn broke(mut self, reason: Reason) {
        if let Some(mut inner) = self.0.take() {
            let now = Instant::now();
            inner.link.cut_short();
            inner.link.finish(now);
            // A request that breaks off takes its response with it.
            let cause = inner.upload.as_ref().and_then(|upload| upload.failure());
            inner.record.refuse(cause.unwrap_or(reason));
            inner.judge(now);
            inner.release(false);
            inner.end(now, None);
        }
    }

    /// The downstream does not want the rest.
    pub(crate) fn cancelled(mut self) {
        self.cancel();
    }

    fn cancel(&mut self) {
        if let Some(mut inner) = self.0.take() {
            let now = Instant::now();
            inner.leave(now);
            inner.release(false);
            inner.link.finish(now);
            let reason = inner.telemetry.left();
            inner.end(now, Some(reason));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Only when the service itself was dropped: the client went away before there was an answer.
        self.cancel();
    }
}

impl Inner {
    /// When the last byte of the request was handed on.
    fn uploaded(&self) -> Option<std::time::Instant> {
        self.upload.as_ref().and_then(|upload| upload.ended()).map(Instant::into_std)
    }

    /// For a connection to the upstream.
    fn waited(&self) -> Duration {
        self.stamps.queued + self.stamps.connecting
    }

    fn leave(&mut self, now: Instant) {
        if let Some(place) = self.held.place.take() {
            let (now, whole) = (now.into_std(), self.stamps.handed_on.zip(self.uploaded()));
            let took = whole.map(|(handed_on, uploaded)| {
                now.saturating_duration_since(handed_on.max(uploaded)) + self.waited()
            });
            place.given_up(now, took);
        }
    }

    /// Gives back what is held. A connection whose request is not over is of no use to another one.
    fn release(&mut self, whole: bool) {
        let uploaded = self.upload.as_ref().is_none_or(|upload| upload.ended().is_some());
        // What was taken of it last may still wait for room at the upstream.
        if let Some(upload) = &self.upload
            && !(whole && uploaded)
        {
            upload.set_gate(Gate::Abandoned);
        }
        let Held { occupied, trial, counted, place, inside, calling } = std::mem::take(&mut self.held);
        drop((trial, counted, place, inside, calling));
        match occupied {
            Some(Occupied::Http1(lease)) if whole && uploaded => lease.keep(),
            occupied => drop(occupied),
        }
    }

    /// Tells the endpoint's state how the attempt went, if the response's head did not say it.
    fn judge(&mut self, now: Instant) {
        if let Some(trial) = &mut self.held.trial {
            let verdict = verdict(self.record.reason, self.record.grpc_status, self.record.status);
            trial.judge(now.into_std(), verdict);
        }
    }

    /// A call ends with a status.
    fn finish_grpc(&mut self) {
        if self.grpc.is_some() && self.record.grpc_status.is_none() && self.record.reason.is_none() {
            self.record.refuse(Reason::GrpcStatusMissing);
        }
    }

    /// Whether it is a stream of gRPC: there was more than one message in either direction, or it was answered and did
    /// not end by itself, as those of one message do.
    fn is_grpc_stream(&self) -> bool {
        let Some(messages) = &self.grpc else {
            return false;
        };
        let sent = self.upload.as_ref().map_or(0, |upload| upload.messages());
        let endless = self.stamps.head_sent.is_some()
            && self.record.grpc_status.is_none()
            && self.record.status == Some(StatusCode::OK)
            && self.record.reason != Some(Reason::GrpcStatusMissing);
        sent > 1 || messages.count().is_some_and(|count| count > 1) || endless
    }

    fn end(mut self: Box<Self>, at: Instant, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.record.refuse(reason);
        }
        if self.is_grpc_stream() {
            self.record.class = Class::Stream;
        }
        self.stamps.end = at.into_std();
        let duration = self.stamps.end.saturating_duration_since(self.stamps.head_read);
        // How long the others were open says nothing of a delay.
        self.stamps.end = match self.record.class {
            Class::Request => self.stamps.end,
            Class::Stream | Class::Upgrade => self.stamps.head_sent.unwrap_or(self.stamps.end),
            Class::Tcp => self.stamps.handed_on.unwrap_or(self.stamps.end),
        };
        self.stamps.uploaded = self.uploaded();
        let split = hop::split(&self.stamps, self.figures.as_ref());
        if split.clamped {
            self.telemetry.metrics().timings_clamped.inc();
        }
        if let Some(edges) = &self.record.edges {
            let edge = edges.of(self.record.class, self.telemetry.edge_table());
            edge.record(&split, self.record.is_failure());
        }
        self.telemetry.record(&self.record, &Times { duration, phases: &split.phases });
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    let begin = b"text/event-stream";
    kind.get(..begin.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(begin))
}

#[cfg(test)]
mod tests;
