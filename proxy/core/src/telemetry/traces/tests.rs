//! Requests and calls of traces in every order, against plain counting.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const ONE: TraceId = [1; 16];
const TWO: TraceId = [2; 16];
const MS: Duration = Duration::from_millis(1);

fn clock() -> impl Fn(u32) -> Instant {
    let start = Instant::now();
    move |millis| start + MS * millis
}

fn parsed(text: &str) -> Option<TraceId> {
    trace_id(&HeaderValue::from_str(text).unwrap())
}

#[test]
fn a_traceparent_names_its_trace() {
    let id = [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
    for good in [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    ] {
        assert_eq!(parsed(good), Some(id), "{good}");
    }
    for bad in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert_eq!(parsed(bad), None, "{bad}");
    }
}

#[test]
fn calls_that_overlap_are_waited_for_once() {
    let (mut traces, at) = (Traces::default(), clock());
    let request = traces.enter(ONE).unwrap();
    let first = traces.begin(ONE, at(10)).unwrap();
    let second = traces.begin(ONE, at(20)).unwrap();
    traces.end(first, at(30));
    traces.end(second, at(40));
    let third = traces.begin(ONE, at(60)).unwrap();
    traces.end(third, at(65));
    assert_eq!(traces.waiting(request, at(0), at(100)), Some(MS * 35));
    traces.leave(request);
    assert!(traces.is_empty());
}

#[test]
fn a_request_that_makes_no_call_waits_for_none() {
    let (mut traces, at) = (Traces::default(), clock());
    assert!(traces.begin(TWO, at(0)).is_none(), "before any request, it is none's");
    let request = traces.enter(ONE).unwrap();
    let other = traces.enter(TWO).unwrap();
    assert!(traces.begin(TWO, at(1)).is_some(), "another one's");
    assert_eq!(traces.waiting(request, at(0), at(100)), Some(Duration::ZERO));
    assert_eq!(traces.waiting(other, at(0), at(100)), Some(MS * 99));
}

#[test]
fn a_call_of_no_request_may_be_anyones_that_is_there() {
    let (mut traces, at) = (Traces::default(), clock());
    let there = traces.enter(ONE).unwrap();
    // An application that hands no trace on.
    assert!(traces.begin([3; 16], at(1)).is_none());
    assert_eq!(traces.waiting(there, at(0), at(100)), None);
    let later = traces.enter(TWO).unwrap();
    assert_eq!(traces.waiting(later, at(2), at(100)), Some(Duration::ZERO));
}

#[test]
fn a_call_still_under_way_counts_up_to_the_answer() {
    let (mut traces, at) = (Traces::default(), clock());
    let request = traces.enter(ONE).unwrap();
    let call = traces.begin(ONE, at(10)).unwrap();
    assert_eq!(traces.waiting(request, at(0), at(25)), Some(MS * 15));
    traces.end(call, at(90));
    assert_eq!(traces.waiting(request, at(0), at(25)), Some(MS * 15));
}

#[test]
fn what_was_waited_for_before_the_upload_was_over_is_not_the_applications_time() {
    let (mut traces, at) = (Traces::default(), clock());
    let request = traces.enter(ONE).unwrap();
    for from in [0, 20, 40] {
        let call = traces.begin(ONE, at(from)).unwrap();
        traces.end(call, at(from + 10));
    }
    // The upload ends in the midst of the second call.
    assert_eq!(traces.waiting(request, at(25), at(100)), Some(MS * 15));
}

#[test]
fn a_second_request_of_the_trace_makes_both_unknown_until_none_is_left() {
    let (mut traces, at) = (Traces::default(), clock());
    let first = traces.enter(ONE).unwrap();
    assert_eq!(traces.waiting(first, at(0), at(1)), Some(Duration::ZERO));
    let second = traces.enter(ONE).unwrap();
    traces.leave(first);
    assert_eq!(traces.waiting(second, at(0), at(100)), None);
    let third = traces.enter(ONE).unwrap();
    traces.leave(second);
    assert_eq!(traces.waiting(third, at(0), at(100)), None);
    traces.leave(third);
    let next = traces.enter(ONE).unwrap();
    assert_eq!(traces.waiting(next, at(0), at(100)), Some(Duration::ZERO));
}

#[test]
fn a_call_that_outlives_its_request_is_not_the_next_ones() {
    let (mut traces, at) = (Traces::default(), clock());
    let first = traces.enter(ONE).unwrap();
    let call = traces.begin(ONE, at(0)).unwrap();
    traces.leave(first);
    let second = traces.enter(ONE).unwrap();
    let own = traces.begin(ONE, at(20)).unwrap();
    traces.end(call, at(25));
    traces.end(own, at(30));
    assert_eq!(traces.waiting(second, at(10), at(100)), Some(MS * 10));
    assert_eq!(traces.waiting(first, at(0), at(100)), None, "it left");
}

