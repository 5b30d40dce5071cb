//! What is known about an endpoint beside its configuration: load now, later its health. Process-wide, so that a new
//! snapshot that still names an endpoint goes on with what the old one learnt.

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use outrigger_core::model::{Endpoint, ServiceName, SpiffeId};
use parking_lot::Mutex;

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
    in_flight: AtomicU64,
}

impl EndpointState {
    /// Which endpoint.
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Requests sent to it whose last byte has not been delivered yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
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

/// What one proxy has under way at one port of a service, over all its endpoints and workers.
#[derive(Debug, Default)]
pub struct DestinationState {
    connections: AtomicU32,
    requests: AtomicU32,
    pending: AtomicU32,
}

impl DestinationState {
    /// Counts one connection more, if there are fewer than `limit`, until the guard is dropped.
    pub(crate) fn connection(self: &Arc<Self>, limit: u32) -> Option<Counted> {
        self.count(|state| &state.connections, limit)
    }

    /// The same for a request, or a TCP connection of the own workload.
    pub(crate) fn request(self: &Arc<Self>, limit: u32) -> Option<Counted> {
        self.count(|state| &state.requests, limit)
    }

    /// The same for a request that waits for a connection.
    pub(crate) fn pending(self: &Arc<Self>, limit: u32) -> Option<Counted> {
        self.count(|state| &state.pending, limit)
    }

    fn count(self: &Arc<Self>, counter: Counter, limit: u32) -> Option<Counted> {
        let more = |count: u32| (count < limit).then(|| count + 1);
        counter(self).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Counted { state: Arc::clone(self), counter })
    }
}

type Counter = fn(&DestinationState) -> &AtomicU32;

/// One more of something at a destination, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    state: Arc<DestinationState>,
    counter: Counter,
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.state).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The states of all endpoints and destinations that a snapshot or a request still holds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct States {
    endpoints: Arc<Mutex<HashMap<EndpointKey, Weak<EndpointState>>>>,
    destinations: Arc<Mutex<HashMap<(ServiceName, u16), Weak<DestinationState>>>>,
}

impl States {
    /// The state of `endpoint`: the one that exists, else a new one.
    pub fn of(&self, endpoint: &Endpoint) -> Arc<EndpointState> {
        let key = EndpointKey::from(endpoint);
        existing(&self.endpoints, &key, || EndpointState { key: key.clone(), in_flight: AtomicU64::new(0) })
    }

    /// The state of a port of a service: the one that exists, else a new one.
    pub fn destination(&self, service: &ServiceName, port: u16) -> Arc<DestinationState> {
        existing(&self.destinations, &(service.clone(), port), DestinationState::default)
    }

    /// Forgets what nothing holds any more; returns how many endpoints are left.
    pub fn prune(&self) -> usize {
        self.destinations.lock().retain(|_, state| state.strong_count() > 0);
        let mut endpoints = self.endpoints.lock();
        endpoints.retain(|_, state| state.strong_count() > 0);
        endpoints.len()
    }
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
mod tests {
    use outrigger_core::model::Health;

    use super::*;

    fn endpoint(identity: &str) -> Endpoint {
        Endpoint {
            address: "127.0.0.1:8080".parse().unwrap(),
            identity: identity.parse().unwrap(),
            weight: 1,
            health: Health::Healthy,
            workload: Arc::from("demo/price-1"),
        }
    }

    #[test]
    fn a_state_outlives_the_snapshot_that_named_it_while_a_request_holds_it() {
        let states = States::default();
        let price = endpoint("spiffe://outrigger.local/ns/demo/sa/price");
        let guard = states.of(&price).begin();
        assert_eq!(states.prune(), 1);
        assert_eq!(states.of(&price).in_flight(), 1);
        drop(guard);
        assert_eq!(states.prune(), 0);
        assert_eq!(states.of(&price).in_flight(), 0);
    }

    #[test]
    fn another_identity_behind_an_address_is_another_endpoint() {
        let states = States::default();
        let price = states.of(&endpoint("spiffe://outrigger.local/ns/demo/sa/price"));
        let other = states.of(&endpoint("spiffe://outrigger.local/ns/demo/sa/other"));
        assert!(!Arc::ptr_eq(&price, &other));
    }
}
