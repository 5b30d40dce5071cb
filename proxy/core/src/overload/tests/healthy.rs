//! Applications that have no more to do than they can, however slow they are: nobody is refused. And those that have too much
//! for a moment: hardly anybody.

use super::simulation::{Application, Course, Load, Random, SPREADS, Spread, both_of, put, run, unbounded};

fn both(rate: Course<'_>, places: Course<'_>, takes: Course<'_>, seconds: f64) {
    for spread in SPREADS {
        let outcomes = run(rate, Application { places, takes, spread }, seconds);
        assert_eq!(outcomes.refused(0.0..seconds), 0, "{spread:?}");
    }
}

#[test]
fn an_application_that_is_quick_and_well_used() {
    both(&|_| 350.0, &|_| 8.0, &|_| 0.02, 60.0);
}

#[test]
fn one_whose_only_thread_is_busy_most_of_the_time() {
    both(&|t| if t < 10.0 { 300.0 } else { 860.0 }, &|_| 1.0, &|_| 0.001, 40.0);
}

#[test]
fn one_that_waits_a_second_for_others_however_many_come() {
    both(&|t| if t < 3.0 { 1.0 } else { 100.0 }, &unbounded, &|_| 1.0, 15.0);
    both(&|t| if t < 5.0 { 100.0 } else { 500.0 }, &unbounded, &|_| 1.0, 15.0);
    both(&|_| 1000.0, &unbounded, &|_| 1.0, 10.0);
}

#[test]
fn one_whose_dependency_becomes_slower() {
    both(&|_| 1000.0, &unbounded, &|t| if t < 10.0 { 0.02 } else { 0.2 }, 30.0);
    both(&|_| 1000.0, &unbounded, &|t| if t < 10.0 { 0.02 } else { 0.05 }, 30.0);
    both(&|_| 1000.0, &unbounded, &|t| (0.02 + 0.05 * (t - 10.0).max(0.0)).min(0.5), 40.0);
}

#[test]
fn one_whose_dependency_hangs() {
    both(&|_| 1000.0, &unbounded, &|t| if t < 10.0 { 0.02 } else { 2.0 }, 30.0);
}

/// The requests of an endpoint that is hardly asked any more, and then takes the load of another.
fn failover(t: f64) -> f64 {
    if t < 10.0 {
        110.0
    } else if t < 14.0 {
        3.0
    } else {
        225.0
    }
}

#[test]
fn one_that_became_slow_with_little_to_do_and_then_gets_the_load_of_another() {
    for slow in [0.05, 0.3, 1.0] {
        for spread in both_of(1..=12) {
            let takes: Course<'_> = &|t| if t < 10.0 { 0.003 } else { slow };
            let outcomes = run(&failover, Application { places: &unbounded, takes, spread }, 30.0);
            assert_eq!(outcomes.refused(0.0..30.0), 0, "{slow}, {spread:?}");
        }
    }
}

#[test]
fn one_that_is_started_again_and_is_slow_at_first() {
    let cold = |t: f64, from: f64| if (from..from + 2.0).contains(&t) { 0.4 } else { 0.02 };
    both(&|_| 10.0, &|_| 8.0, &|t| cold(t, 10.0), 30.0);
    both(&|_| 300.0, &unbounded, &|t| cold(t, 10.0), 20.0);
    both(&|_| 300.0, &unbounded, &|t| cold(t, 0.0), 20.0);
    // Ten times as much as it can, as long as it is cold.
    both(&|_| 200.0, &|_| 8.0, &|t| cold(t, 10.0), 30.0);
    both(&|_| 200.0, &|_| 8.0, &|t| cold(t, 0.0), 30.0);
}

#[test]
fn one_that_pauses_now_and_then() {
    let left = |t: f64, every: f64, pause: f64| (pause - t % every).max(0.0);
    both(&|_| 1000.0, &unbounded, &|t| 0.005 + left(t, 2.0, 0.3), 30.0);
    both(&|_| 1000.0, &unbounded, &|t| 0.005 + left(t, 5.0, 1.0), 30.0);
    both(&|_| 1000.0, &unbounded, &|t| 0.005 + left(t, 10.0, 2.0), 30.0);
}

#[test]
fn one_that_is_sent_batches() {
    both(&|t| if t % 1.0 < 0.05 { 4000.0 } else { 20.0 }, &|_| 8.0, &|_| 0.02, 30.0);
}

