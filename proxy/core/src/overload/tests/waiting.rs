//! Callers that wait for their answers and then ask again. There are never more inside than there are of them; but as long as they
//! become more, nothing tells them from a load that comes whatever becomes of it.

use super::simulation::{Application, Course, Load, both_of, put, run};

/// So many, one after the other within five seconds, of which each pauses for so long between.
fn joining(clients: u32) -> Vec<f64> {
    (0..clients).map(|client| f64::from(client) * 5.0 / f64::from(clients)).collect()
}

#[test]
fn a_line_that_becomes_long_quickly_is_cut_until_it_is_seen_that_its_callers_wait() {
    for (clients, pause, places, capacity, until) in [
        (1000, 1.0, 8.0, 400.0, 30.0),
        (1200, 1.0, 8.0, 400.0, 45.0),
        (1000, 0.01, 8.0, 400.0, 30.0),
        (512, 0.1, 8.0, 400.0, 30.0),
        (512, 0.01, 8.0, 400.0, 30.0),
        (256, 0.01, 1.0, 50.0, 30.0),
    ] {
        let from = joining(clients);
        for spread in both_of(1..=4) {
            let application = Application { places: &|_| places, takes: &|_| 0.02, spread };
            let outcomes = put(Load::Closed(&from, pause), application, 60.0);
            let what = format!("{clients}, {pause}, {spread:?}");
            let answered = outcomes.answered(5.0..60.0);
            assert!(answered > 0.93 * capacity, "{what}: {answered}");
            assert_eq!(outcomes.refused(0.0..1.0), 0, "{what}");
            assert_eq!(outcomes.refused(until..60.0), 0, "{what}");
        }
    }
}

#[test]
fn a_line_of_callers_that_wait_is_not_cut_where_it_is_worth_less_than_what_can_be_borne() {
    for (clients, pause, places) in [(256, 0.0, 8.0), (256, 1.0, 8.0), (25, 0.0, 1.0)] {
        let from = joining(clients);
        for spread in both_of(1..=4) {
            let application = Application { places: &|_| places, takes: &|_| 0.02, spread };
            let outcomes = put(Load::Closed(&from, pause), application, 30.0);
            assert_eq!(outcomes.refused(0.0..30.0), 0, "{clients}, {pause}, {spread:?}");
        }
    }
}

#[test]
fn a_load_that_does_not_wait_gets_a_longer_line_now_and_then_and_not_for_long() {
    for spread in both_of(1..=4) {
        for (much, longest) in [(800.0, 1.4), (1200.0, 1.4), (8000.0, 3.0)] {
            let rate: Course<'_> = &|t| if t < 5.0 { 200.0 } else { much };
            let application = Application { places: &|_| 8.0, takes: &|_| 0.02, spread };
            let outcomes = run(rate, application, 100.0);
            let what = format!("{much}, {spread:?}");
            assert!(outcomes.answered(5.0..100.0) > 0.95 * 400.0, "{what}");
            let p99 = outcomes.p99(40.0..100.0);
            assert!(p99 < longest, "{what}: {p99}");
            let longer = [30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0]
                .into_iter()
                .filter(|from| outcomes.p99(*from..from + 5.0) > 0.85);
            assert!(longer.count() <= 5, "{what}");
        }
    }
}
