//! Candidates -> endpoint: the better of two random choices by requests in flight, with weights.
//!
//! [`eligible`] is computed once a snapshot; [`pick`] once a request, in constant time (logarithmic with unequal weights).

use crate::model::{EndpointSet, Health};

/// The endpoints of a set that take new requests, as indices into its `endpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Eligible {
    candidates: Vec<Candidate>,
    /// Sum of the weights.
    total: u64,
    equal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    index: usize,
    weight: u64,
    /// Sum of the weights of all candidates before this one.
    before: u64,
}

impl Eligible {
    /// From (index, weight) pairs; a weight of 0 counts as 1.
    pub fn new(weighted: impl IntoIterator<Item = (usize, u32)>) -> Self {
        let mut eligible = Self { equal: true, ..Self::default() };
        for (index, weight) in weighted {
            let candidate = Candidate { index, weight: u64::from(weight.max(1)), before: eligible.total };
            eligible.total += candidate.weight;
            eligible.equal &=
                eligible.candidates.first().is_none_or(|first| first.weight == candidate.weight);
            eligible.candidates.push(candidate);
        }
        eligible
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The indices, in the order of the set.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.candidates.iter().map(|candidate| candidate.index)
    }

    /// Two different candidates drawn by weight, the second `None` when there is only one.
    fn draw(&self, random: [u64; 2]) -> Option<(&Candidate, Option<&Candidate>)> {
        let [first, second] = random;
        if self.equal {
            let count = u64::try_from(self.candidates.len()).ok()?;
            let at = |place: u64| usize::try_from(place).ok().and_then(|place| self.candidates.get(place));
            let first = first.checked_rem(count)?;
            // The remaining count - 1 places follow the first one around the circle.
            let second = second.checked_rem(count - 1).map(|step| (first + 1 + step) % count);
            return Some((at(first)?, second.and_then(at)));
        }
        let first = self.at_ticket(first.checked_rem(self.total)?)?;
        let others = self.total - first.weight;
        let second = second.checked_rem(others).and_then(|ticket| {
            let skip = if ticket < first.before { 0 } else { first.weight };
            self.at_ticket(ticket + skip)
        });
        Some((first, second))
    }

    fn at_ticket(&self, ticket: u64) -> Option<&Candidate> {
        let after = self.candidates.partition_point(|candidate| candidate.before <= ticket);
        self.candidates.get(after.checked_sub(1)?)
    }
}

/// The endpoints of `set` that take new requests: the healthy ones; if there is none, the unhealthy ones (perhaps the
/// judgement is wrong); if there is none either, the draining ones (a refusal there is *unprocessed* and harms nobody).
/// Availability over correctness.
pub fn eligible(set: &EndpointSet) -> Eligible {
    [Health::Healthy, Health::Unhealthy, Health::Draining]
        .into_iter()
        .map(|health| {
            Eligible::new(
                set.endpoints
                    .iter()
                    .enumerate()
                    .filter(|(_, endpoint)| endpoint.health == health)
                    .map(|(index, endpoint)| (index, endpoint.weight)),
            )
        })
        .find(|eligible| !eligible.is_empty())
        .unwrap_or_default()
}

/// Draws two candidates by weight and takes the one with less load for its weight; the first at a tie. `load` is the
/// number of requests in flight, by index; `random` are two numbers uniform over all of `u64`. `None` without candidates.
///
/// Idle endpoints are chosen in proportion to their weights; under load, requests in flight become proportional to them.
pub fn pick(eligible: &Eligible, load: impl Fn(usize) -> u64, random: [u64; 2]) -> Option<usize> {
    let (first, second) = eligible.draw(random)?;
    let Some(second) = second else {
        return Some(first.index);
    };
    // a / weight(a) <= b / weight(b), without division; at most 2^64 times 2^32.
    let scaled = |candidate: &Candidate, other: &Candidate| {
        u128::from(load(candidate.index)) * u128::from(other.weight)
    };
    let chosen = if scaled(first, second) <= scaled(second, first) { first } else { second };
    Some(chosen.index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Endpoint;

    fn set(healths: &[Health]) -> EndpointSet {
        EndpointSet {
            service: "demo/price".parse().unwrap(),
            port: 80,
            endpoints: (1..)
                .zip(healths)
                .map(|(port, health)| Endpoint {
                    address: ([10, 0, 0, 1], port).into(),
                    identity: "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap(),
                    weight: 1,
                    health: *health,
                    workload: "demo/price-1".into(),
                })
                .collect(),
            panic: false,
            resilience: Default::default(),
        }
    }

    fn indices(healths: &[Health]) -> Vec<usize> {
        eligible(&set(healths)).indices().collect()
    }

    #[test]
    fn the_healthy_go_first_then_the_unhealthy_then_the_draining() {
        use Health::{Draining, Healthy, Unhealthy};
        assert_eq!(indices(&[Draining, Healthy, Unhealthy, Healthy]), [1, 3]);
        assert_eq!(indices(&[Draining, Unhealthy]), [1]);
        assert_eq!(indices(&[Draining, Draining]), [0, 1]);
        assert!(indices(&[]).is_empty());
    }

    #[test]
    fn nothing_to_pick_from_is_none_and_one_is_always_picked() {
        assert_eq!(pick(&Eligible::default(), |_| 0, [3, 4]), None);
        assert_eq!(pick(&Eligible::new([(7, 5)]), |_| u64::MAX, [3, 4]), Some(7));
    }

    #[test]
    fn the_less_loaded_of_two_is_picked_whatever_the_dice_say() {
        let pair = Eligible::new([(0, 1), (1, 1)]);
        for random in [[0, 0], [1, 0], [u64::MAX, u64::MAX]] {
            assert_eq!(pick(&pair, |index| [5, 4][index], random), Some(1));
        }
    }

    #[test]
    fn load_is_seen_in_proportion_to_weight() {
        let pair = Eligible::new([(0, 1), (1, 3)]);
        assert_eq!(pick(&pair, |index| [2, 5][index], [0, 0]), Some(1));
        assert_eq!(pick(&pair, |index| [1, 4][index], [3, 0]), Some(0));
    }

    #[test]
    fn idle_endpoints_share_by_weight() {
        let eligible = Eligible::new([(0, 1), (1, 3), (2, 4)]);
        let mut counts = [0; 3];
        for random in 0..80 {
            counts[pick(&eligible, |_| 0, [random, random / 8]).unwrap()] += 1;
        }
        assert_eq!(counts, [10, 30, 40]);
    }

    proptest! {
        #[test]
        fn two_different_candidates_are_drawn(
            weights in proptest::collection::vec(1..1000_u32, 2..20),
            random: [u64; 2],
        ) {
            let eligible = Eligible::new(weights.into_iter().enumerate());
            let (first, second) = eligible.draw(random).unwrap();
            prop_assert_ne!(first.index, second.unwrap().index);
        }
    }
}
