//! Random lives of a registry against an oracle: the server is killed at every point, clients come back in every
//! order, and a set shrinks only by half-close, expiry or policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use outrigger_core::model::{
    AppProtocol, EndpointSet, Kind, Metadata, Name, Object, ObjectRef, PortSpec, ServiceName, ServiceSpec,
    Spec, TargetPort,
};
use outrigger_proto::registry::v1alpha1 as wire;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Limits, Plan, SessionId, Table, Write};
use crate::{
    compile::{self, Policies},
    registry::{AddressRules, Claim, Registration, WorkloadName},
};

const CLIENTS: u8 = 3;
const LEASE: Duration = Duration::from_secs(30);

/// Where the server dies while it does something.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kill {
    Never,
    BeforeCommit,
    BeforeAnswer,
}

#[derive(Debug, Clone)]
enum Step {
    Register(u8, Kill),
    Heartbeat(u8),
    Break(u8),
    HalfClose(u8, Kill),
    Pass(u64, Kill),
    Restart,
}

#[derive(Debug, Default, Clone)]
struct Client {
    session: Option<SessionId>,
    epoch: u64,
    /// It was told that it is registered, and has not left: it must be there until then.
    until: Option<Instant>,
    /// It asked to go.
    leaving: bool,
}

struct World {
    now: Instant,
    table: Table,
    stored: BTreeMap<WorkloadName, Vec<u8>>,
    clients: Vec<Client>,
    sessions: u64,
    revision: u64,
    policies: Policies,
}

fn service() -> ServiceName {
    "demo/price".parse().unwrap()
}

fn policies() -> Policies {
    let name: Name = "price".parse().unwrap();
    let reference = ObjectRef { kind: Kind::Service, namespace: Some(service().namespace), name };
    let port = PortSpec {
        port: 80,
        name: None,
        protocol: AppProtocol::Http1,
        target_port: Some(TargetPort::Number(8080)),
    };
    let spec =
        ServiceSpec { ports: vec![port], service_accounts: BTreeSet::new(), selector: BTreeMap::new() };
    let metadata = Metadata::new(reference.namespace.clone(), reference.name.clone());
    let object = Object { metadata, spec: Spec::Service(spec), conditions: vec![] };
    Policies::new([(&reference, &Arc::new(object))])
}

fn address(client: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, client], 80))
}