#[test]
fn few_requests_that_take_very_long_among_many_quick_ones() {
    // By time: one in 330 takes 30 s, later every second one.
    let takes: Course<'_> = &|t| {
        let every = if t < 40.0 { 330.0 } else { 2.0 };
        let place = (t * 1e6).floor() % every;
        if place == 0.0 { 30.0 } else { 0.005 }
    };
    both(&|t| if t < 40.0 { 1000.0 } else { 10.0 }, &unbounded, takes, 120.0);
}

/// What others leave of a machine: now and then everything takes up to `most` times as long, for 0.1 s to 2 s.
fn busy_machine(seed: u64, most: f64) -> impl Fn(f64) -> f64 {
    let mut random = Random::new(seed);
    let mut stretches = vec![(10.0, 1.0)];
    let mut end = 10.0;
    while end < 60.0 {
        end += 0.1 + 1.9 * random.uniform();
        stretches.push((end, 1.0 + (most - 1.0) * random.uniform()));
        end += 0.5 + 4.5 * random.uniform();
        stretches.push((end, 1.0));
    }
    move |t| stretches[stretches.partition_point(|(end, _)| *end <= t)].1
}

fn seed_of(spread: Spread) -> u64 {
    let (Spread::Exact(seed) | Spread::Exponential(seed)) = spread;
    seed
}

#[test]
fn one_on_a_machine_that_others_keep_busy_while_it_can_do_what_it_has_to() {
    for spread in both_of(1..=2) {
        let ten = busy_machine(seed_of(spread), 10.0);
        let two = busy_machine(seed_of(spread), 1.9);
        let courses: [(f64, Course<'_>, Course<'_>); 4] = [
            (20.0, &|_| 8.0, &|t| 0.02 * ten(t)),
            (200.0, &unbounded, &|t| 0.02 * ten(t)),
            (200.0, &unbounded, &|t| 0.3 * ten(t)),
            (200.0, &|_| 8.0, &|t| 0.02 * two(t)),
        ];
        for (rate, places, takes) in courses {
            let outcomes = run(&|_| rate, Application { places, takes, spread }, 60.0);
            assert_eq!(outcomes.refused(0.0..60.0), 0, "{rate}, {spread:?}");
        }
    }
}

#[test]
fn one_that_has_too_much_for_a_moment_on_a_busy_machine_refuses_next_to_nothing() {
    let (mut shares, mut runs) = (0.0, 0.0);
    for spread in both_of(1..=5) {
        // Half of what it can at best.
        for (rate, places, takes) in [(200.0, 8.0, 0.02), (500.0, 1.0, 0.001), (50.0, 1.0, 0.01)] {
            let busy = busy_machine(seed_of(spread), 10.0);
            let application = Application { places: &|_| places, takes: &|t| takes * busy(t), spread };
            let share = run(&|_| rate, application, 60.0).share_refused(0.0..60.0);
            assert!(share < 0.05, "{rate}, {spread:?}: {share}");
            shares += share;
            runs += 1.0;
        }
    }
    assert!(shares / runs < 0.005, "{}", shares / runs);
}

/// The part that is refused, on average over these courses, and at worst.
fn refused<'a>(
    load: Load<'_>,
    application: &dyn Fn(Spread) -> (Course<'a>, Course<'a>),
    seconds: f64,
) -> (f64, f64) {
    let shares: Vec<_> = both_of(1..=4)
        .map(|spread| {
            let (places, takes) = application(spread);
            put(load, Application { places, takes, spread }, seconds).share_refused(0.0..seconds)
        })
        .collect();
    let runs = f64::from(u32::try_from(shares.len()).unwrap());
    (shares.iter().sum::<f64>() / runs, shares.into_iter().fold(0.0, f64::max))
}

#[test]
fn one_whose_answers_take_seconds_from_one_moment_on_loses_next_to_nothing() {
    let takes: Course<'_> = &|t| if t < 10.0 { 0.02 } else { 3.0 };
    let (average, worst) = refused(Load::Open(&|_| 1000.0), &|_| (&unbounded, takes), 40.0);
    assert!(average < 0.03 && worst < 0.2, "{average}, {worst}");
    // With few requests it takes its time until a mistake is seen.
    let takes: Course<'_> = &|t| if t < 10.0 { 0.02 } else { 10.0 };
    let (average, worst) = refused(Load::Open(&|_| 30.0), &|_| (&unbounded, takes), 90.0);
    assert!(average < 0.1 && worst < 0.75, "{average}, {worst}");
}

