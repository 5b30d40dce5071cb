//! The snapshot: the immutable compiled configuration that a request reads once. Built from validated resources by
//! whoever holds them; published as a whole.

use std::{collections::HashMap, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use outrigger_core::{
    balance::{self, Cost, Eligible},
    model::{EndpointSet, ProxyConfig, RouteRule, Service, ServiceName, ServicePort, WeightedBackend},
    outlier::{Accrual, Admission},
    overload::{self, Other},
    retry::Tried,
};

use crate::{
    endpoint::{DestinationState, EndpointState, States},
    telemetry::EdgeHandles,
};

/// What is in force at one instant.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows with each snapshot of this process; in every access log line.
    pub generation: u64,
    /// `None`: nothing was received yet, and nothing is routed.
    pub config: Option<Arc<ProxyConfig>>,
    /// The destinations that are known, by name.
    pub services: HashMap<ServiceName, Arc<ServiceEntry>>,
}

/// One destination with everything that its routes refer to.
#[derive(Debug)]
pub struct ServiceEntry {
    /// What it is.
    pub service: Arc<Service>,
    /// The endpoint sets that its ports and rules name, as far as they are known.
    pub endpoint_sets: HashMap<Arc<str>, Arc<EndpointSetEntry>>,
    /// In the order of the service's ports.
    targets: Vec<PortTargets>,
}

/// Everything that requests to one port can end up at, found without a look-up.
#[derive(Debug)]
struct PortTargets {
    own: Target,
    /// By rule and backend, in the order of the port's rules.
    rules: Vec<Vec<Target>>,
}

/// Where a request ends up, with what it needs there.
#[derive(Debug)]
pub(crate) struct Target {
    set: Option<Arc<EndpointSetEntry>>,
    edges: Arc<EdgeHandles>,
}

impl Target {
    fn new(
        destination: (ServiceName, u16),
        rule: Option<&RouteRule>,
        name: &str,
        sets: &HashMap<Arc<str>, Arc<EndpointSetEntry>>,
    ) -> Self {
        let rule = rule.map(|rule| Arc::clone(&rule.name));
        let edges = Arc::new(EdgeHandles::new(destination, rule));
        Self { set: sets.get(name).map(Arc::clone), edges }
    }

    /// The endpoints, if they are known.
    pub(crate) fn set(&self) -> Option<&EndpointSetEntry> {
        self.set.as_deref()
    }

    /// What requests to it are counted by.
    pub(crate) fn edges(&self) -> &Arc<EdgeHandles> {
        &self.edges
    }
}

impl ServiceEntry {
    fn new(service: Arc<Service>, sets: &HashMap<Arc<str>, Arc<EndpointSetEntry>>) -> Self {
        let endpoint_sets = endpoint_set_names(&service)
            .filter_map(|name| Some((Arc::clone(name), Arc::clone(sets.get(name)?))))
            .collect();
        let backends = |rule: &RouteRule| {
            let target = |backend: &WeightedBackend| {
                let destination = (backend.service.clone(), backend.port);
                Target::new(destination, Some(rule), &backend.endpoint_set, sets)
            };
            rule.backends.iter().map(target).collect()
        };
        let ports = service.ports.iter().map(|port| PortTargets {
            own: Target::new((service.name.clone(), port.port), None, &port.endpoint_set, sets),
            rules: port.rules.iter().map(backends).collect(),
        });
        let targets = ports.collect();
        Self { service, endpoint_sets, targets }
    }

    /// Where requests to `port` end up that need no rule.
    pub(crate) fn own_target(&self, port: &ServicePort) -> Option<&Target> {
        Some(&self.targets.get(self.service.ports.element_offset(port)?)?.own)
    }

    /// Where requests to `port` end up that `rule` gives to `backend`.
    pub(crate) fn target(
        &self,
        port: &ServicePort,
        rule: &RouteRule,
        backend: &WeightedBackend,
    ) -> Option<&Target> {
        let rules = &self.targets.get(self.service.ports.element_offset(port)?)?.rules;
        let backends = rules.get(port.rules.element_offset(rule)?)?;
        backends.get(rule.backends.element_offset(backend)?)
    }

    /// The port `number`; without a number, the only port or port 80.
    pub fn port(&self, number: Option<u16>) -> Option<&ServicePort> {
        let ports = &self.service.ports;
        match (number, ports.as_slice()) {
            (Some(number), _) => ports.iter().find(|port| port.port == number),
            (None, [only]) => Some(only),
            (None, _) => ports.iter().find(|port| port.port == 80),
        }
    }

    /// Whether every endpoint set that the service names is known.
    pub fn is_complete(&self) -> bool {
        endpoint_set_names(&self.service).all(|name| self.endpoint_sets.contains_key(name))
    }
}

/// The endpoint sets that `service` names, possibly some of them twice.
pub fn endpoint_set_names(service: &Service) -> impl Iterator<Item = &Arc<str>> {
    service.ports.iter().flat_map(|port| {
        let backends = port.rules.iter().flat_map(|rule| rule.backends.iter());
        std::iter::once(&port.endpoint_set).chain(backends.map(|backend| &backend.endpoint_set))
    })
}

/// How often an endpoint is picked for one attempt, when others are quicker.
const PICKS: usize = 4;

/// An endpoint that was picked, with leave to send one request there.
#[derive(Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) state: &'a Arc<EndpointState>,
    pub(crate) accrual: &'a Arc<Accrual>,
    pub(crate) admission: Admission,
}

