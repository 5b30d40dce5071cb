//! Which candidate is picked, and how traffic spreads in simulated time.

mod simulation;

use proptest::prelude::*;

use super::*;
use crate::model::Endpoint;

fn set(healths: &[Health]) -> EndpointSet {
    EndpointSet {
        service: "demo/price".parse().unwrap(),
        port: 80,
        endpoints: (1..)
            .zip(healths)
            .map(|(port, health)| Endpoint {
                address: ([10, 0, 0, 1], port).into(),
                identity: "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap(),
                weight: 1,
                health: *health,
                workload: "demo/price-1".into(),
            })
            .collect(),
        panic: false,
        resilience: Default::default(),
    }
}

fn indices(healths: &[Health]) -> Vec<usize> {
    eligible(&set(healths)).indices().collect()
}

#[test]
fn the_healthy_go_first_then_the_unhealthy_then_the_draining() {
    use Health::{Draining, Healthy, Unhealthy};
    assert_eq!(indices(&[Draining, Healthy, Unhealthy, Healthy]), [1, 3]);
    assert_eq!(indices(&[Draining, Unhealthy]), [1]);
    assert_eq!(indices(&[Draining, Draining]), [0, 1]);
    assert!(indices(&[]).is_empty());
}

#[test]
fn nothing_to_pick_from_is_none_and_one_is_always_picked() {
    assert_eq!(pick(&Eligible::default(), |_| Some(0.0), [3, 4]), None);
    assert_eq!(pick(&Eligible::new([(7, 5)]), |_| Some(f64::MAX), [3, 4]), Some(7));
}

#[test]
fn the_less_loaded_of_two_is_picked_whatever_the_dice_say() {
    let pair = Eligible::new([(0, 1), (1, 1)]);
    for random in [[0, 0], [1, 0], [u64::MAX, u64::MAX]] {
        assert_eq!(pick(&pair, |index| Some([5.0, 4.0][index]), random), Some(1));
    }
}

#[test]
fn load_is_seen_in_proportion_to_weight() {
    let pair = Eligible::new([(0, 1), (1, 3)]);
    assert_eq!(pick(&pair, |index| Some([2.0, 5.0][index]), [0, 0]), Some(1));
    assert_eq!(pick(&pair, |index| Some([1.0, 4.0][index]), [3, 0]), Some(0));
}

#[test]
fn weight_divides_what_is_under_way_and_not_the_latency() {
    let pair = Eligible::new([(0, 1), (1, 3)]);
    let idle = |_| Some(Cost { idle: 1.0, under_way: 0.0 });
    assert_eq!(pick(&pair, idle, [0, 0]), Some(0));
    assert_eq!(pick(&pair, idle, [3, 0]), Some(1));
    // 1 + 2 / 0.5 against 1 + 5 / 1.5; then against 1 + 7 / 1.5.
    let busy = |other| move |index: usize| Some(Cost { idle: 1.0, under_way: [2.0, other][index] });
    assert_eq!(pick(&pair, busy(5.0), [0, 0]), Some(1));
    assert_eq!(pick(&pair, busy(7.0), [3, 0]), Some(0));
}

#[test]
fn idle_endpoints_share_by_weight() {
    let eligible = Eligible::new([(0, 1), (1, 3), (2, 4)]);
    let mut counts = [0; 3];
    for random in 0..80 {
        counts[pick(&eligible, |_| Some(0.0), [random, random / 8]).unwrap()] += 1;
    }
    assert_eq!(counts, [10, 30, 40]);
}

proptest! {
    #[test]
    fn two_different_candidates_are_drawn(
        weights in proptest::collection::vec(1..1000_u32, 2..20),
        random: [u64; 2],
    ) {
        let eligible = Eligible::new(weights.into_iter().enumerate());
        let (first, second) = eligible.draw(random).unwrap();
        prop_assert_ne!(first.index, second.unwrap().index);
    }
}

#[test]
fn the_other_of_two_is_taken_when_one_is_not_available() {
    let pair = Eligible::new([(0, 1), (1, 1)]);
    for random in [[0, 0], [1, 0]] {
        assert_eq!(pick(&pair, |index| [None, Some(9.0)][index], random), Some(1));
        assert_eq!(pick(&pair, |index| [Some(9.0), None][index], random), Some(0));
        assert_eq!(pick(&pair, |_| None::<f64>, random), None);
    }
}

#[test]
fn of_many_that_are_not_available_those_left_are_taken_by_weight() {
    let eligible = Eligible::new((0..100).map(|index| (index, if index == 98 { 3 } else { 1 })));
    let mut counts = [0_u32; 100];
    let mut random = Random(7);
    for _ in 0..40_000 {
        let cost = |index: usize| (index >= 98).then_some(0.0);
        counts[pick(&eligible, cost, random.two()).unwrap()] += 1;
    }
    assert_eq!(counts[98] + counts[99], 40_000);
    // Three quarters, give or take five standard deviations.
    assert!((29_567..30_433).contains(&counts[98]), "{counts:?}");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0)
    }

    fn two(&mut self) -> [u64; 2] {
        [self.next(), self.next()]
    }

    /// Uniform in 0..1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

proptest! {
    #[test]
    fn something_is_picked_exactly_if_something_is_available(
        endpoints in proptest::collection::vec((1..9_u32, any::<bool>(), 0.0..9.0_f64), 0..12),
        random: [u64; 2],
    ) {
        let eligible = Eligible::new(endpoints.iter().map(|endpoint| endpoint.0).enumerate());
        let cost = |index: usize| endpoints[index].1.then_some(endpoints[index].2);
        match pick(&eligible, cost, random) {
            Some(index) => prop_assert!(endpoints[index].1),
            None => prop_assert!(endpoints.iter().all(|endpoint| !endpoint.1)),
        }
    }

    #[test]
    fn no_cost_panics_or_hides_the_only_choice(costs: [f64; 2], random: [u64; 2]) {
        let pair = Eligible::new([(0, 1), (1, 2)]);
        prop_assert!(pick(&pair, |index| Some(costs[index]), random).is_some());
    }
}
