//! Applications that have more to do than they can: most of what they can do is done, in bounded time, and it is over when the
//! load is.

use super::simulation::{Application, Course, Load, SPREADS, both_of, put, run, unbounded};

fn eight(_: f64) -> f64 {
    8.0
}

fn load(t: f64) -> f64 {
    if (5.0..13.0).contains(&t) { 1200.0 } else { 200.0 }
}

#[test]
fn three_times_too_much_is_served_to_capacity_in_bounded_time_and_is_over_with_the_load() {
    for spread in both_of(1..=8) {
        // Eight places of 20 ms: 400 a second.
        let outcomes = run(&load, Application { places: &eight, takes: &|_| 0.02, spread }, 18.0);
        assert_eq!(outcomes.refused(0.0..5.0), 0);
        assert!(outcomes.answered(5.0..13.0) > 0.95 * 400.0, "{}", outcomes.answered(5.0..13.0));
        // Until it is sure, and then no more than half a second in line, and chance.
        assert!(outcomes.p99(5.0..7.0) < 2.5, "{spread:?}: {}", outcomes.p99(5.0..7.0));
        assert!(outcomes.p99(7.0..13.0) < 1.0, "{spread:?}: {}", outcomes.p99(7.0..13.0));
        assert!(outcomes.refused(13.0..13.5) < 10, "{spread:?}: {}", outcomes.refused(13.0..13.5));
        assert_eq!(outcomes.refused(13.5..18.0), 0, "{spread:?}");
    }
}

#[test]
fn an_application_that_was_never_seen_calm_is_protected_likewise() {
    for spread in both_of(1..=8) {
        let rate: Course<'_> = &|t| if t < 8.0 { 1200.0 } else { 200.0 };
        let outcomes = run(rate, Application { places: &eight, takes: &|_| 0.02, spread }, 12.0);
        assert!(outcomes.answered(0.0..8.0) > 0.95 * 400.0);
        assert!(outcomes.p99(0.0..3.0) < 2.5, "{spread:?}: {}", outcomes.p99(0.0..3.0));
        assert!(outcomes.p99(3.0..8.0) < 1.0, "{spread:?}: {}", outcomes.p99(3.0..8.0));
        assert_eq!(outcomes.refused(8.5..12.0), 0, "{spread:?}");
    }
}

#[test]
fn what_it_does_for_callers_that_have_gone_away_does_not_take_the_place_of_what_is_waited_for() {
    for spread in both_of(1..=4) {
        for (much, patience) in [(1200.0, 0.3), (600.0, 0.2), (1200.0, 2.0)] {
            let rate: Course<'_> = &|t| if (5.0..25.0).contains(&t) { much } else { 200.0 };
            let application = Application { places: &eight, takes: &|_| 0.02, spread };
            let outcomes = put(Load::Impatient(rate, patience), application, 30.0);
            let answered = outcomes.answered(5.0..25.0);
            assert!(answered > 0.7 * 400.0, "{patience}, {spread:?}: {answered}");
            assert!(outcomes.answered(12.0..25.0) > 0.9 * 400.0, "{patience}, {spread:?}");
            assert_eq!(outcomes.refused(26.0..30.0), 0, "{patience}, {spread:?}");
        }
    }
}

#[test]
fn the_first_refusals_are_only_those_that_it_does_not_answer_anyhow() {
    for spread in SPREADS {
        let outcomes = run(&load, Application { places: &eight, takes: &|_| 0.02, spread }, 13.0);
        let first = outcomes.first_refused().unwrap();
        let share = outcomes.share_refused(first..first + 0.15);
        assert!(share < 0.85, "{spread:?}: {share}");
    }
}

#[test]
fn one_that_is_a_little_overloaded_is_not_made_to_do_less() {
    for spread in SPREADS {
        let rate: Course<'_> = &|t| if t < 5.0 { 200.0 } else { 600.0 };
        let outcomes = run(rate, Application { places: &eight, takes: &|_| 0.02, spread }, 15.0);
        assert!(outcomes.answered(5.0..15.0) > 0.95 * 400.0, "{}", outcomes.answered(5.0..15.0));
        assert!(outcomes.p99(5.0..9.0) < 1.5, "{spread:?}: {}", outcomes.p99(5.0..9.0));
        assert!(outcomes.p99(9.0..15.0) < 1.0, "{spread:?}: {}", outcomes.p99(9.0..15.0));
        // The line grows by twenty a second, and is not told from chance before it is worth seconds.
        let outcomes = run(&|_| 420.0, Application { places: &eight, takes: &|_| 0.02, spread }, 60.0);
        assert!(outcomes.answered(0.0..60.0) > 0.95 * 400.0, "{}", outcomes.answered(0.0..60.0));
        assert!(outcomes.p99(0.0..60.0) < 3.5, "{spread:?}: {}", outcomes.p99(0.0..60.0));
    }
}