/// An endpoint set with the states of its endpoints.
#[derive(Debug)]
pub struct EndpointSetEntry {
    /// Name of the resource.
    pub name: Arc<str>,
    /// What it is.
    pub set: Arc<EndpointSet>,
    /// In the order of `set.endpoints`.
    pub states: Vec<Arc<EndpointState>>,
    /// Their failures as endpoints of this set, in the same order.
    pub(crate) accruals: Vec<Arc<Accrual>>,
    /// What is under way at all of them.
    pub destination: Arc<DestinationState>,
    eligible: Eligible,
}

impl EndpointSetEntry {
    /// The endpoint for an attempt at `now`: of those that were not tried and are not ejected, the better of two by latency
    /// and requests in flight; if there is none, one that was tried; if all are ejected, one of all. Remembers it in
    /// `tried`. `random`: uniform over all of `u64`.
    pub(crate) fn pick(&self, now: Instant, tried: &mut Tried, random: [u64; 2]) -> Option<Picked<'_>> {
        let cost = |index: usize| self.states.get(index).map(|state| state.cost(now));
        let admitted = |index: usize| self.accruals.get(index)?.cost(now, cost(index)?);
        // Somebody else may be quicker to probe one: then another is picked.
        for _ in 0..PICKS {
            let untried = |index: usize| if tried.contains(index) { None } else { admitted(index) };
            let picked = balance::pick(&self.eligible, untried, random);
            let Some(index) = picked.or_else(|| balance::pick(&self.eligible, admitted, random)) else {
                break;
            };
            if let Some(admission) = self.accruals.get(index).and_then(|accrual| accrual.admit(now)) {
                tried.insert(index);
                return self.picked(index, admission);
            }
        }
        let index = balance::pick(&self.eligible, cost, random)?;
        tried.insert(index);
        self.picked(index, Admission::Open)
    }

    fn picked(&self, index: usize, admission: Admission) -> Option<Picked<'_>> {
        Some(Picked { state: self.states.get(index)?, accrual: self.accruals.get(index)?, admission })
    }

    /// Whether a request that an endpoint refused for want of room may be sent to another one.
    pub(crate) fn has_relief(&self, now: Instant, tried: &Tried) -> bool {
        let other = |index| Other { tried: tried.contains(index), full: self.is_full(index, now) };
        overload::has_relief(self.usable(now).map(other))
    }

    /// Whether there is an endpoint that was not tried and may be at `now`.
    pub(crate) fn has_untried(&self, now: Instant, tried: &Tried) -> bool {
        self.usable(now).any(|index| !tried.contains(index))
    }

    /// Likewise, of those that did not say lately that they have no room.
    pub(crate) fn has_untried_with_room(&self, now: Instant, tried: &Tried) -> bool {
        self.usable(now).any(|index| !tried.contains(index) && !self.is_full(index, now))
    }

    /// Those that requests may be sent to at `now`.
    fn usable(&self, now: Instant) -> impl Iterator<Item = usize> {
        let usable = move |index: usize| self.accruals.get(index)?.cost(now, Cost::default());
        self.eligible.indices().filter(move |index| usable(*index).is_some())
    }

    fn is_full(&self, index: usize, now: Instant) -> bool {
        self.states.get(index).is_some_and(|state| state.refusals.is_full(now))
    }
}

/// Where requests find the snapshot in force. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Handle(Arc<ArcSwap<Snapshot>>);

impl Handle {
    /// The snapshot in force. A request does this once and uses that one to its end.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Whether it is this one.
    pub(crate) fn is_in_force(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&*self.0.load(), snapshot)
    }

    /// Puts `snapshot` in force for every request that begins from now on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}

/// Collects resources and makes a snapshot of them.
#[derive(Debug)]
pub struct Builder<'a> {
    states: &'a States,
    config: Option<Arc<ProxyConfig>>,
    services: Vec<Arc<Service>>,
    endpoint_sets: HashMap<Arc<str>, Arc<EndpointSetEntry>>,
}

impl<'a> Builder<'a> {
    /// Starts empty; endpoints are looked up in `states`.
    pub fn new(states: &'a States) -> Self {
        Self { states, config: None, services: Vec::new(), endpoint_sets: HashMap::new() }
    }

    /// The proxy's own side.
    #[must_use]
    pub fn config(mut self, config: Arc<ProxyConfig>) -> Self {
        self.config = Some(config);
        self
    }

    /// One endpoint set, by the name of its resource; the last of a name counts.
    #[must_use]
    pub fn endpoint_set(mut self, name: Arc<str>, set: Arc<EndpointSet>) -> Self {
        let states = set.endpoints.iter().map(|endpoint| self.states.of(endpoint)).collect();
        let eligible = balance::eligible(&set);
        let destination = self.states.destination(&set.service, set.port);
        let accruals = destination.put(&set);
        let entry =
            EndpointSetEntry { name: Arc::clone(&name), set, states, accruals, destination, eligible };
        self.endpoint_sets.insert(name, Arc::new(entry));
        self
    }

    /// One destination. The endpoint sets it names may be added before or after, or be missing.
    #[must_use]
    pub fn service(mut self, service: Arc<Service>) -> Self {
        self.services.push(service);
        self
    }

    /// The snapshot of what was collected.
    pub fn build(self, generation: u64) -> Snapshot {
        let sets = self.endpoint_sets;
        let services = self
            .services
            .into_iter()
            .map(|service| (service.name.clone(), Arc::new(ServiceEntry::new(service, &sets))))
            .collect();
        self.states.prune();
        Snapshot { generation, config: self.config, services }
    }
}