#[test]
fn a_full_table_admits_no_further_trace_and_counts_it() {
    let mut traces = Traces::default();
    let id = |number: usize| -> TraceId { (number as u128 + 1).to_be_bytes() };
    let stays: Vec<_> = (0..MAX_TRACES).map(|number| traces.enter(id(number)).unwrap()).collect();
    assert!(traces.enter(id(MAX_TRACES)).is_none());
    assert!(traces.enter(id(0)).is_some(), "a known trace has its place");
    assert_eq!(traces.refused(), 1);
    traces.leave(stays[1]);
    assert!(traces.enter(id(MAX_TRACES)).is_some());
}

#[test]
fn a_clock_that_goes_back_does_no_harm() {
    let (mut traces, at) = (Traces::default(), clock());
    let request = traces.enter(ONE).unwrap();
    let call = traces.begin(ONE, at(50)).unwrap();
    traces.end(call, at(40));
    assert_eq!(traces.waiting(request, at(0), at(100)), Some(Duration::ZERO));
    assert_eq!(traces.waiting(request, at(100), at(0)), Some(Duration::ZERO));
}

/// What may happen in one millisecond. Guards are numbered as they are made.
#[derive(Debug, Clone, Copy)]
enum Step {
    Enter(bool),
    Leave(usize),
    Begin(bool),
    End(usize),
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<bool>().prop_map(Step::Enter),
        (0..8_usize).prop_map(Step::Leave),
        any::<bool>().prop_map(Step::Begin),
        (0..12_usize).prop_map(Step::End),
        Just(Step::Pass),
    ];
    // Few calls are anybody's while nobody is there.
    let first = [Step::Enter(true), Step::Enter(false)];
    proptest::collection::vec(step, 0..80).prop_map(move |rest| first.into_iter().chain(rest).collect())
}

/// A request as the model sees it: when it entered, its stay, whether its calls cannot be told, and each millisecond in
/// which a call of its stay was under way.
struct Request {
    trace: TraceId,
    stay: Stay,
    entered: u32,
    unknown: bool,
    waits: BTreeSet<u32>,
}

proptest! {
    #[test]
    fn waiting_is_the_union_of_the_calls_whatever_happens_in_which_order(steps in steps()) {
        let (mut traces, at) = (Traces::default(), clock());
        let trace = |first: bool| if first { ONE } else { TWO };
        let mut inside: Vec<Option<Request>> = Vec::new();
        let mut calls: Vec<Option<Stay>> = Vec::new();
        for (now, step) in (0..).zip(steps) {
            match step {
                Step::Enter(which) => {
                    let stay = traces.enter(trace(which)).unwrap();
                    let mut unknown = false;
                    for other in inside.iter_mut().flatten().filter(|other| other.trace == trace(which)) {
                        other.unknown = true;
                        unknown = true;
                    }
                    let trace = trace(which);
                    inside.push(Some(Request { trace, stay, entered: now, unknown, waits: BTreeSet::new() }));
                }
                Step::Leave(which) => {
                    if let Some(request) = inside.get_mut(which).and_then(Option::take) {
                        traces.leave(request.stay);
                    }
                }
                Step::Begin(which) => {
                    let stay = traces.begin(trace(which), at(now));
                    let expected = inside.iter().flatten().any(|request| request.trace == trace(which));
                    prop_assert_eq!(stay.is_some(), expected);
                    if !expected {
                        inside.iter_mut().flatten().for_each(|request| request.unknown = true);
                    }
                    calls.push(stay);
                }
                Step::End(which) => {
                    if let Some(call) = calls.get_mut(which).and_then(Option::take) {
                        traces.end(call, at(now));
                    }
                }
                Step::Pass => {}
            }
            for request in inside.iter_mut().flatten() {
                if calls.iter().flatten().any(|call| *call == request.stay) {
                    request.waits.insert(now);
                }
                let to = now + 1;
                let waiting = traces.waiting(request.stay, at(request.entered), at(to));
                if request.unknown {
                    prop_assert_eq!(waiting, None);
                } else {
                    let waits = u32::try_from(request.waits.len()).unwrap();
                    prop_assert_eq!(waiting, Some(MS * waits));
                }
                // From any later moment on: never more than there is, and exact while few waits are over.
                for from in request.entered..=to {
                    let part = traces.waiting(request.stay, at(from), at(to)).unwrap_or_default();
                    prop_assert!(part <= MS * (to - from));
                    let exact = u32::try_from(request.waits.range(from..).count()).unwrap();
                    if !request.unknown {
                        prop_assert!(part >= MS * exact);
                    }
                }
            }
        }
        for request in inside.into_iter().flatten() {
            traces.leave(request.stay);
        }
        prop_assert!(traces.is_empty());
    }
}