#[test]
fn one_that_loses_most_of_its_places_is_held_to_what_is_left() {
    for spread in SPREADS {
        let places: Course<'_> = &|t| if (10.0..25.0).contains(&t) { 2.0 } else { 8.0 };
        let outcomes = run(&|_| 300.0, Application { places, takes: &|_| 0.02, spread }, 40.0);
        assert_eq!(outcomes.refused(0.0..10.0), 0);
        assert!(outcomes.answered(10.0..25.0) > 0.9 * 100.0, "{}", outcomes.answered(10.0..25.0));
        assert!(outcomes.p99(19.0..25.0) < 1.3, "{spread:?}: {}", outcomes.p99(19.0..25.0));
        assert!(outcomes.p99(22.0..25.0) < 0.8, "{spread:?}: {}", outcomes.p99(22.0..25.0));
        assert_eq!(outcomes.refused(27.0..40.0), 0, "{spread:?}");
    }
}

#[test]
fn one_that_becomes_slower_than_its_load_is_held_to_what_it_still_can() {
    for spread in SPREADS {
        let takes: Course<'_> = &|t| if (10.0..30.0).contains(&t) { 0.06 } else { 0.02 };
        let outcomes = run(&|_| 300.0, Application { places: &eight, takes, spread }, 40.0);
        assert!(outcomes.answered(10.0..30.0) > 0.9 * 133.0, "{}", outcomes.answered(10.0..30.0));
        assert!(outcomes.p99(18.0..30.0) < 1.0, "{spread:?}: {}", outcomes.p99(18.0..30.0));
        assert!(outcomes.share_refused(30.0..31.0) < 0.1, "{}", outcomes.share_refused(30.0..31.0));
        assert_eq!(outcomes.refused(31.0..40.0), 0, "{spread:?}");
    }
}

#[test]
fn one_whose_dependency_has_too_much_loses_little() {
    for spread in both_of(1..=8) {
        let takes: Course<'_> = &|t| (0.02 + 0.3 * (t - 10.0).max(0.0)).min(3.0);
        let application = Application { places: &unbounded, takes, spread };
        let outcomes = run(&|_| 300.0, application, 60.0);
        assert!(
            outcomes.share_refused(0.0..60.0) < 0.15,
            "{spread:?}: {}",
            outcomes.share_refused(0.0..60.0)
        );
        assert_eq!(outcomes.refused(40.0..60.0), 0, "{spread:?}");
    }
}

#[test]
fn small_and_quick_and_slow_applications_are_protected_likewise() {
    for spread in SPREADS {
        // 50 a second, 3 000 a second, and 8 a second.
        for (places, takes, [calm, much, capacity], bound, end) in [
            (1.0, 0.02, [30.0, 150.0, 50.0], 2.0, 30.0),
            (3.0, 0.001, [2000.0, 9000.0, 3000.0], 0.7, 20.0),
            (8.0, 1.0, [5.0, 24.0, 8.0], 15.0, 120.0),
        ] {
            let rate: Course<'_> = &|t| if t < 10.0 { calm } else { much };
            let outcomes = run(rate, Application { places: &|_| places, takes: &|_| takes, spread }, end);
            let answered = outcomes.answered(10.0..end);
            assert!(answered > 0.9 * capacity, "{spread:?}, {takes}: {answered}");
            let p99 = outcomes.p99(0.7 * end..end);
            assert!(p99 < bound, "{spread:?}, {takes}: {p99}");
        }
    }
}

#[test]
fn three_times_a_hundred_a_second_is_served_likewise() {
    for spread in SPREADS {
        let rate: Course<'_> = &|t| if t < 5.0 { 50.0 } else { 300.0 };
        let outcomes = run(rate, Application { places: &|_| 2.0, takes: &|_| 0.02, spread }, 15.0);
        assert!(outcomes.answered(5.0..15.0) > 0.9 * 100.0, "{spread:?}: {}", outcomes.answered(5.0..15.0));
        assert!(outcomes.p99(5.0..10.0) < 5.0, "{spread:?}: {}", outcomes.p99(5.0..10.0));
        assert!(outcomes.p99(10.0..15.0) < 1.5, "{spread:?}: {}", outcomes.p99(10.0..15.0));
    }
}