#[test]
fn one_whose_only_place_is_hardly_ever_free_loses_next_to_nothing() {
    let (average, worst) = refused(Load::Open(&|_| 47.5), &|_| (&|_| 1.0, &|_| 0.02), 60.0);
    assert!(average < 0.01 && worst < 0.03, "{average}, {worst}");
}

#[test]
fn one_that_a_collector_stops_for_up_to_two_seconds_loses_next_to_nothing() {
    for pause in [0.5, 1.0, 2.0] {
        let places: Course<'_> = &|t| if t % 10.0 > 10.0 - pause { 0.0 } else { 8.0 };
        let (average, worst) = refused(Load::Open(&|_| 200.0), &|_| (places, &|_| 0.02), 60.0);
        assert!(average < 0.001 && worst < 0.001, "{pause}: {average}, {worst}");
    }
}

#[test]
fn one_that_is_slow_at_every_other_request_and_gets_fifty_times_the_load_loses_next_to_nothing() {
    let takes: Course<'_> = &|t| if (t * 1e6).floor() % 2.0 == 0.0 { 5.0 } else { 0.02 };
    let rate: Course<'_> = &|t| if t < 20.0 { 4.0 } else { 200.0 };
    let (average, worst) = refused(Load::Open(rate), &|_| (&unbounded, takes), 60.0);
    assert!(average < 0.01 && worst < 0.05, "{average}, {worst}");
}

#[test]
fn callers_that_pause_a_second_on_a_busy_machine_lose_next_to_nothing() {
    for seed in 1..=4 {
        let busy = busy_machine(seed, 10.0);
        let takes: Course<'_> = &|t| 0.02 * busy(t);
        let (average, worst) = refused(Load::Closed(&[0.0; 256], 1.0), &|_| (&|_| 8.0, takes), 60.0);
        assert!(average < 0.005 && worst < 0.02, "{seed}: {average}, {worst}");
    }
}

#[test]
fn one_that_many_do_not_wait_for_loses_next_to_nothing() {
    for seed in 1..=4 {
        // Of those, 63 and 45 of 100 are answered in time.
        for (takes, answered) in [(0.3, 190.0), (0.5, 135.0)] {
            let spread = Spread::Exponential(seed);
            let takes: Course<'_> = &|t| if t < 10.0 { 0.02 } else { takes };
            let application = Application { places: &unbounded, takes, spread };
            let outcomes = put(Load::Impatient(&|_| 300.0, 0.3), application, 40.0);
            let in_time = outcomes.answered(10.0..40.0);
            assert!(in_time > 0.94 * answered, "{seed}: {in_time} of {answered}");
        }
    }
}

#[test]
fn clients_that_wait_for_their_answers_before_they_ask_again() {
    for spread in both_of(1..=2) {
        let busy = busy_machine(seed_of(spread), 10.0);
        for (clients, pause, places, takes) in [
            (8, 0.0, 1.0, 0.02),
            (64, 0.0, 1.0, 0.02),
            (256, 0.0, 1.0, 0.02),
            (256, 0.0, 8.0, 0.005),
            (64, 0.2, 4.0, 0.02),
        ] {
            let application = Application { places: &|_| places, takes: &|t| takes * busy(t), spread };
            let outcomes = put(Load::Closed(&vec![0.0; clients], pause), application, 30.0);
            assert_eq!(outcomes.refused(0.0..30.0), 0, "{clients}, {spread:?}");
        }
        let joining = [
            // One by one, for 5 s; and in two steps.
            (0..256_u32).map(|client| f64::from(client) / 51.0).collect::<Vec<_>>(),
            (0..256_u32)
                .map(|client| {
                    if client < 8 {
                        0.0
                    } else if client < 64 {
                        10.0
                    } else {
                        15.0
                    }
                })
                .collect(),
        ];
        for clients in joining {
            let application = Application { places: &|_| 8.0, takes: &|t| 0.02 * busy(t), spread };
            let outcomes = put(Load::Closed(&clients, 0.0), application, 30.0);
            assert_eq!(outcomes.refused(0.0..30.0), 0, "{spread:?}");
        }
    }
}
