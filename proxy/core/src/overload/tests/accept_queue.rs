//! Applications that have room for few connections that they did not accept yet, as servers with a thread for each connection have.
//! Whoever finds none waits for a connection, and for a second at most.

use super::simulation::{Application, Course, Load, Outcomes, SPREADS, Spread, both_of, put};

/// Python's `listen(5)`.
const ROOM: usize = 6;

/// Four places, of 50 ms each: 80 a second.
fn eighty(rate: Course<'_>, takes: Course<'_>, spread: Spread, seconds: f64) -> Outcomes {
    put(Load::Queued(rate, ROOM), Application { places: &|_| 4.0, takes, spread }, seconds)
}

fn usual(_: f64) -> f64 {
    0.05
}

#[test]
fn three_times_too_much_is_refused_at_once_and_is_over_with_the_load() {
    for spread in both_of(1..=8) {
        let rate: Course<'_> = &|t| if (5.0..15.0).contains(&t) { 240.0 } else { 40.0 };
        let outcomes = eighty(rate, &usual, spread, 25.0);
        let what = format!("{spread:?}");
        assert_eq!(outcomes.refused(0.0..5.0), 0, "{what}");
        let answered = outcomes.answered(5.0..15.0);
        assert!(answered > 0.9 * 80.0, "{what}: {answered}");
        let first = outcomes.first_refused().unwrap();
        assert!(first < 8.5, "{what}: {first}");
        assert_eq!(outcomes.not_taken(9.0..25.0), 0, "{what}");
        assert!(outcomes.p99(9.0..15.0) < 0.9, "{what}: {}", outcomes.p99(9.0..15.0));
        assert!(outcomes.refused(15.0..16.0) < 10, "{what}: {}", outcomes.refused(15.0..16.0));
        assert_eq!(outcomes.refused(16.0..25.0), 0, "{what}");
    }
}

#[test]
fn one_that_was_never_seen_calm_is_protected_likewise() {
    for spread in both_of(1..=8) {
        let outcomes = eighty(&|_| 240.0, &usual, spread, 15.0);
        let answered = outcomes.answered(1.0..15.0);
        assert!(answered > 0.9 * 80.0, "{spread:?}: {answered}");
        assert!(outcomes.first_refused().unwrap() < 4.0, "{spread:?}: {:?}", outcomes.first_refused());
        assert!(outcomes.not_taken(6.0..15.0) < 10, "{spread:?}: {}", outcomes.not_taken(6.0..15.0));
    }
}

#[test]
fn a_little_too_much_is_answered_as_far_as_it_can_be() {
    for spread in SPREADS {
        for much in [90.0, 120.0, 160.0, 800.0] {
            let rate: Course<'_> = &|t| if t < 5.0 { 40.0 } else { much };
            let outcomes = eighty(rate, &usual, spread, 30.0);
            let what = format!("{much}, {spread:?}");
            let answered = outcomes.answered(6.0..30.0);
            assert!(answered > 0.9 * 80.0, "{what}: {answered}");
            // They wait for a second at most, and most of those that are too many do not.
            let p99 = outcomes.p99(12.0..30.0);
            assert!(p99 < 1.4, "{what}: {p99}");
            let late = outcomes.not_taken(12.0..30.0);
            assert!(much < 100.0 || late < 250, "{what}: {late}");
        }
    }
}

#[test]
fn slow_and_quick_applications_are_protected_likewise() {
    for spread in SPREADS {
        for (places, takes) in [(1.0, 0.0125), (32.0, 0.4), (80.0, 1.0)] {
            let rate: Course<'_> = &|t| if t < 10.0 { 40.0 } else { 240.0 };
            let application = Application { places: &|_| places, takes: &|_| takes, spread };
            let outcomes = put(Load::Queued(rate, ROOM), application, 30.0);
            let what = format!("{takes}, {spread:?}");
            let answered = outcomes.answered(11.0..30.0);
            assert!(answered > 0.9 * 80.0, "{what}: {answered}");
            assert!(outcomes.not_taken(16.0..30.0) < 20, "{what}: {}", outcomes.not_taken(16.0..30.0));
        }
    }
}