fn claim(client: u8, epoch: u64) -> Claim {
    let workload = wire::Workload {
        id: format!("price-{client}"),
        ports: vec![wire::WorkloadPort {
            application_port: 8080,
            address: vec![10, 0, 0, client],
            port: 80,
            ..wire::WorkloadPort::default()
        }],
        epoch,
        ..wire::Workload::default()
    };
    let identity = "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap();
    Claim::new(&identity, &workload, AddressRules::default()).unwrap()
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            table: Table::load(Limits::default(), 0, [], now),
            stored: BTreeMap::new(),
            clients: vec![Client::default(); usize::from(CLIENTS)],
            sessions: 0,
            revision: 0,
            policies: policies(),
        }
    }

    fn set(&self) -> EndpointSet {
        compile::endpoint_set(&self.policies, &self.table.snapshot(), &service(), 80).unwrap().resource
    }

    /// Commits and applies, unless the server dies in between; returns whether it answered.
    fn execute(&mut self, plan: Plan, kill: Kill) -> bool {
        if kill != Kill::BeforeCommit {
            for write in &plan.writes {
                match write {
                    Write::Put(registration) => {
                        self.stored.insert(registration.claim.name.clone(), registration.encode())
                    }
                    Write::Delete(name) => self.stored.remove(name),
                };
            }
        }
        if kill != Kill::Never {
            self.restart();
            return false;
        }
        self.revision += u64::from(!plan.writes.is_empty());
        let ended = self.table.apply(self.now, plan, Some(self.revision)).ended;
        for client in &mut self.clients {
            if client.session.is_some_and(|session| ended.contains(&session)) {
                client.session = None;
            }
        }
        true
    }

    fn restart(&mut self) {
        let registrations = self.stored.values().map(|bytes| Registration::decode(bytes).unwrap());
        self.table = Table::load(Limits::default(), self.revision, registrations, self.now);
        for client in &mut self.clients {
            client.session = None;
            if client.until.is_some_and(|until| until > self.now) {
                client.until = Some(self.now + LEASE);
            }
        }
    }

    fn client(&mut self, index: u8) -> &mut Client {
        &mut self.clients[usize::from(index)]
    }

    fn register(&mut self, index: u8, kill: Kill) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let epoch = self.client(index).epoch;
        let plan = self.table.register(session, &claim(index, epoch), &BTreeMap::new()).unwrap();
        if self.execute(plan, kill) {
            let until = self.now + LEASE;
            let client = self.client(index);
            *client = Client { session: Some(session), epoch, until: Some(until), leaving: false };
        }
    }

    fn pass(&mut self, seconds: u64, kill: Kill) {
        let end = self.now + Duration::from_secs(seconds);
        // As the service does: it wakes at each moment at which something is due.
        while let Some(due) = self.table.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let before = self.set();
            if let Some(plan) = self.table.sweep(self.now) {
                self.execute(plan, kill);
            }
            self.check(&before);
            if kill != Kill::Never {
                break;
            }
        }
        self.now = end;
        // A server that was killed on the way sweeps what is due by now.
        let before = self.set();
        if let Some(plan) = self.table.sweep(self.now) {
            self.execute(plan, Kill::Never);
        }
        self.check(&before);
    }

    fn step(&mut self, step: &Step) {
        let before = self.set();
        match *step {
            Step::Register(index, kill) => self.register(index, kill),
            Step::Heartbeat(index) => {
                let (now, session) = (self.now, self.client(index).session);
                if session.is_some_and(|session| self.table.heartbeat(now, session).is_ok()) {
                    self.client(index).until = Some(now + LEASE);
                }
            }
            Step::Break(index) => {
                let now = self.now;
                if let Some(session) = self.client(index).session.take() {
                    self.table.lose(now, session);
                    self.client(index).until = Some(now + LEASE);
                    self.client(index).epoch += 1;
                }
            }
            Step::HalfClose(index, kill) => {
                if let Some(session) = self.client(index).session.take() {
                    self.client(index).leaving = true;
                    self.client(index).until = None;
                    let plan = self.table.withdraw(session).unwrap();
                    self.execute(plan, kill);
                }
            }
            Step::Pass(seconds, kill) => return self.pass(seconds, kill),
            Step::Restart => self.restart(),
        }
        self.check(&before);
    }

    fn check(&self, before: &EndpointSet) {
        let after = self.set();
        let listed: BTreeSet<SocketAddr> = after.endpoints.iter().map(|endpoint| endpoint.address).collect();
        for (index, client) in (0..).zip(&self.clients) {
            let there = listed.contains(&address(index));
            if client.until.is_some_and(|until| until > self.now) {
                assert!(there, "client {index} is registered and its lease runs, but it is not listed");
            }
            let was = before.endpoints.iter().any(|endpoint| endpoint.address == address(index));
            let expired = client.until.is_some_and(|until| until <= self.now);
            // Registered by a server that died before it said so: nobody counts on it.
            let unanswered = client.until.is_none();
            assert!(there || !was || client.leaving || expired || unanswered, "client {index} vanished");
        }
        let left = self.clients.iter().filter(|client| client.leaving).count();
        if before.endpoints.len() > 1 && !before.panic && left == 0 {
            assert!(!after.endpoints.is_empty(), "a set of {} was emptied by expiry", before.endpoints.len());
        }
    }
}

