//! Requests, endpoints and virtual time: how P2C over [`PeakEwma`] spreads traffic.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::{
    super::{Eligible, PeakEwma, pick},
    Random,
};

const SECOND: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How an endpoint answers a request that begins so long after the start; the fraction is uniform in 0..1.
type Answers = fn(Duration, f64) -> Answer;

#[derive(Clone, Copy)]
enum Answer {
    Good(Duration),
    Failed(Duration),
}

struct Endpoint {
    answers: Answers,
    ewma: PeakEwma,
    in_flight: u64,
}

/// What is under way: when it ends, at which endpoint, when it began, and whether it fails.
type Pending = Reverse<(Duration, usize, Duration, bool)>;

struct Simulation {
    start: Instant,
    now: Duration,
    random: Random,
    eligible: Eligible,
    endpoints: Vec<Endpoint>,
    pending: BinaryHeap<Pending>,
}

impl Simulation {
    /// Endpoints with a weight each.
    fn new(endpoints: &[(u32, Answers)]) -> Self {
        let start = Instant::now();
        let mut simulation = Self {
            start,
            now: Duration::ZERO,
            random: Random(42),
            eligible: Eligible::new(endpoints.iter().map(|endpoint| endpoint.0).enumerate()),
            endpoints: Vec::new(),
            pending: BinaryHeap::new(),
        };
        for (_, answers) in endpoints {
            simulation.join(*answers);
        }
        simulation
    }

    fn join(&mut self, answers: Answers) {
        let ewma = PeakEwma::new(self.start + self.now);
        self.endpoints.push(Endpoint { answers, ewma, in_flight: 0 });
    }

    /// Sends `rate` requests a second for `time`, at random moments; returns how many each endpoint got.
    fn run(&mut self, rate: u32, time: Duration) -> Vec<u32> {
        let mut counts = vec![0; self.endpoints.len()];
        let end = self.now + time;
        loop {
            // Exponential gaps: a Poisson process.
            let gap = -(1.0 - self.random.fraction()).ln() / f64::from(rate);
            let next = self.now + Duration::from_secs_f64(gap);
            self.finish_until(next.min(end));
            if next >= end {
                self.now = end;
                return counts;
            }
            self.now = next;
            counts[self.send()] += 1;
        }
    }

    fn send(&mut self) -> usize {
        let now = self.start + self.now;
        let random = self.random.two();
        let cost = |index: usize| {
            let endpoint = &self.endpoints[index];
            Some(endpoint.ewma.cost(now, endpoint.in_flight))
        };
        let index = pick(&self.eligible, cost, random).unwrap();
        let (takes, failed) = match (self.endpoints[index].answers)(self.now, self.random.fraction()) {
            Answer::Good(takes) => (takes, false),
            Answer::Failed(takes) => (takes, true),
        };
        self.endpoints[index].in_flight += 1;
        self.pending.push(Reverse((self.now + takes, index, self.now, failed)));
        index
    }

    fn finish_until(&mut self, time: Duration) {
        while self.pending.peek().is_some_and(|Reverse((end, ..))| *end <= time) {
            let Reverse((end, index, began, failed)) = self.pending.pop().unwrap();
            let endpoint = &mut self.endpoints[index];
            endpoint.in_flight -= 1;
            if failed {
                endpoint.ewma.penalise(self.start + end, end - began);
            } else {
                endpoint.ewma.record(self.start + end, end - began);
            }
        }
    }
}

fn share(counts: &[u32], index: usize) -> f64 {
    f64::from(counts[index]) / f64::from(counts.iter().sum::<u32>())
}

fn five_millis(_: Duration, _: f64) -> Answer {
    Answer::Good(millis(5))
}

/// 5 ms on average, with a long tail.
fn noisy(_: Duration, fraction: f64) -> Answer {
    Answer::Good(Duration::from_secs_f64(-0.005 * (1.0 - fraction).ln()))
}

#[test]
fn equal_endpoints_share_evenly_at_any_rate() {
    for rate in [1, 20, 500, 5000] {
        for answers in [five_millis as Answers, noisy] {
            let time = if rate == 1 { 3000 * SECOND } else { 120 * SECOND };
            let counts = Simulation::new(&[(1, answers); 4]).run(rate, time);
            for index in 0..4 {
                let share = share(&counts, index);
                assert!((0.15..0.35).contains(&share), "{rate}/s: {counts:?}");
            }
        }
    }
}

#[test]
fn two_endpoints_never_lock_on_one_of_them() {
    // 2 % apart; ten times apart; one far slower than the default. Even the slowest is tried again and again.
    let close: Answers = |_, _| Answer::Good(Duration::from_micros(5100));
    let far: Answers = |_, _| Answer::Good(millis(50));
    let slow: Answers = |_, _| Answer::Good(2 * SECOND);
    for (other, least) in [(close, 0.3), (far, 0.001), (slow, 0.0001)] {
        let mut simulation = Simulation::new(&[(1, five_millis), (1, other)]);
        simulation.run(50, 60 * SECOND);
        for _ in 0..5 {
            let counts = simulation.run(50, 120 * SECOND);
            let share = share(&counts, 1);
            assert!(share >= least && share < 0.7, "{counts:?}");
        }
    }
}

