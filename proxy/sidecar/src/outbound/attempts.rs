//! The attempts of one request: to one endpoint after another, until one has an answer to deliver, no other may follow,
//! or the time is up. What decides is `core::retry`; here it is given what happened.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::{
    deadline::Deadline,
    grpc,
    model::Resilience,
    outlier::{self, verdict, verdict_of_peer},
    reason::Reason,
    retry::{Outcome, Retries, Situation, Tried, Verdict, pushback},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Outbound, destination::MeshPort, leg::Prepared};
use crate::{
    endpoint::{EndpointState, Trial},
    headers::{self, Fields},
    http::Gate,
    snapshot::EndpointSetEntry,
    telemetry::Exchange,
    upstream::{Answer, Attempt, Demand, Failed, Head, Kept, Leg, Occupied},
};

/// As much of an answer is kept while another attempt is made; a larger one is delivered.
const KEPT_ANSWER: usize = 64 * 1024;
/// How long it may take to come whole: one that stands still must not hold up what may be better.
const KEEPING: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Attempts<'a> {
    outbound: &'a Outbound,
    port: &'a MeshPort,
    set: &'a EndpointSetEntry,
    resilience: &'a Resilience,
    prepared: Prepared,
    tried: Tried,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        outbound: &'a Outbound,
        (port, set): (&'a MeshPort, &'a EndpointSetEntry),
        prepared: Prepared,
    ) -> Self {
        Self { outbound, port, set, resilience: &set.set.resilience, prepared, tried: Tried::new() }
    }

    /// Makes them.
    pub(super) async fn run(&mut self, exchange: &mut Exchange) -> Result<Answer, Failed> {
        let mut retries = Retries::new(&self.resilience.retry, self.prepared.idempotent);
        let mut kept = None;
        let mut retried = false;
        let end = loop {
            let end = self.once(retries.made(), exchange).await;
            let outcome = self.judge(&end);
            if matches!(outcome, Outcome::Status(status) if status.as_u16() < 400) {
                break end;
            }
            let Verdict::Retry { after } = retries.next(outcome, &self.situation(outcome, &end)) else {
                break end;
            };
            if !self.may_retry() {
                break end;
            }
            retried = true;
            if let Ok(answer) = end {
                let begun = exchange.stamps().map(|stamps| (stamps, exchange.upstream()));
                // Boxed, as what is kept is: it is rare, and large.
                match Box::pin(self.keep(answer)).await {
                    // What a sidecar says takes no place of what an application did.
                    Ok(Some(whole)) if whole.refused.is_none() || !holds_answer(kept.as_deref()) => {
                        kept = Some(Box::new((whole, begun)));
                    }
                    Ok(_) => {}
                    Err(end) => break end,
                }
            }
            self.prepared.upload.rewind();
            sleep(after).await;
        };
        self.prepared.upload.settle();
        let lacking = match &end {
            Err(failed) => Some(failed.reason),
            // Of two answers that no application gave, the last one tells what became of the request.
            Ok(answer) => {
                answer.refused.filter(|_| holds_answer(kept.as_deref())).map(|(reason, _unprocessed)| reason)
            }
        };
        let end = match (kept, lacking) {
            // What came before is better than that; past the deadline it is too late for it.
            (Some(kept), Some(reason)) if !is_too_late(reason) => {
                let (kept, begun) = *kept;
                // Whoever answered last need not hear the rest of the request.
                self.prepared.upload.set_gate(Gate::Answered);
                if let Some((stamps, upstream)) = begun {
                    exchange.stamp(|now| *now = stamps);
                    exchange.note(|record| record.upstream = upstream);
                }
                Ok(kept)
            }
            _ => end,
        };
        if retried {
            exchange.stamp(|stamps| stamps.settled = Some(Instant::now().into_std()));
        }
        end
    }

    /// Whether the budget has one more.
    fn may_retry(&self) -> bool {
        let metrics = self.outbound.shared.telemetry.metrics();
        let now = Instant::now().into_std();
        let granted = self.set.destination.budget.try_retry(now, &self.resilience.budget);
        if granted {
            metrics.retries.inc()
        } else {
            metrics.retries_over_budget.inc()
        };
        granted
    }

    /// Holds an answer that another attempt may better: `None` if it broke off or stood still. The error is what ends the request: an
    /// answer that is too large to be held, or the deadline.
    async fn keep(&self, answer: Answer) -> Result<Option<Answer>, Result<Answer, Failed>> {
        let Answer { head, body, occupied, refused } = answer;
        // What is still to come of the request belongs to the next attempt.
        self.prepared.upload.set_gate(Gate::Answered);
        let reading = body.keep(KEPT_ANSWER);
        let patience = Instant::now() + KEEPING;
        let kept = match self.prepared.deadline.limit() {
            Some(limit) if Instant::from_std(limit.at) <= patience => {
                let kept = timeout_at(Instant::from_std(limit.at), reading).await;
                kept.map_err(|_elapsed| Err(Failed::after(limit.reason)))?
            }
            _ => timeout_at(patience, reading).await.unwrap_or(Kept::Broken),
        };
        match kept {
            Kept::Whole(body) => {
                if let Some(Occupied::Http1(lease)) = occupied {
                    lease.keep();
                }
                Ok(Some(Answer { head, body, occupied: None, refused }))
            }
            Kept::Large(body) => {
                if self.prepared.leg == Leg::Http2 {
                    // Its end may depend on the rest of the request.
                    self.prepared.upload.set_gate(Gate::Open);
                }
                Err(Ok(Answer { head, body, occupied, refused }))
            }
            Kept::Broken => Ok(None),
        }
    }

    fn judge(&self, end: &Result<Answer, Failed>) -> Outcome {
        let failed = match end {
            Err(failed) => failed,
            Ok(answer) => {
                match answer.refused {
                    Some((reason, true)) if reason.is_want_of_room() => return Outcome::Refused,
                    // Whether its application has too much to do or hangs is not known here: likewise, as long as somebody is
                    // left. The same one would let it wait once more.
                    Some((Reason::ConnectTimeout, true))
                        if !self.set.has_untried_with_room(Instant::now().into_std(), &self.tried) =>
                    {
                        return Outcome::Refused;
                    }
                    Some((_reason, true)) => return Outcome::Unprocessed,
                    _ => {}
                }
                return Outcome::Status(
                    self.grpc_status(answer).map_or(answer.head.status, grpc::Code::http_status),
                );
            }
        };
        let distrust = matches!(failed.reason, Reason::TlsFailed | Reason::PeerRejected);
        match Outcome::of(failed.reason) {
            // Whoever is not believed, or does not believe us, will not in a moment either.
            Outcome::Unprocessed
                if distrust && !self.set.has_untried(Instant::now().into_std(), &self.tried) =>
            {
                Outcome::Final
            }
            outcome => outcome,
        }
    }

    /// What an answer without a body says of a gRPC call in its head.
    fn grpc_status(&self, answer: &Answer) -> Option<grpc::Code> {
        self.prepared.grpc.then(|| grpc::status(&answer.head.headers)).flatten()
    }

    fn situation(&self, outcome: Outcome, end: &Result<Answer, Failed>) -> Situation {
        let head = end.as_ref().ok().map(|answer| &answer.head.headers);
        let now = Instant::now().into_std();
        Situation {
            replayable: self.prepared.upload.is_replayable(),
            remaining: self.prepared.deadline.remaining(now),
            untried: self.set.has_untried(now, &self.tried),
            // All endpoints are looked at for it.
            relief: outcome == Outcome::Refused && self.set.has_relief(now, &self.tried),
            pushback: head.and_then(|head| pushback(head, SystemTime::now())),
            random: rand::random(),
        }
    }

    /// The head for the next attempt. It is kept if another one may follow.
    fn head(&mut self, made: u32) -> Head {
        let last = made >= self.resilience.retry.attempts;
        if last { self.prepared.head.take() } else { self.prepared.head.clone() }
    }

    async fn once(&mut self, made: u32, exchange: &mut Exchange) -> Result<Answer, Failed> {
        let begin = Instant::now();
        let now = begin.into_std();
        if made == 0 {
            self.set.destination.budget.request(now);
        }
        let deadline = self.prepared.deadline.attempt(now, self.resilience.timeouts.per_try);
        let mut head = self.head(made);
        let picked = self.set.pick(now, &mut self.tried, rand::random());
        let picked = picked.ok_or(Failed::before(Reason::NoEndpoint))?;
        let state = picked.state;
        exchange.note(|record| {
            record.attempts = made + 1;
            record.upstream = Some(Arc::clone(state.party()));
        });
        let destination = (&self.set.destination, &self.set.set);
        let trial = Trial::begin(destination, state, (picked.accrual, picked.admission), now);
        exchange.hold_trial(trial);
        let sent = {
            // Pinned where it is made: it is large, and would be moved twice else.
            let mut sending = pin!(self.send(state, (&mut head, deadline), (begin, &mut *exchange)));
            match deadline.limit() {
                Some(limit) => match timeout_at(Instant::from_std(limit.at), sending.as_mut()).await {
                    Err(_elapsed) => Err(Failed::after(limit.reason)),
                    // Its sidecar has kept the time that we gave it.
                    Ok(Ok(answer)) if says_too_late(&answer) => Err(Failed::after(limit.reason)),
                    Ok(sent) => sent,
                },
                None => sending.as_mut().await,
            }
        };
        note_refusal(state, &sent);
        let stamps = exchange.stamps();
        let handed_on = stamps.and_then(|stamps| stamps.handed_on);
        // An answer is as late as its head was.
        let answered = stamps.and_then(|stamps| stamps.response_head).filter(|_| sent.is_ok());
        if let Some(trial) = exchange.trial() {
            let now = answered.unwrap_or_else(|| Instant::now().into_std());
            // How long it took to get a connection says nothing of how quick the endpoint is.
            trial.handed_on(handed_on);
            match &sent {
                Err(failed) => trial.judge(now, verdict(Some(failed.reason), None, None)),
                // The peer's sidecar speaks for its application, whatever the request was.
                Ok(Answer { refused: Some((reason, _)), head, .. }) => {
                    trial.judge(now, verdict_of_peer(*reason, head.status));
                }
                Ok(answer) => {
                    let status = self.grpc_status(answer);
                    match verdict(None, status, Some(answer.head.status)) {
                        // The rest may still break off, and trailers may tell another tale.
                        outlier::Verdict::Success if status.is_none() => trial.answered(now),
                        verdict => trial.judge(now, verdict),
                    }
                }
            }
        }
        sent
    }

    async fn send(
        &self,
        state: &Arc<EndpointState>,
        (head, deadline): (&mut Head, Deadline),
        exchange: (Instant, &mut Exchange),
    ) -> Result<Answer, Failed> {
        let shared = &self.outbound.shared;
        let peer = self.outbound.pools.of(state, &self.set.destination, shared);
        let connect = self.resilience.timeouts.connect;
        let attempt = Attempt {
            upstream: &*peer,
            leg: self.prepared.leg,
            demand: Demand {
                max_idle: shared.limits.pool_idle,
                keep: shared.limits.pool_idle,
                closes_silently: false,
                connect_timeout: connect.unwrap_or(self.port.config().connect_timeout),
                queue_timeout: shared.limits.queue_timeout,
                connections: self.resilience.limits.connections,
                pending: self.resilience.limits.pending,
            },
            deadline,
            grpc: self.prepared.grpc,
            limits: &shared.limits,
            telemetry: &shared.telemetry,
            may_switch: self.prepared.leg == Leg::Http1,
            counts_informational: false,
        };
        let mut answer = attempt.send(head, &self.prepared.upload, exchange).await?;
        answer.refused = headers::peer_reason(Fields::of(&answer.head.headers));
        if let Some(Occupied::Http1(lease)) = &mut answer.occupied {
            lease.set_keep(shared.limits.pool_idle);
        }
        Ok(answer)
    }
}

/// The peer is authenticated: what its sidecar says of its own load is believed.
fn note_refusal(state: &EndpointState, sent: &Result<Answer, Failed>) {
    let Ok(Answer { head, refused, .. }) = sent else { return };
    if let Some((reason, true)) = *refused
        && reason.is_want_of_room()
    {
        state.refusals.note(Instant::now().into_std(), headers::asks_not_again(&head.headers));
    }
}

fn says_too_late(answer: &Answer) -> bool {
    matches!(answer.refused, Some((Reason::DeadlineExceeded, _)))
}

/// Whether what is kept is an application's answer.
fn holds_answer<T>(kept: Option<&(Answer, T)>) -> bool {
    kept.is_some_and(|(answer, _)| answer.refused.is_none())
}

fn is_too_late(reason: Reason) -> bool {
    matches!(reason, Reason::RequestTimeout | Reason::DeadlineExceeded)
}
