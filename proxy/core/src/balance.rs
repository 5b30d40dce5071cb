//! Candidates -> endpoint: the better of two random choices by latency and requests in flight, with weights (P2C).
//!
//! [`eligible`] is computed once a snapshot; [`pick`] once a request, in constant time (logarithmic with unequal weights;
//! linear when both that were drawn are not available). What an endpoint costs is [`PeakEwma`].

mod ewma;

pub use ewma::PeakEwma;

use crate::model::{EndpointSet, Health};

/// The endpoints of a set that take new requests, as indices into its `endpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Eligible {
    candidates: Vec<Candidate>,
    /// Sum of the weights.
    total: u64,
    equal: bool,
}

/// What one more request at an endpoint costs; the unit is the caller's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// What it costs when nothing is under way there.
    pub idle: f64,
    /// What the requests under way add, for an endpoint of average weight. One of twice that weight is made for twice as
    /// many, and they add half of it.
    pub under_way: f64,
}

impl Cost {
    /// `share` is the weight in relation to the average one.
    fn for_share(self, share: f64) -> f64 {
        self.idle + self.under_way / share
    }
}

/// All of it is of what is under way.
impl From<f64> for Cost {
    fn from(under_way: f64) -> Self {
        Self { idle: 0.0, under_way }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    index: usize,
    weight: u32,
    /// Sum of the weights of all candidates before this one.
    before: u64,
}

impl Eligible {
    /// From (index, weight) pairs; a weight of 0 counts as 1.
    pub fn new(weighted: impl IntoIterator<Item = (usize, u32)>) -> Self {
        let mut eligible = Self { equal: true, ..Self::default() };
        for (index, weight) in weighted {
            let candidate = Candidate { index, weight: weight.max(1), before: eligible.total };
            eligible.total += u64::from(candidate.weight);
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

    fn share(&self, candidate: &Candidate) -> f64 {
        if self.equal {
            return 1.0;
        }
        f64::from(candidate.weight) * self.candidates.len() as f64 / self.total as f64
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
        let others = self.total - u64::from(first.weight);
        let second = second.checked_rem(others).and_then(|ticket| {
            let skip = if ticket < first.before { 0 } else { u64::from(first.weight) };
            self.at_ticket(ticket + skip)
        });
        Some((first, second))
    }

    /// One of the available candidates, by weight: each takes the place of those before it with its share of the weights
    /// so far (weighted reservoir sampling), so that availability is asked once each.
    fn any(&self, available: impl Fn(usize) -> bool, random: [u64; 2]) -> Option<&Candidate> {
        let [mut state, step] = random;
        let mut total = 0;
        let mut chosen = None;
        for candidate in self.candidates.iter().filter(|candidate| available(candidate.index)) {
            let weight = u64::from(candidate.weight);
            total += weight;
            state = state.wrapping_add(step | 1);
            if mixed(state).checked_rem(total)? < weight {
                chosen = Some(candidate);
            }
        }
        chosen
    }

    fn at_ticket(&self, ticket: u64) -> Option<&Candidate> {
        let after = self.candidates.partition_point(|candidate| candidate.before <= ticket);
        self.candidates.get(after.checked_sub(1)?)
    }
}

/// The finaliser of SplitMix64: makes a uniform number of each of a sequence.
fn mixed(state: u64) -> u64 {
    let state = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ state >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ state >> 31
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

/// Draws two candidates by weight and takes the one that costs less for its weight; the first if they cost the same.
/// `cost`, by index, is [`PeakEwma::cost`], or one number that grows with what is under way; `None`: not available now
/// (ejected, already tried, at a limit). `random` are two numbers uniform over all of `u64`.
///
/// If one of the two is not available the other is taken; if neither is, any that is, by weight; `None` only if none is.
/// Idle endpoints of equal latency are chosen in proportion to their weights; under load, requests in flight become
/// proportional to them.
pub fn pick<C: Into<Cost>>(
    eligible: &Eligible,
    cost: impl Fn(usize) -> Option<C>,
    random: [u64; 2],
) -> Option<usize> {
    let (first, second) = eligible.draw(random)?;
    let price = |candidate: &Candidate| {
        cost(candidate.index).map(|cost| cost.into().for_share(eligible.share(candidate)))
    };
    let chosen = match (price(first), second.and_then(price), second) {
        (Some(a), Some(b), Some(second)) if b < a => second,
        (Some(_), ..) => first,
        (None, Some(_), Some(second)) => second,
        (None, ..) => eligible.any(|index| cost(index).is_some(), random)?,
    };
    Some(chosen.index)
}

#[cfg(test)]
mod tests;
