//! Any sequence of outcomes, cancellations, probes, changes of the set and of the policy.

use proptest::sample::Index;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A request to one endpoint that ends at once.
    Answer(Index, Verdict, u8),
    /// A request to one endpoint that goes on.
    Begin(Index),
    /// One of those ends.
    End(Index, Verdict),
    /// One of those is dropped: its client went away.
    Cancel(Index),
    Wait(u64),
    /// Endpoints leave and new ones come.
    Replace {
        keep: Index,
        join: usize,
    },
    Policy {
        failures: u32,
        percent: u32,
    },
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Success),
        Just(Verdict::Ignored),
        prop::sample::select(vec![
            Failure::Connect,
            Failure::Reset,
            Failure::Timeout,
            Failure::Application,
            Failure::Overloaded,
            Failure::Deadline,
        ])
        .prop_map(Verdict::Failure),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<Index>(), verdict(), 1..9_u8).prop_map(|(at, verdict, times)| Step::Answer(at, verdict, times)),
        2 => any::<Index>().prop_map(Step::Begin),
        2 => (any::<Index>(), verdict()).prop_map(|(at, verdict)| Step::End(at, verdict)),
        1 => any::<Index>().prop_map(Step::Cancel),
        2 => (0..5_000_u64).prop_map(Step::Wait),
        1 => (any::<Index>(), 0..6_usize).prop_map(|(keep, join)| Step::Replace { keep, join }),
        1 => (0..5_u32, 0..=50_u32).prop_map(|(failures, percent)| Step::Policy { failures, percent }),
    ]
}

/// A request under way, with the endpoint it is at, which may have left the set.
type Request = (Arc<Accrual>, Admission);

fn apply(set: &mut Set, requests: &mut Vec<Request>, step: &Step) {
    let ending = |now, verdict| Ending { now, verdict, random: 1 << 63 };
    match *step {
        Step::Answer(at, verdict, times) if !set.members.is_empty() => {
            set.record(at.index(set.members.len()), verdict, times.into());
        }
        Step::Begin(at) if !set.members.is_empty() => {
            let member = &set.members[at.index(set.members.len())];
            requests.extend(member.admit(set.now).map(|admission| (Arc::clone(member), admission)));
        }
        Step::End(at, verdict) if !requests.is_empty() => {
            let (accrual, admission) = requests.swap_remove(at.index(requests.len()));
            set.ejections.record(&accrual, admission, ending(set.now, verdict), &set.policy);
        }
        Step::Cancel(at) if !requests.is_empty() => drop(requests.swap_remove(at.index(requests.len()))),
        Step::Wait(millis) => set.now += Duration::from_millis(millis),
        Step::Replace { keep, join } => {
            set.members.truncate(keep.index(set.members.len() + 1));
            set.members.extend((0..join).map(|_| Arc::new(Accrual::new(set.now))));
            set.update();
        }
        Step::Policy { failures, percent } => {
            set.policy.consecutive_failures = failures;
            set.policy.max_ejected_percent = percent;
            set.update();
        }
        Step::Answer(..) | Step::Begin(_) | Step::End(..) | Step::Cancel(_) => {}
    }
}

proptest! {
    #[test]
    fn the_cap_holds_one_probe_is_under_way_and_everybody_comes_back(
        size in 0..25_usize,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let (mut set, mut requests) = (Set::new(size), Vec::new());
        set.policy.consecutive_failures = 2;
        for step in steps {
            apply(&mut set, &mut requests, &step);
            let size = set.members.len();
            let away = size - set.healthy();
            prop_assert!(away <= cap(size, &set.policy));
            prop_assert!(away * 2 <= size && (away < size || size == 0));
            for member in &set.members {
                let current = requests.iter().filter(|(accrual, admission)| {
                    Arc::ptr_eq(accrual, member)
                        && matches!(admission, Admission::Probe(probe) if probe.is_current())
                });
                prop_assert!(current.count() <= 1);
                // What can be picked can be sent to, and nothing else.
                let admitted = member.admit(set.now);
                let cost = member.cost(set.now, Cost::from(1.0));
                match admitted {
                    // The claim just taken is not there for another.
                    Some(Admission::Probe(_)) => prop_assert_eq!(cost, None),
                    Some(Admission::Open) => prop_assert_eq!(cost, Some(Cost::from(1.0))),
                    None => prop_assert_eq!(cost, None),
                }
            }
        }
        requests.clear();
        set.now += 2 * set.policy.max_ejection;
        for index in 0..set.members.len() {
            if !set.is_healthy(index) {
                let probe = set.probe(index);
                set.end(index, Admission::Probe(probe), Verdict::Success);
            }
            prop_assert!(set.is_healthy(index));
        }
    }
}
