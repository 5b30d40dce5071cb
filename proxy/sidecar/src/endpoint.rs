//! What is known about endpoints and destinations beside their configuration: what is under way, how quick they were, what
//! may be sent again. Process-wide, so that a new
//! snapshot that still names an endpoint goes on with what the old one learnt.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use outrigger_core::{
    balance::{self, Cost, PeakEwma},
    limit::Bounded,
    model::{Endpoint, EndpointSet, ServiceName, SpiffeId},
    outlier::{Accrual, Admission, Ejections, Ending, Verdict},
    overload::Refusals,
    retry::Budget,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

use crate::telemetry::Party;

/// What makes two endpoints the same one: another identity behind an address is another endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Whom it must prove to be.
    pub identity: SpiffeId,
}

impl From<&Endpoint> for EndpointKey {
    fn from(endpoint: &Endpoint) -> Self {
        Self { address: endpoint.address, identity: endpoint.identity.clone() }
    }
}

/// The state of one endpoint, shared by all workers.
#[derive(Debug)]
pub struct EndpointState {
    key: EndpointKey,
    /// The same as it is logged.
    party: Arc<Party>,
    in_flight: AtomicU64,
    connections: AtomicU64,
    latency: PeakEwma,
    /// Of answers alone: to be shown, where a failure that counts as a slow answer would say what is not so.
    answers: PeakEwma,
    answered: AtomicBool,
    /// What it refused for want of room.
    pub(crate) refusals: Refusals,
}

impl EndpointState {
    /// Which endpoint.
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Whom requests to it are logged with.
    pub(crate) fn party(&self) -> &Arc<Party> {
        &self.party
    }

    /// Requests sent to it whose last byte has not been delivered yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Connections to it that are open.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// How quickly it answers, when it does; `None` before the first answer.
    pub(crate) fn latency(&self, now: Instant) -> Option<Duration> {
        self.answered.load(Ordering::Relaxed).then(|| self.answers.latency(now))
    }