fn kill() -> impl Strategy<Value = Kill> {
    prop_oneof![4 => Just(Kill::Never), 1 => Just(Kill::BeforeCommit), 1 => Just(Kill::BeforeAnswer)]
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        5 => (client.clone(), kill()).prop_map(|(client, kill)| Step::Register(client, kill)),
        4 => client.clone().prop_map(Step::Heartbeat),
        2 => client.clone().prop_map(Step::Break),
        1 => (client, kill()).prop_map(|(client, kill)| Step::HalfClose(client, kill)),
        3 => (1_u64..40, kill()).prop_map(|(seconds, kill)| Step::Pass(seconds, kill)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_set_shrinks_only_by_half_close_or_expiry(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
    }
}

/// All orders of 0, 1, 2.
const ORDERS: [[u8; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn killed_at_every_point_and_rejoined_in_every_order_the_set_stays_whole() {
    let script = |kill_at: usize, kill: Kill| {
        let at = move |step: usize| if step == kill_at { kill } else { Kill::Never };
        [
            Step::Register(0, at(0)),
            Step::Register(1, at(1)),
            Step::Register(2, at(2)),
            Step::Pass(9, at(3)),
            Step::Heartbeat(0),
            Step::Heartbeat(1),
            Step::Heartbeat(2),
            Step::HalfClose(2, at(4)),
        ]
    };
    for kill_at in 0..5 {
        for kill in [Kill::BeforeCommit, Kill::BeforeAnswer] {
            for order in ORDERS {
                let mut world = World::new();
                for step in &script(kill_at, kill) {
                    world.step(step);
                }
                for (index, delay) in order.into_iter().zip([28, 1, 0]) {
                    world.step(&Step::Pass(delay, Kill::Never));
                    world.step(&Step::Register(index, Kill::Never));
                }
                assert_eq!(
                    world.set().endpoints.len(),
                    3,
                    "killed at {kill_at} ({kill:?}), back in {order:?}"
                );
            }
        }
    }
}

#[test]
fn a_set_that_lapses_together_is_kept_for_one_lease_as_unhealthy() {
    let mut world = World::new();
    for index in 0..CLIENTS {
        world.step(&Step::Register(index, Kill::Never));
        world.step(&Step::Pass(5, Kill::Never));
    }
    // Registered at 0, 5 and 10; silent since. The last lease runs out at 40.
    world.step(&Step::Pass(24, Kill::Never));
    assert_eq!((world.set().endpoints.len(), world.set().panic), (1, false));
    world.step(&Step::Pass(2, Kill::Never));
    let set = world.set();
    assert!(set.panic);
    assert_eq!(set.endpoints.len(), 3, "those that lapsed within a lease of the last");
    assert!(set.endpoints.iter().all(|e| e.health == outrigger_core::model::Health::Unhealthy));
    // A restart in the middle keeps it, for one lease more.
    world.step(&Step::Restart);
    assert!(world.set().panic);
    assert_eq!(world.set().endpoints.len(), 3);
    world.step(&Step::Pass(29, Kill::Never));
    assert_eq!(world.set().endpoints.len(), 3);
    world.step(&Step::Pass(1, Kill::Never));
    assert_eq!(world.set().endpoints.len(), 0);
    assert!(!world.set().panic);
}

#[test]
fn the_last_one_of_a_set_goes_with_its_lease() {
    let mut world = World::new();
    world.step(&Step::Register(0, Kill::Never));
    world.step(&Step::Register(1, Kill::Never));
    world.step(&Step::HalfClose(1, Kill::Never));
    world.step(&Step::Pass(30, Kill::Never));
    assert_eq!(world.set().endpoints.len(), 0);
}

#[test]
fn one_that_comes_back_ends_the_panic() {
    let mut world = World::new();
    world.step(&Step::Register(0, Kill::Never));
    world.step(&Step::Register(1, Kill::Never));
    world.step(&Step::Pass(30, Kill::Never));
    assert!(world.set().panic);
    world.step(&Step::Register(0, Kill::Never));
    let set = world.set();
    assert!(!set.panic);
    assert_eq!(set.endpoints.iter().map(|e| e.address).collect::<Vec<_>>(), [address(0)]);
}