#[test]
fn one_that_takes_seconds_is_protected_once_enough_were_not_taken() {
    for spread in SPREADS {
        // 32 a second.
        let rate: Course<'_> = &|t| if t < 30.0 { 16.0 } else { 96.0 };
        let application = Application { places: &|_| 96.0, takes: &|_| 3.0, spread };
        let outcomes = put(Load::Queued(rate, ROOM), application, 90.0);
        let answered = outcomes.answered(35.0..90.0);
        assert!(answered > 0.9 * 32.0, "{spread:?}: {answered}");
        assert_eq!(outcomes.refused(0.0..30.0), 0, "{spread:?}");
        assert!(outcomes.not_taken(60.0..90.0) < 30, "{spread:?}: {}", outcomes.not_taken(60.0..90.0));
    }
}

#[test]
fn one_that_hangs_is_not_called_overloaded() {
    for spread in SPREADS {
        for rate in [20.0, 60.0, 240.0] {
            let places: Course<'_> = &|t| if (10.0..20.0).contains(&t) { 0.0 } else { 4.0 };
            let rate: Course<'_> = &|t| if t < 10.0 { 40.0 } else { rate };
            let outcomes = put(Load::Queued(rate, ROOM), Application { places, takes: &usual, spread }, 20.0);
            assert_eq!(outcomes.refused(0.0..20.0), 0, "{spread:?}");
        }
    }
}

#[test]
fn one_that_hangs_while_it_has_too_much_is_not_called_overloaded_any_longer() {
    for spread in both_of(1..=8) {
        let places: Course<'_> = &|t| if (10.0..20.0).contains(&t) { 0.0 } else { 4.0 };
        let rate: Course<'_> = &|t| if t < 3.0 { 40.0 } else { 240.0 };
        let outcomes = put(Load::Queued(rate, ROOM), Application { places, takes: &usual, spread }, 20.0);
        assert!(outcomes.refused(9.0..10.0) > 100, "{spread:?}");
        assert_eq!(outcomes.refused(11.5..20.0), 0, "{spread:?}");
    }
}

#[test]
fn one_that_is_started_again_and_slow_at_first_is_not_limited() {
    let cold = |t: f64, from: f64| if (from..from + 2.0).contains(&t) { 1.0 } else { 0.05 };
    for spread in both_of(1..=8) {
        for from in [0.0, 10.0] {
            let share = eighty(&|_| 60.0, &|t| cold(t, from), spread, 40.0).share_refused(0.0..40.0);
            // By chance some answers of a cold one take several seconds more.
            let most = if matches!(spread, Spread::Exact(_)) { 0.0 } else { 0.035 };
            assert!(share <= most, "{from}, {spread:?}: {share}");
        }
    }
}

#[test]
fn one_that_pauses_or_gets_crowds_is_not_limited() {
    for spread in both_of(1..=4) {
        for pause in [0.5, 1.0, 1.5, 2.0, 3.0] {
            let places: Course<'_> = &|t| if t % 10.0 > 10.0 - pause { 0.0 } else { 4.0 };
            let application = Application { places, takes: &usual, spread };
            let outcomes = put(Load::Queued(&|_| 60.0, ROOM), application, 40.0);
            assert_eq!(outcomes.refused(0.0..40.0), 0, "{pause}, {spread:?}");
        }
        let crowds: Course<'_> = &|t| if t % 4.0 < 0.05 { 4000.0 } else { 10.0 };
        let outcomes = eighty(crowds, &usual, spread, 40.0);
        assert_eq!(outcomes.refused(0.0..40.0), 0, "{spread:?}");
    }
}

#[test]
fn one_of_a_few_requests_a_second_is_protected_by_and_by() {
    for spread in both_of(1..=8) {
        // Of three times as many in the last minute as are answered in it.
        for (places, takes, usually, most) in
            [(2.0, 0.5, 2.0, 160), (1.0, 0.25, 2.0, 160), (1.0, 0.5, 1.0, 90)]
        {
            let capacity = places / takes;
            let rate: Course<'_> = &|t| if t < 60.0 { usually } else { 3.0 * capacity };
            let application = Application { places: &|_| places, takes: &|_| takes, spread };
            let outcomes = put(Load::Queued(rate, ROOM), application, 180.0);
            let what = format!("{places} x {takes}, {spread:?}");
            let answered = outcomes.answered(65.0..180.0);
            let late = outcomes.not_taken(120.0..180.0);
            assert!(answered > 0.9 * capacity, "{what}: {answered}");
            assert!(late < most, "{what}: {late}");
        }
    }
}
