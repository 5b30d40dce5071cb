//! Applications that have no more to do than they can, however slow they are: nobody is refused.

use super::simulation::{Application, Course, SPREADS, run, unbounded};

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
}

#[test]
fn one_that_pauses_now_and_then() {
    let left = |t: f64, every: f64, pause: f64| (pause - t % every).max(0.0);
    both(&|_| 1000.0, &unbounded, &|t| 0.005 + left(t, 2.0, 0.3), 30.0);
    both(&|_| 1000.0, &unbounded, &|t| 0.005 + left(t, 5.0, 1.0), 30.0);
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
