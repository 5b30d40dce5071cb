//! What each message does, and every theft that is refused.

use std::{collections::BTreeMap, time::Duration};

use outrigger_core::model::Health;
use tokio::time::Instant;

use super::{Limits, Plan, SessionId, Table, Write};
use crate::registry::{AddressRules, Claim, Refusal, SessionOver, Standing, WorkloadName};

const LEASE: Duration = Duration::from_secs(30);

fn claim(account: &str, id: &str, address: &str, epoch: u64) -> Claim {
    let identity = format!("spiffe://outrigger.local/ns/demo/sa/{account}").parse().unwrap();
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let workload = outrigger_proto::registry::v1alpha1::Workload {
        id: id.to_owned(),
        epoch,
        ports: vec![outrigger_proto::registry::v1alpha1::WorkloadPort {
            application_port: 80,
            address: address.ip().octets().to_vec(),
            port: address.port().into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    Claim::new(&identity, &workload, AddressRules::default()).unwrap()
}

fn name(id: &str) -> WorkloadName {
    WorkloadName { namespace: "demo".parse().unwrap(), id: id.parse().unwrap() }
}

/// A table and what it committed.
struct Registry {
    table: Table,
    now: Instant,
    revision: u64,
}

impl Registry {
    fn new() -> Self {
        let now = Instant::now();
        Self { table: Table::load(Limits::default(), 0, [], now), now, revision: 0 }
    }

    fn apply(&mut self, plan: Plan) -> (Vec<Write>, Vec<SessionId>) {
        let writes = plan.writes.clone();
        if !writes.is_empty() {
            self.revision += 1;
        }
        let revision = (!writes.is_empty()).then_some(self.revision);
        (writes, self.table.apply(self.now, plan, revision).ended)
    }

    fn register(&mut self, session: u64, claim: &Claim) -> Result<(Vec<Write>, Vec<SessionId>), Refusal> {
        let plan = self.table.register(SessionId(session), claim, &BTreeMap::new())?;
        Ok(self.apply(plan))
    }

    fn advance(&mut self, by: Duration) -> (Vec<Write>, Vec<SessionId>) {
        self.now += by;
        self.table.sweep(self.now).map(|plan| self.apply(plan)).unwrap_or_default()
    }

    fn standing(&self, id: &str) -> Option<Standing> {
        self.table.snapshot().members.get(&name(id)).map(|member| member.standing)
    }
}

#[test]
fn only_membership_is_committed() {
    let mut registry = Registry::new();
    let price = claim("price", "price-1", "10.0.0.1:80", 1);
    assert_eq!(registry.register(1, &price).unwrap().0.len(), 1);
    assert_eq!(registry.register(1, &price).unwrap().0, [], "nothing new");
    registry.table.heartbeat(registry.now, SessionId(1)).unwrap();
    assert!(registry.table.set_health(registry.now, SessionId(1), Health::Unhealthy).unwrap());
    registry.table.lose(registry.now, SessionId(1));
    assert_eq!(registry.register(2, &price).unwrap().0, [], "back after a broken stream");
    let snapshot = registry.table.snapshot();
    assert_eq!(snapshot.members[&name("price-1")].health, Health::Unhealthy, "the same process");
    assert_eq!(snapshot.revision, 1);
}

#[test]
fn an_id_is_taken_over_only_by_its_identity() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    let thief = claim("till", "price-1", "10.0.0.2:80", 9);
    assert_eq!(registry.register(2, &thief), Err(Refusal::IdOwned(name("price-1"))));
    registry.table.lose(registry.now, SessionId(1));
    registry.advance(LEASE);
    assert_eq!(registry.register(2, &thief), Err(Refusal::IdOwned(name("price-1"))), "lapsed or not");
}

#[test]
fn a_higher_epoch_takes_over_and_a_lower_one_is_refused() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 5)).unwrap();
    let (_, ended) = registry.register(2, &claim("price", "price-1", "10.0.0.1:80", 6)).unwrap();
    assert_eq!(ended, [SessionId(1)], "the old process is told");
    assert_eq!(registry.table.heartbeat(registry.now, SessionId(1)), Err(SessionOver));
    assert_eq!(
        registry.register(3, &claim("price", "price-1", "10.0.0.1:80", 5)),
        Err(Refusal::StaleEpoch { name: name("price-1"), current: 6, claimed: 5 })
    );
    registry.table.lose(registry.now, SessionId(1));
    assert!(registry.table.withdraw(SessionId(1)).is_err(), "an old stream withdraws nothing");
    assert_eq!(registry.standing("price-1"), Some(Standing::Live));
}

