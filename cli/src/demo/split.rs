//! Whether an observed split can come from the weights: the exact binomial bound.

/// Chance with which a healthy split is called broken, both sides together.
pub(crate) const FALSE_ALARM: f64 = 1e-6;

/// The counts that so many draws yield but for a chance of [`FALSE_ALARM`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Fewest.
    pub(crate) low: u32,
    /// Most.
    pub(crate) high: u32,
}

impl Bound {
    /// The smallest range whose tails hold at most half of [`FALSE_ALARM`] each.
    pub(crate) fn new(trials: u32, probability: f64) -> Self {
        if probability <= 0.0 || trials == 0 {
            return Self { low: 0, high: 0 };
        }
        if probability >= 1.0 {
            return Self { low: trials, high: trials };
        }
        let low = lower(trials, probability);
        // The upper tail is the lower tail of the other side.
        let high = trials - lower(trials, 1.0 - probability);
        Self { low, high }
    }

    /// Whether `count` is within.
    pub(crate) fn contains(self, count: u32) -> bool {
        (self.low..=self.high).contains(&count)
    }
}

/// The smallest count whose tail, itself included, is not rarer than half of [`FALSE_ALARM`].
fn lower(trials: u32, probability: f64) -> u32 {
    // P(k + 1) / P(k) = (n - k) / (k + 1) * p / (1 - p); in logarithms, since P(0) may be 1e-700.
    let odds = (probability / (1.0 - probability)).ln();
    let mut mass = f64::from(trials) * (1.0 - probability).ln();
    let mut tail = 0.0;
    for count in 0..trials {
        tail += mass.exp();
        if tail > FALSE_ALARM / 2.0 {
            return count;
        }
        mass += f64::from(trials - count).ln() - f64::from(count + 1).ln() + odds;
    }
    trials
}

#[cfg(test)]
mod tests {
    use super::Bound;

    #[test]
    fn the_bound_is_the_exact_one_where_it_can_be_counted_by_hand() {
        // P(0 heads in 20) = 2^-20 = 9.5e-7 > 5e-7: nothing can be excluded. In 22 it is 2.4e-7, and
        // P(0 or 1 in 22) = 23 / 2^22 = 5.5e-6 is not excluded.
        assert_eq!(Bound::new(20, 0.5), Bound { low: 0, high: 20 });
        assert_eq!(Bound::new(22, 0.5), Bound { low: 1, high: 21 });
    }

    #[test]
    fn the_bound_agrees_with_the_normal_one_for_many_trials() {
        // 4.89 standard deviations for 5e-7 on one side: 2 500 at one half have sigma 25.
        let bound = Bound::new(2_500, 0.5);
        assert!((1_126..=1_130).contains(&bound.low), "{bound:?}");
        assert_eq!(bound.low + bound.high, 2_500);
        let bound = Bound::new(2_500, 0.1);
        assert!(bound.contains(250) && !bound.contains(170) && !bound.contains(330), "{bound:?}");
    }

    #[test]
    fn a_certain_split_has_no_room() {
        assert_eq!(Bound::new(100, 0.0), Bound { low: 0, high: 0 });
        assert_eq!(Bound::new(100, 1.0), Bound { low: 100, high: 100 });
        assert_eq!(Bound::new(0, 0.5), Bound { low: 0, high: 0 });
    }
}
