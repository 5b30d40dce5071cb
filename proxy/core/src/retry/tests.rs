//! What is retried, when, and what never is.

use proptest::prelude::*;

use super::*;

fn asked() -> Retry {
    Retry { statuses: [502, 503, 504].into(), reset: true, ..Retry::default() }
}

fn situation() -> Situation {
    Situation {
        replayable: true,
        remaining: None,
        untried: true,
        relief: true,
        pushback: None,
        random: u64::MAX,
    }
}

fn status(status: u16) -> Outcome {
    Outcome::Status(StatusCode::from_u16(status).unwrap())
}

fn retried(policy: &Retry, idempotent: bool, outcome: Outcome, situation: Situation) -> Option<Duration> {
    match Retries::new(policy, idempotent).next(outcome, &situation) {
        Verdict::Retry { after } => Some(after),
        Verdict::Deliver => None,
    }
}

#[test]
fn without_a_policy_only_what_nobody_processed_is_sent_again_whatever_its_method() {
    let policy = Retry::default();
    for idempotent in [true, false] {
        assert!(retried(&policy, idempotent, Outcome::Unprocessed, situation()).is_some());
        for outcome in [Outcome::Reset, Outcome::PerTryTimeout, status(503), status(200)] {
            assert_eq!(retried(&policy, idempotent, outcome, situation()), None, "{outcome:?}");
        }
    }
}

#[test]
fn a_policy_adds_statuses_and_resets_for_idempotent_methods() {
    let policy = asked();
    for outcome in [Outcome::Reset, Outcome::PerTryTimeout, status(502), status(503), status(504)] {
        assert!(retried(&policy, true, outcome, situation()).is_some(), "{outcome:?}");
        assert_eq!(retried(&policy, false, outcome, situation()), None, "{outcome:?}");
    }
    for outcome in [status(500), status(429), status(404), status(200)] {
        assert_eq!(retried(&policy, true, outcome, situation()), None, "{outcome:?}");
    }
}

#[test]
fn our_limits_are_never_retried_nor_is_a_body_that_is_gone() {
    for outcome in [Outcome::Limited, Outcome::Final] {
        assert_eq!(retried(&asked(), true, outcome, situation()), None, "{outcome:?}");
    }
    let gone = Situation { replayable: false, ..situation() };
    assert_eq!(retried(&asked(), true, Outcome::Unprocessed, gone), None);
}

#[test]
fn the_first_retry_of_what_nobody_processed_goes_at_once_to_another_endpoint() {
    let policy = Retry { attempts: 3, ..Retry::default() };
    let mut retries = Retries::new(&policy, false);
    assert_eq!(retries.next(Outcome::Unprocessed, &situation()), Verdict::Retry { after: Duration::ZERO });
    let second = Verdict::Retry { after: Duration::from_millis(50) };
    assert_eq!(retries.next(Outcome::Unprocessed, &situation()), second);
    let alone = Situation { untried: false, ..situation() };
    let base = Some(Duration::from_millis(25));
    assert_eq!(retried(&policy, false, Outcome::Unprocessed, alone), base);
    assert_eq!(retried(&asked(), true, Outcome::Reset, situation()), base);
}

#[test]
fn what_was_refused_for_want_of_room_goes_where_there_may_be_some_or_nowhere() {
    let policy = Retry { attempts: 3, ..Retry::default() };
    let at_once = Some(Duration::ZERO);
    assert_eq!(retried(&policy, false, Outcome::Refused, situation()), at_once);
    let full = Situation { relief: false, ..situation() };
    assert_eq!(retried(&policy, false, Outcome::Refused, full), None);
}

#[test]
fn pauses_double_up_to_the_longest() {
    let policy = Retry { attempts: 10, ..asked() };
    let mut retries = Retries::new(&policy, true);
    let mut pauses = Vec::new();
    while let Verdict::Retry { after } = retries.next(Outcome::Reset, &situation()) {
        pauses.push(after.as_millis());
    }
    assert_eq!(pauses, [25, 50, 100, 200, 250, 250, 250, 250, 250, 250]);
    assert_eq!(retries.made(), 10);
}