    fn answered(&self, now: Instant, rtt: Duration) {
        self.latency.record(now, rtt);
        self.answers.record(now, rtt);
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Counts one connection in, until the guard is dropped.
    pub(crate) fn connected(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// What one more request there costs at `now`.
    pub(crate) fn cost(&self, now: Instant) -> Cost {
        self.latency.cost(now, self.in_flight())
    }

    /// Counts one request in, until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// One request in flight at an endpoint; dropped with the end of its response.
#[derive(Debug)]
pub struct InFlight(Arc<EndpointState>);

impl InFlight {
    /// The endpoint it is at.
    pub fn state(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection to an endpoint; dropped when it is closed.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<EndpointState>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one proxy has under way at one port of a service, over all its endpoints and workers, and may send again there.
#[derive(Debug)]
pub struct DestinationState {
    connections: Bounded,
    requests: Bounded,
    pending: Bounded,
    pools: Mutex<Pools>,
    /// A connection that counted here is gone.
    freed: Notify,
    pub(crate) budget: Budget,
    ejections: Ejections,
    /// Of the endpoints in force.
    accruals: Mutex<HashMap<EndpointKey, Arc<Accrual>>>,
}

/// Connections to one upstream, of one protocol and worker, of which some may be idle.
pub(crate) trait Pooled: fmt::Debug + Send + Sync {
    /// For how long nothing was under way, at `now`, on the one on which that is longest.
    fn rested(&self, now: tokio::time::Instant) -> Option<Duration>;

    /// Closes that one, if it is for `least` at least.
    fn close_one(&self, least: Duration);
}

/// All that keep connections to a destination.
#[derive(Debug, Default)]
struct Pools {
    pools: Vec<Weak<dyn Pooled>>,
    /// With as many it is time to look which of them are gone.
    crowd: usize,
    /// When room was asked for last.
    asked: Option<tokio::time::Instant>,
}

impl DestinationState {
    pub(crate) fn new(now: Instant) -> Self {
        let [connections, requests, pending] = [Bounded::new(), Bounded::new(), Bounded::new()];
        Self {
            connections,
            requests,
            pending,
            pools: Mutex::default(),
            freed: Notify::new(),
            budget: Budget::new(now),
            ejections: Ejections::new(),
            accruals: Mutex::default(),
        }
    }

    /// Puts the endpoints of `set` in force; returns what is known of the failures of each, in their order.
    pub(crate) fn put(&self, set: &EndpointSet) -> Vec<Arc<Accrual>> {
        let now = now();
        let mut accruals = self.accruals.lock();
        let members: Vec<_> = set
            .endpoints
            .iter()
            .map(|endpoint| {
                let known = accruals.get(&EndpointKey::from(endpoint)).map(Arc::clone);
                known.unwrap_or_else(|| Arc::new(Accrual::new(now)))
            })
            .collect();
        *accruals = set.endpoints.iter().map(EndpointKey::from).zip(members.iter().cloned()).collect();
        // The others take no requests: none of those that do is spared for them, or ejected since they are there.
        let serving =
            balance::eligible(set).indices().filter_map(|index| members.get(index).cloned()).collect();
        self.ejections.update(now, serving, &set.resilience.outlier);
        members
    }

    /// Counts one connection more, if there are fewer than `limit`, until the guard is dropped.
    pub(crate) fn connection(self: &Arc<Self>, limit: u32) -> Option<Counted> {
        self.count(|state| &state.connections, limit, true)
    }

    /// Ready when there may be room for one more. Only for those who found none: it wakes one of them.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// A pool of connections that count here.
    pub(crate) fn add_pool(&self, pool: Weak<dyn Pooled>) {
        let mut pools = self.pools.lock();
        if pools.pools.len() >= pools.crowd {
            pools.pools.retain(|pool| pool.strong_count() > 0);
            pools.crowd = 2 * pools.pools.len() + 8;
        }
        pools.pools.push(pool);
    }

    /// Connections that nobody uses count like others. Closes the one that was idle for longest, whoever keeps it, for those who have
    /// waited for room in vain: one every `pace`, and none that was not idle as long. Not to be called under the lock of a pool.
    pub(crate) fn make_room(&self, pace: Duration) {
        let now = tokio::time::Instant::now();
        let pools: Vec<_> = {
            let mut pools = self.pools.lock();
            if pools.asked.is_some_and(|asked| now.saturating_duration_since(asked) < pace) {
                return;
            }
            pools.asked = Some(now);
            pools.pools.iter().filter_map(Weak::upgrade).collect()
        };
        let rested = pools.iter().filter_map(|pool| Some((pool.rested(now)?, pool)));
        if let Some((_, pool)) = rested.max_by_key(|(rested, _)| *rested) {
            pool.close_one(pace);
        }
    }

    /// The same for a request, or a TCP connection of the own workload.
    pub(crate) fn request(self: &Arc<Self>, limit: u32) -> Option<Counted> {
        self.count(|state| &state.requests, limit, false)
    }

    /// The same for a request that waits for a connection.
    pub(crate) fn pending(self: &Arc<Self>, limit: u32) -> Option<Counted> {
        self.count(|state| &state.pending, limit, false)
    }

    fn count(self: &Arc<Self>, counter: Counter, limit: u32, awaited: bool) -> Option<Counted> {
        counter(self).try_acquire(limit).then(|| Counted { state: Arc::clone(self), counter, awaited })
    }
}

/// An attempt at an endpoint, until it is known how it went. Dropped before, it says nothing of the endpoint.
#[derive(Debug)]
pub(crate) struct Trial {
    in_flight: InFlight,
    destination: Arc<DestinationState>,
    set: Arc<EndpointSet>,
    accrual: Arc<Accrual>,
    admission: Option<Admission>,
    begun: Instant,
    /// Its head was, see [`Self::answered`].
    answered: bool,
}

impl Trial {
    /// Begins one at the endpoint of `state`, one of `set`'s, as `admission` allows.
    pub(crate) fn begin(
        (destination, set): (&Arc<DestinationState>, &Arc<EndpointSet>),
        state: &Arc<EndpointState>,
        (accrual, admission): (&Arc<Accrual>, Admission),
        begun: Instant,
    ) -> Self {
        Self {
            in_flight: state.begin(),
            destination: Arc::clone(destination),
            set: Arc::clone(set),
            accrual: Arc::clone(accrual),
            admission: Some(admission),
            begun,
            answered: false,
        }
    }

    /// When the request was handed on, if it was.
    pub(crate) fn handed_on(&mut self, at: Option<Instant>) {
        self.begun = at.unwrap_or(self.begun);
    }

    /// The head of an answer came, and so far all is well; how it ended is still to be judged. Streams may last for days:
    /// what is known of the endpoint is told now, and the claim of a probe is not kept for as long.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered = true;
        let state = self.in_flight.state();
        state.answered(now, now.saturating_duration_since(self.begun));
        if let Some(probe @ Admission::Probe(_)) = self.admission.take() {
            self.record(now, probe, Verdict::Success);
        }
        self.admission = Some(Admission::Open);
    }

    /// It is known how it went; only the first verdict counts.
    pub(crate) fn judge(&mut self, now: Instant, verdict: Verdict) {
        let Some(admission) = self.admission.take() else {
            return;
        };
        let state = self.in_flight.state();
        let rtt = now.saturating_duration_since(self.begun);
        match verdict {
            Verdict::Success if self.answered => {}
            Verdict::Success => state.answered(now, rtt),
            Verdict::Failure(_) => state.latency.penalise(now, rtt),
            Verdict::Ignored => return,
        }
        self.record(now, admission, verdict);
    }

    fn record(&self, now: Instant, admission: Admission, verdict: Verdict) {
        let ending = Ending { now, verdict, random: rand::random() };
        self.destination.ejections.record(&self.accrual, admission, ending, &self.set.resilience.outlier);
    }
}

type Counter = fn(&DestinationState) -> &Bounded;

/// One more of something at a destination, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    state: Arc<DestinationState>,
    counter: Counter,
    /// Somebody may stand in line for it.
    awaited: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.state).release();
        if self.awaited {
            self.state.freed.notify_one();
        }
    }
}

/// The states of all endpoints and destinations that a snapshot or a request still holds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct States {
    endpoints: Table<EndpointKey, EndpointState>,
    destinations: Table<(ServiceName, u16), DestinationState>,
}

