//! What is known about an endpoint beside its configuration: load now, later its health. Process-wide, so that a new
//! snapshot that still names an endpoint goes on with what the old one learnt.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use outrigger_core::model::{Endpoint, SpiffeId};
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

/// The states of all endpoints that a snapshot or a request still holds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct States(Arc<Mutex<HashMap<EndpointKey, Weak<EndpointState>>>>);

impl States {
    /// The state of `endpoint`: the one that exists, else a new one.
    pub fn of(&self, endpoint: &Endpoint) -> Arc<EndpointState> {
        let key = EndpointKey::from(endpoint);
        // Short and never held across an await; taken while a snapshot is built, not by requests.
        let mut states = self.0.lock();
        if let Some(state) = states.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState { key: key.clone(), in_flight: AtomicU64::new(0) });
        states.insert(key, Arc::downgrade(&state));
        state
    }

    /// Forgets the endpoints that nothing holds any more; returns how many are left.
    pub fn prune(&self) -> usize {
        let mut states = self.0.lock();
        states.retain(|_, state| state.strong_count() > 0);
        states.len()
    }
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
