//! Failures of the application: ejected for what one endpoint does, never for what everybody does.

use super::*;

/// Splits of requests over endpoints and outcomes, uniform and reproducible (an LCG of Knuth's, its high bits).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 32).unwrap()
    }

    fn fraction(&mut self) -> f64 {
        f64::from(self.next()) / (f64::from(u32::MAX) + 1.0)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next()).unwrap() % count
    }
}

/// Sends `rate` requests a second for `seconds` to endpoints that fail with these chances, each to one of those that
/// would admit it; returns how often one was ejected.
fn run(set: &mut Set, random: &mut Random, rate: u32, seconds: u32, chances: &[f64]) -> u32 {
    let mut ejected = 0;
    for _ in 0..rate * seconds {
        set.now += SECOND / rate;
        let index = loop {
            let index = random.below(chances.len());
            if set.members[index].cost(set.now, Cost::default()).is_some() {
                break index;
            }
        };
        let healthy = set.is_healthy(index);
        let verdict = if random.fraction() < chances[index] { BROKEN } else { Verdict::Success };
        set.record(index, verdict, 1);
        ejected += u32::from(healthy && !set.is_healthy(index));
    }
    ejected
}

#[test]
fn one_endpoint_that_answers_only_500_is_ejected_at_the_seventh() {
    for size in [2, 3, 10] {
        let mut set = Set::new(size);
        let mut random = Random(1);
        run(&mut set, &mut random, 100, 20, &vec![0.0; size]);
        set.record(0, BROKEN, 6);
        assert!(set.is_healthy(0));
        set.record(0, BROKEN, 1);
        assert!(matches!(set.standing(0), Standing::Ejected { why: Failure::Application, .. }), "{size}");
    }
}

#[test]
fn nobody_is_ejected_when_everybody_fails_alike() {
    for size in [2, 3, 10, 100] {
        for chance in [0.05, 0.2, 0.5, 0.8, 1.0] {
            for rate in [20, 500] {
                let (mut set, mut random) = (Set::new(size), Random(size as u64));
                // It breaks at once, after half a minute of health; and goes on so.
                run(&mut set, &mut random, rate, 30, &vec![0.0; size]);
                let ejected = run(&mut set, &mut random, rate, 30, &vec![chance; size]);
                assert_eq!(ejected, 0, "{size} endpoints, {chance} fail, {rate}/s");
            }
        }
    }
}

#[test]
fn nobody_is_ejected_without_others_to_compare_with() {
    let set = Set::new(3);
    set.record(0, BROKEN, 100);
    assert!(set.is_healthy(0));
    // What needs no comparison does.
    set.record(1, CONNECT, 7);
    assert!(!set.is_healthy(1));
}

#[test]
fn a_row_of_both_kinds_counts_by_itself_once_enough_of_it_does() {
    let set = Set::new(3);
    set.record(0, BROKEN, 5);
    set.record(0, CONNECT, 6);
    assert!(set.is_healthy(0));
    set.record(0, CONNECT, 1);
    assert!(!set.is_healthy(0));
}

#[test]
fn an_endpoint_much_worse_than_the_others_is_ejected_and_the_others_are_not() {
    let (mut set, mut random) = (Set::new(4), Random(3));
    let chances = [1.0, 0.05, 0.05, 0.05];
    let mut away = 0;
    for _ in 0..60 {
        run(&mut set, &mut random, 200, 1, &chances);
        assert!((1..4).all(|index| set.is_healthy(index)));
        away += u32::from(!set.is_healthy(0));
    }
    assert!(away > 50, "{away}");
}

#[test]
fn of_two_that_are_broken_among_four_one_goes() {
    let (mut set, mut random) = (Set::new(4), Random(4));
    run(&mut set, &mut random, 200, 10, &[0.0; 4]);
    let ejected = run(&mut set, &mut random, 200, 2, &[1.0, 1.0, 0.0, 0.0]);
    assert!(ejected >= 1);
    assert_eq!(set.healthy(), 3);
}

#[test]
fn an_ejected_endpoint_comes_back_when_everybody_fails_as_it_does() {
    let (mut set, mut random) = (Set::new(3), Random(5));
    run(&mut set, &mut random, 100, 10, &[0.0; 3]);
    set.record(0, BROKEN, 7);
    set.now += 2 * SECOND;
    let probe = set.probe(0);
    set.end(0, Admission::Probe(probe), BROKEN);
    assert!(!set.is_healthy(0), "the others still do well");
    run(&mut set, &mut random, 100, 20, &[1.0; 3]);
    assert_eq!(set.healthy(), 3);
}