#[test]
fn nothing_is_begun_that_could_not_begin_before_the_deadline() {
    let remaining = |millis| Situation { remaining: Some(Duration::from_millis(millis)), ..situation() };
    assert_eq!(retried(&asked(), true, Outcome::Reset, remaining(25)), None);
    assert!(retried(&asked(), true, Outcome::Reset, remaining(26)).is_some());
    assert_eq!(retried(&asked(), true, Outcome::Unprocessed, remaining(0)), None);
    assert!(retried(&asked(), true, Outcome::Unprocessed, remaining(1)).is_some());
}

#[test]
fn a_server_that_asks_for_time_gets_it_or_its_answer_is_delivered() {
    let pushback = |pushback, remaining| Situation { pushback: Some(pushback), remaining, ..situation() };
    let one = Duration::from_secs(1);
    let after =
        |time, remaining| retried(&asked(), true, status(503), pushback(Pushback::After(time), remaining));
    assert_eq!(after(one, None), Some(one));
    assert_eq!(after(Duration::ZERO, None), Some(Duration::ZERO));
    assert_eq!(after(one, Some(one)), None);
    assert_eq!(after(MAX_PUSHBACK, None), Some(MAX_PUSHBACK));
    assert_eq!(after(MAX_PUSHBACK + Duration::from_millis(1), None), None);
    for outcome in [status(503), Outcome::Unprocessed] {
        assert_eq!(retried(&asked(), true, outcome, pushback(Pushback::Never, None)), None);
    }
}

#[test]
fn every_reason_that_may_be_retried_elsewhere_with_any_method_is_unprocessed() {
    for reason in Reason::ALL {
        if Outcome::of(*reason) == Outcome::Unprocessed {
            assert!(reason.is_unprocessed(), "{reason}");
        }
    }
    assert_eq!(Outcome::of(Reason::ConnectTimeout), Outcome::Unprocessed);
    assert_eq!(Outcome::of(Reason::UpstreamReset), Outcome::Reset);
    assert_eq!(Outcome::of(Reason::RequestLimit), Outcome::Limited);
    assert_eq!(Outcome::of(Reason::DeadlineExceeded), Outcome::Final);
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Unprocessed),
        Just(Outcome::Reset),
        Just(Outcome::PerTryTimeout),
        Just(Outcome::Refused),
        (400..600_u16).prop_map(status),
        prop::sample::select(Reason::ALL).prop_map(Outcome::of),
    ]
}

prop_compose! {
    fn any_situation()(
        replayable: bool,
        remaining in prop::option::of(0..1000_u64),
        untried: bool,
        pushback in prop::option::of(prop_oneof![
            Just(Pushback::Never),
            (0..8000_u64).prop_map(|millis| Pushback::After(Duration::from_millis(millis))),
        ]),
        random: u64,
    ) -> Situation {
        Situation { replayable, remaining: remaining.map(Duration::from_millis), untried, relief: untried, pushback, random }
    }
}

proptest! {
    #[test]
    fn no_history_retries_more_often_than_allowed_or_what_may_have_been_processed(
        attempts in 0..=10_u32,
        idempotent: bool,
        reset: bool,
        statuses in prop::collection::btree_set(500..600_u16, 0..5),
        ends in prop::collection::vec((outcome(), any_situation()), 0..30),
    ) {
        let policy = Retry { attempts, reset, statuses, ..Retry::default() };
        let mut retries = Retries::new(&policy, idempotent);
        let mut at_once = 0;
        for (number, (outcome, situation)) in ends.into_iter().enumerate() {
            let Verdict::Retry { after } = retries.next(outcome, &situation) else { break };
            prop_assert!(number < attempts as usize && situation.replayable);
            prop_assert!(idempotent || matches!(outcome, Outcome::Unprocessed | Outcome::Refused));
            prop_assert!(outcome != Outcome::Refused || situation.relief);
            prop_assert!(situation.remaining.is_none_or(|remaining| after < remaining));
            match situation.pushback {
                Some(asked) => prop_assert_eq!(asked, Pushback::After(after)),
                None => prop_assert!(after <= policy.backoff_max),
            }
            at_once += u32::from(after.is_zero() && situation.pushback.is_none() && situation.random > 1 << 60);
        }
        prop_assert!(at_once <= 1);
    }

    #[test]
    fn jitter_is_full(random: u64) {
        let after = retried(&asked(), true, Outcome::Reset, Situation { random, ..situation() }).unwrap();
        let expected = random as f64 / u64::MAX as f64 * 0.025;
        prop_assert!((after.as_secs_f64() - expected).abs() < 1e-6);
    }
}
