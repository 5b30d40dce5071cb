//! Applications that have more to do than they can: most of what they can do is done, in bounded time, and it is over when the
//! load is.

use super::simulation::{Application, Course, SPREADS, run, unbounded};

fn eight(_: f64) -> f64 {
    8.0
}

fn load(t: f64) -> f64 {
    if (5.0..13.0).contains(&t) { 1200.0 } else { 200.0 }
}

#[test]
fn three_times_too_much_is_served_to_capacity_in_bounded_time_and_is_over_with_the_load() {
    for spread in SPREADS {
        // Eight places of 20 ms: 400 a second.
        let outcomes = run(&load, Application { places: &eight, takes: &|_| 0.02, spread }, 18.0);
        assert_eq!(outcomes.refused(0.0..5.0), 0);
        assert!(outcomes.served(5.0..13.0) > 0.9 * 400.0, "{}", outcomes.served(5.0..13.0));
        assert!(outcomes.p99(5.0..6.0) < 1.0, "{}", outcomes.p99(5.0..6.0));
        assert!(outcomes.p99(6.0..13.0) < 0.2, "{}", outcomes.p99(6.0..13.0));
        assert!(outcomes.refused(13.0..13.5) < 5);
        assert_eq!(outcomes.refused(13.5..18.0), 0);
    }
}

#[test]
fn an_application_that_was_never_seen_calm_is_protected_a_little_later() {
    for spread in SPREADS {
        let rate: Course<'_> = &|t| if t < 8.0 { 1200.0 } else { 200.0 };
        let outcomes = run(rate, Application { places: &eight, takes: &|_| 0.02, spread }, 12.0);
        assert!(outcomes.served(0.0..8.0) > 0.9 * 400.0);
        assert!(outcomes.p99(5.0..8.0) < 0.2, "{}", outcomes.p99(5.0..8.0));
        assert!(outcomes.share_refused(9.5..12.0) < 0.05, "{}", outcomes.share_refused(9.5..12.0));
    }
}

#[test]
fn one_that_is_a_little_overloaded_is_not_made_to_do_less() {
    for spread in SPREADS {
        let outcomes = run(&|_| 600.0, Application { places: &eight, takes: &|_| 0.02, spread }, 15.0);
        assert!(outcomes.served(2.0..15.0) > 0.9 * 400.0, "{}", outcomes.served(2.0..15.0));
        assert!(outcomes.p99(5.0..15.0) < 1.0, "{}", outcomes.p99(5.0..15.0));
        let outcomes = run(&|_| 420.0, Application { places: &eight, takes: &|_| 0.02, spread }, 60.0);
        assert!(outcomes.served(0.0..60.0) > 0.95 * 400.0, "{}", outcomes.served(0.0..60.0));
        assert!(outcomes.p99(0.0..60.0) < 3.0, "{}", outcomes.p99(0.0..60.0));
    }
}

#[test]
fn one_that_loses_most_of_its_places_is_held_to_what_is_left() {
    for spread in SPREADS {
        let places: Course<'_> = &|t| if (10.0..25.0).contains(&t) { 2.0 } else { 8.0 };
        let outcomes = run(&|_| 300.0, Application { places, takes: &|_| 0.02, spread }, 40.0);
        assert_eq!(outcomes.refused(0.0..10.0), 0);
        assert!(outcomes.served(13.0..25.0) > 0.6 * 100.0, "{}", outcomes.served(13.0..25.0));
        assert!(outcomes.p99(19.0..25.0) < 0.8, "{}", outcomes.p99(19.0..25.0));
        assert!(outcomes.share_refused(27.0..30.0) < 0.02, "{}", outcomes.share_refused(27.0..30.0));
        assert_eq!(outcomes.refused(30.0..40.0), 0);
    }
}

#[test]
fn one_that_becomes_slower_than_its_load_is_held_to_what_it_still_can() {
    for spread in SPREADS {
        let takes: Course<'_> = &|t| if (10.0..30.0).contains(&t) { 0.06 } else { 0.02 };
        let outcomes = run(&|_| 300.0, Application { places: &eight, takes, spread }, 40.0);
        assert!(outcomes.served(13.0..30.0) > 0.7 * 133.0, "{}", outcomes.served(13.0..30.0));
        assert!(outcomes.p99(18.0..30.0) < 0.7, "{}", outcomes.p99(18.0..30.0));
        assert!(outcomes.share_refused(30.0..33.0) < 0.1, "{}", outcomes.share_refused(30.0..33.0));
        assert!(outcomes.share_refused(33.0..40.0) < 0.02, "{}", outcomes.share_refused(33.0..40.0));
    }
}

#[test]
fn one_that_only_becomes_slower_and_slower_loses_little_to_the_mistake() {
    for spread in SPREADS {
        let takes: Course<'_> = &|t| (0.02 + 0.05 * (t - 10.0).max(0.0)).min(0.5);
        let application = Application { places: &unbounded, takes, spread };
        let outcomes = run(&|_| 1000.0, application, 40.0);
        assert!(outcomes.share_refused(0.0..40.0) < 0.08, "{}", outcomes.share_refused(0.0..40.0));
        assert_eq!(outcomes.refused(25.0..40.0), 0);
    }
}

#[test]
fn small_and_quick_and_slow_applications_are_protected_likewise() {
    for spread in SPREADS {
        // 50 a second, 3 000 a second, and 8 a second.
        for (places, takes, [calm, much, capacity], bound, end) in [
            (1.0, 0.02, [30.0, 150.0, 50.0], 0.5, 30.0),
            (3.0, 0.001, [2000.0, 9000.0, 3000.0], 0.06, 20.0),
            (8.0, 1.0, [5.0, 24.0, 8.0], 15.0, 120.0),
        ] {
            let rate: Course<'_> = &|t| if t < 10.0 { calm } else { much };
            let outcomes = run(rate, Application { places: &|_| places, takes: &|_| takes, spread }, end);
            let late = 0.7 * end..end;
            let served = outcomes.served(late.clone());
            assert!(served > 0.65 * capacity, "{spread:?}, {takes}: {served}");
            let p99 = outcomes.p99(late);
            assert!(p99 < bound, "{spread:?}, {takes}: {p99}");
        }
    }
}