type Table<K, S> = Arc<Mutex<HashMap<K, Weak<S>>>>;

impl States {
    /// The state of `endpoint`: the one that exists, else a new one.
    pub fn of(&self, endpoint: &Endpoint) -> Arc<EndpointState> {
        let key = EndpointKey::from(endpoint);
        existing(&self.endpoints, &key, || EndpointState {
            key: key.clone(),
            party: Party::upstream(key.address, Some(key.identity.clone())),
            in_flight: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            latency: PeakEwma::new(now()),
            answers: PeakEwma::new(now()),
            answered: AtomicBool::new(false),
            refusals: Refusals::new(now()),
        })
    }

    /// The state of a port of a service: the one that exists, else a new one.
    pub fn destination(&self, service: &ServiceName, port: u16) -> Arc<DestinationState> {
        existing(&self.destinations, &(service.clone(), port), || DestinationState::new(now()))
    }

    /// Forgets what nothing holds any more; returns how many endpoints are left.
    pub fn prune(&self) -> usize {
        self.destinations.lock().retain(|_, state| state.strong_count() > 0);
        let mut endpoints = self.endpoints.lock();
        endpoints.retain(|_, state| state.strong_count() > 0);
        endpoints.len()
    }
}

/// By the clock that tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The lock is short and never held across an await; it is taken while a snapshot is built, not by requests.
fn existing<K: Clone + Eq + Hash, S>(
    states: &Mutex<HashMap<K, Weak<S>>>,
    key: &K,
    new: impl FnOnce() -> S,
) -> Arc<S> {
    let mut states = states.lock();
    if let Some(state) = states.get(key).and_then(Weak::upgrade) {
        return state;
    }
    let state = Arc::new(new());
    states.insert(key.clone(), Arc::downgrade(&state));
    state
}

#[cfg(test)]
mod tests;