#[test]
fn an_address_belongs_to_its_first_owner() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    let address = "10.0.0.1:80".parse().unwrap();
    let thief = claim("till", "till-1", "10.0.0.1:80", 1);
    assert_eq!(registry.register(2, &thief), Err(Refusal::AddressOwned(address)));
    let double = claim("price", "price-2", "10.0.0.1:80", 1);
    assert_eq!(registry.register(2, &double), Err(Refusal::AddressInUse { address, owner: name("price-1") }));
    // A broken stream protects the address for the lease.
    registry.table.lose(registry.now, SessionId(1));
    assert_eq!(registry.register(2, &thief), Err(Refusal::AddressOwned(address)));
    // The machine's next tenant, once the lease is over.
    registry.advance(LEASE);
    let (writes, _) = registry.register(2, &thief).unwrap();
    assert_eq!(writes[0], Write::Delete(name("price-1")));
    assert_eq!(registry.standing("price-1"), None);
}

#[test]
fn a_restart_under_a_new_id_takes_the_address_of_its_predecessor() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    registry.table.lose(registry.now, SessionId(1));
    let (writes, _) = registry.register(2, &claim("price", "price-2", "10.0.0.1:80", 1)).unwrap();
    assert_eq!(writes.len(), 2);
    assert_eq!(registry.standing("price-1"), None);
    assert_eq!(registry.standing("price-2"), Some(Standing::Live));
}

#[test]
fn a_session_is_of_one_workload() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    assert_eq!(
        registry.register(1, &claim("price", "price-2", "10.0.0.2:80", 1)),
        Err(Refusal::OtherWorkload(name("price-1")))
    );
}

#[test]
fn labels_are_what_they_are_told_to_be() {
    let registry = Registry::new();
    let labels = BTreeMap::from([("version".to_owned(), "v1".to_owned())]);
    let plan =
        registry.table.register(SessionId(1), &claim("price", "a", "10.0.0.1:80", 1), &labels).unwrap();
    let Write::Put(registration) = &plan.writes[0] else { panic!("{plan:?}") };
    assert_eq!(registration.labels, labels);
}

#[test]
fn a_half_close_withdraws_at_once() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    let plan = registry.table.withdraw(SessionId(1)).unwrap();
    assert_eq!(registry.apply(plan).0, [Write::Delete(name("price-1"))]);
    assert_eq!(registry.standing("price-1"), None);
    assert_eq!(registry.table.next_due(), None);
}

#[test]
fn a_lease_without_signs_of_life_lapses_and_is_forgotten_two_leases_later() {
    let mut registry = Registry::new();
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    registry.advance(Duration::from_secs(29));
    registry.table.heartbeat(registry.now, SessionId(1)).unwrap();
    registry.advance(Duration::from_secs(29));
    assert_eq!(registry.standing("price-1"), Some(Standing::Live));
    let (writes, ended) = registry.advance(Duration::from_secs(1));
    let Write::Put(registration) = &writes[0] else { panic!("{writes:?}") };
    assert!(registration.lapsed, "a restart must not bring it back");
    assert_eq!(ended, [SessionId(1)], "a stream that is open but silent is ended");
    let since = registry.now;
    registry.advance(LEASE);
    assert_eq!(registry.standing("price-1"), Some(Standing::Overdue(since)));
    assert_eq!(registry.advance(LEASE).0, [Write::Delete(name("price-1"))]);
}

#[test]
fn a_lapsed_workload_comes_back_by_registering() {
    let mut registry = Registry::new();
    let price = claim("price", "price-1", "10.0.0.1:80", 1);
    registry.register(1, &price).unwrap();
    registry.advance(LEASE);
    registry.register(2, &price).unwrap();
    assert_eq!(registry.standing("price-1"), Some(Standing::Live));
}

#[test]
fn at_the_start_every_lease_is_fresh_and_the_lapsed_stay_lapsed() {
    let now = Instant::now();
    let registration = |id: &str, address: &str, lapsed| crate::registry::Registration {
        claim: claim("price", id, address, 1),
        labels: BTreeMap::new(),
        lapsed,
    };
    let stored = [registration("a", "10.0.0.1:80", false), registration("b", "10.0.0.2:80", true)];
    let table = Table::load(Limits::default(), 7, stored, now);
    assert!(table.sweep(now + LEASE - Duration::from_millis(1)).is_none());
    let snapshot = table.snapshot();
    assert_eq!(snapshot.revision, 7);
    assert_eq!(snapshot.members[&name("a")].standing, Standing::Live);
    assert_eq!(snapshot.members[&name("b")].standing, Standing::Lapsed(now));
}

#[test]
fn nobody_fills_the_table_alone() {
    let now = Instant::now();
    let limits = Limits { workloads: 3, workloads_per_identity: 2, ..Limits::default() };
    let mut registry = Registry { table: Table::load(limits, 0, [], now), now, revision: 0 };
    registry.register(1, &claim("price", "price-1", "10.0.0.1:80", 1)).unwrap();
    registry.register(2, &claim("price", "price-2", "10.0.0.2:80", 1)).unwrap();
    let third = registry.register(3, &claim("price", "price-3", "10.0.0.3:80", 1));
    assert!(matches!(third, Err(Refusal::Full(_))));
    registry.register(3, &claim("till", "till-1", "10.0.0.4:80", 1)).unwrap();
    let fourth = registry.register(4, &claim("front", "front-1", "10.0.0.5:80", 1));
    assert!(matches!(fourth, Err(Refusal::Full(_))));
}