#[test]
fn a_slow_endpoint_loses_its_share_and_gets_it_back_when_it_is_fast_again() {
    let slow_for_a_minute: Answers = |now, _| {
        let slow = (60..120).contains(&now.as_secs());
        Answer::Good(if slow { millis(500) } else { millis(5) })
    };
    for rate in [20, 500] {
        let mut simulation = Simulation::new(&[(1, five_millis), (1, slow_for_a_minute), (1, five_millis)]);
        simulation.run(rate, 30 * SECOND);
        let before = simulation.run(rate, 30 * SECOND);
        assert!((0.2..0.45).contains(&share(&before, 1)), "{rate}/s: {before:?}");
        let slow = simulation.run(rate, 60 * SECOND);
        assert!(share(&slow, 1) < 0.02, "{rate}/s: {slow:?}");
        simulation.run(rate, 60 * SECOND);
        let after = simulation.run(rate, 30 * SECOND);
        assert!((0.2..0.45).contains(&share(&after, 1)), "{rate}/s: {after:?}");
    }
}

#[test]
fn an_endpoint_that_fails_fast_does_not_attract_load() {
    let failing: Answers = |_, _| Answer::Failed(Duration::from_micros(200));
    let broken_later: Answers =
        |now, _| if now.as_secs() < 60 { Answer::Good(millis(5)) } else { Answer::Failed(millis(1)) };
    for rate in [5, 50, 2000] {
        for answers in [failing, broken_later] {
            let mut simulation = Simulation::new(&[(1, noisy), (1, answers), (1, noisy)]);
            simulation.run(rate, 60 * SECOND);
            let counts = simulation.run(rate, 60 * SECOND);
            assert!(share(&counts, 1) < 0.03, "{rate}/s: {counts:?}");
        }
    }
}

#[test]
fn an_endpoint_that_fails_sometimes_gets_less_and_not_nothing() {
    let sometimes: Answers =
        |_, fraction| if fraction < 0.02 { Answer::Failed(millis(1)) } else { Answer::Good(millis(5)) };
    let mut simulation = Simulation::new(&[(1, five_millis), (1, sometimes)]);
    let counts = simulation.run(1000, 300 * SECOND);
    let share = share(&counts, 1);
    assert!((0.01..0.4).contains(&share), "{counts:?}");
}

#[test]
fn a_new_endpoint_gets_its_first_request_soon_and_is_not_flooded() {
    for (rate, takes) in [(50, 1), (500, 5), (500, 200)] {
        // Slower than the others, which nobody can know.
        let newcomer: Answers = |_, _| Answer::Good(millis(400));
        let veteran: Answers = match takes {
            1 => |_, _| Answer::Good(millis(1)),
            5 => five_millis,
            _ => |_, _| Answer::Good(millis(200)),
        };
        let mut simulation = Simulation::new(&[(1, veteran), (1, veteran), (1, veteran)]);
        simulation.run(rate, 60 * SECOND);
        simulation.eligible = Eligible::new((0..4).map(|index| (index, 1)));
        simulation.join(newcomer);
        let first = simulation.run(rate, millis(400));
        // Only as many before its first answer as find out what it is like.
        assert!(first[3] <= 12 && share(&first, 3) < 0.15, "{rate}/s, {takes} ms: {first:?}");
        let soon = simulation.run(rate, 10 * SECOND);
        assert!(first[3] + soon[3] > 0, "{rate}/s, {takes} ms: {soon:?}");
    }
}

#[test]
fn a_new_endpoint_like_the_others_has_its_share_soon() {
    let mut simulation = Simulation::new(&[(1, five_millis), (1, five_millis), (1, five_millis)]);
    simulation.run(200, 60 * SECOND);
    simulation.eligible = Eligible::new((0..4).map(|index| (index, 1)));
    simulation.join(five_millis);
    simulation.run(200, 10 * SECOND);
    let counts = simulation.run(200, 10 * SECOND);
    assert!((0.15..0.35).contains(&share(&counts, 3)), "{counts:?}");
}

#[test]
fn a_recovered_endpoint_is_tried_with_few_requests_at_first() {
    // It hangs from now on: whoever is sent there waits.
    let hanging: Answers = |now, _| {
        if now.as_secs() < 60 { Answer::Good(2 * SECOND) } else { Answer::Good(1000 * SECOND) }
    };
    let mut simulation = Simulation::new(&[(1, five_millis), (1, hanging)]);
    simulation.run(200, 120 * SECOND);
    let counts = simulation.run(200, 120 * SECOND);
    assert!(counts[1] < 60, "{counts:?}");
}

#[test]
fn weights_hold_among_equals_under_load_and_when_idle() {
    // A long tail at a load of five requests pulls towards equal shares, see below.
    let cases = [
        (20, five_millis as Answers, 0.25),
        (5000, five_millis, 0.25),
        (5000, noisy, 0.25),
        (1000, noisy, 0.35),
    ];
    for (rate, answers, within) in cases {
        let mut simulation = Simulation::new(&[(1, answers), (2, answers), (5, answers)]);
        simulation.run(rate, 10 * SECOND);
        let counts = simulation.run(rate, 100 * SECOND);
        for (index, expected) in [(0, 0.125), (1, 0.25), (2, 0.625)] {
            let share = share(&counts, index);
            assert!((share - expected).abs() < within * expected, "{rate}/s: {counts:?}");
        }
    }
}

#[test]
fn a_long_tail_shows_more_where_more_is_sent_so_idle_shares_lie_between_equal_and_weighted() {
    let mut simulation = Simulation::new(&[(1, noisy), (2, noisy), (5, noisy)]);
    let counts = simulation.run(20, 1000 * SECOND);
    let [light, middle, heavy] = [0, 1, 2].map(|index| share(&counts, index));
    assert!(light < middle && middle < heavy, "{counts:?}");
    assert!((0.12..0.33).contains(&light) && heavy > 0.38, "{counts:?}");
}
