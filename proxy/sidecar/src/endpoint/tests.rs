//! States that outlive snapshots, and what attempts tell of endpoints, under a stopped clock.

use outrigger_core::{
    model::{Health, Outlier, Resilience},
    outlier::{Failure, Standing},
};

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

/// So many endpoints, of which the first `healthy` ones take requests; two failures in a row are enough.
fn set(count: usize, healthy: usize) -> EndpointSet {
    let endpoints = (0..count)
        .map(|index| Endpoint {
            address: ([127, 0, 0, 1], 8000 + u16::try_from(index).unwrap()).into(),
            health: if index < healthy { Health::Healthy } else { Health::Draining },
            ..endpoint("spiffe://outrigger.local/ns/demo/sa/price")
        })
        .collect();
    let outlier = Outlier { consecutive_failures: 2, ..Outlier::default() };
    EndpointSet {
        service: "demo/price".parse().unwrap(),
        port: 80,
        endpoints,
        panic: false,
        resilience: Resilience { outlier, ..Resilience::default() },
    }
}

/// A destination with the endpoints of a set in force.
struct Stage {
    states: States,
    destination: Arc<DestinationState>,
    set: Arc<EndpointSet>,
    accruals: Vec<Arc<Accrual>>,
}

impl Stage {
    fn new(set: EndpointSet) -> Self {
        let destination = Arc::new(DestinationState::new(now()));
        let accruals = destination.put(&set);
        Self { states: States::default(), destination, set: Arc::new(set), accruals }
    }

    /// An attempt at the endpoint at `index`, which must be one that takes them.
    fn attempt(&self, index: usize) -> Trial {
        let (state, accrual) = (self.states.of(&self.set.endpoints[index]), &self.accruals[index]);
        let admission = accrual.admit(now()).unwrap();
        Trial::begin((&self.destination, &self.set), &state, (accrual, admission), now())
    }

    fn standing(&self, index: usize) -> Standing {
        self.accruals[index].standing(now())
    }

    fn fail(&self, index: usize) {
        for _ in 0..2 {
            self.attempt(index).judge(now(), Verdict::Failure(Failure::Connect));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_break_off_after_their_heads_eject() {
    let stage = Stage::new(set(2, 2));
    for _ in 0..2 {
        let mut attempt = stage.attempt(0);
        attempt.answered(now());
        attempt.judge(now(), Verdict::Failure(Failure::Reset));
    }
    assert!(matches!(stage.standing(0), Standing::Ejected { .. }), "{:?}", stage.standing(0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_decides_at_the_head_however_long_the_rest_takes() {
    let stage = Stage::new(set(2, 2));
    stage.fail(0);
    tokio::time::advance(Duration::from_secs(3)).await;
    let mut probe = stage.attempt(0);
    assert!(stage.accruals[0].admit(now()).is_none(), "one at a time");
    probe.answered(now());
    assert_eq!(stage.standing(0), Standing::Healthy);
    // What becomes of the rest counts as that of any other request.
    probe.judge(now(), Verdict::Failure(Failure::Reset));
    assert_eq!(stage.standing(0), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_head_tells_how_quick_an_endpoint_is_and_its_end_does_not() {
    let stage = Stage::new(set(1, 1));
    let state = stage.states.of(&stage.set.endpoints[0]);
    assert_eq!(state.latency(now()), None);
    let mut attempt = stage.attempt(0);
    tokio::time::advance(Duration::from_millis(20)).await;
    attempt.answered(now());
    let told = state.latency(now()).unwrap();
    tokio::time::advance(Duration::from_secs(3600)).await;
    attempt.judge(now(), Verdict::Success);
    assert!(state.latency(now()).unwrap() <= told, "an open stream is not a slow answer");
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_of_an_endpoint_is_how_quickly_it_answers_and_a_failure_costs_it_all_the_same() {
    let stage = Stage::new(set(1, 1));
    let state = stage.states.of(&stage.set.endpoints[0]);
    stage.attempt(0).judge(now(), Verdict::Failure(Failure::Reset));
    assert_eq!(state.latency(now()), None, "it never answered");
    let mut attempt = stage.attempt(0);
    tokio::time::advance(Duration::from_millis(20)).await;
    attempt.answered(now());
    attempt.judge(now(), Verdict::Success);
    let told = state.latency(now()).unwrap();
    let cost = state.cost(now());
    stage.attempt(0).judge(now(), Verdict::Failure(Failure::Reset));
    assert_eq!(state.latency(now()), Some(told));
    assert!(told <= Duration::from_millis(21), "{told:?}");
    assert!(state.cost(now()).idle >= cost.idle);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_take_no_requests_make_no_room_for_an_ejection() {
    // The only one that serves stays, whoever else is there.
    let stage = Stage::new(set(2, 1));
    stage.fail(0);
    assert_eq!(stage.standing(0), Standing::Healthy);
    // And of those that serve one in ten may go, not one in ten of all.
    let stage = Stage::new(set(30, 4));
    stage.fail(0);
    stage.fail(1);
    assert!(matches!(stage.standing(0), Standing::Ejected { .. }));
    assert_eq!(stage.standing(1), Standing::Healthy);
}
