//! Whether those who are refused are always the same, because they wait for their answers and then ask again. Then a longer line is all
//! that it takes: whoever stands in it does not ask meanwhile. Of a load that comes whatever becomes of it, as much is refused
//! behind a line of any length. So a longer one is tried now and then, for a short while, and kept if less is refused.

use super::Figures;

/// It is tried where so many are refused for one that is answered, and were for so long; after each time that it did not help,
/// twice as long, up to so long. Seconds.
const MUCH: f64 = 0.5;
const HOLD: f64 = 15.0;
const LONGEST_HOLD: f64 = 320.0;
/// Who is refused so often asks again at once, most likely: that is tried without delay, the first time, and by a longer line.
const MANY: f64 = 10.0;
const LONGER: u32 = 2;
const MUCH_LONGER: u32 = 4;
/// So many refusals tell how many come in a second; in a second at least.
const TELLING: f64 = 400.0;
const LEAST_LOOK: f64 = 1.0;
/// It helps if no more than this part is refused.
const FEWER: f64 = 0.8;

/// What was seen of it.
#[derive(Debug)]
pub(super) struct Looking {
    refusals: f64,
    seconds: f64,
    hold: f64,
    /// A line that was so many times as long was seen to help.
    times: u32,
    trial: Option<Trial>,
}

/// A longer line, for a try.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Refusals per second, before.
    before: f64,
    /// The limit then.
    limit: u32,
    times: u32,
    /// As many are inside as may be.
    filled: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    /// There is nothing to see.
    Away,
    /// The limit stays as it is, meanwhile.
    On,
    /// This limit holds from now on.
    Put(u32),
}

impl Looking {
    pub(super) fn new() -> Self {
        Self { refusals: 0.0, seconds: 0.0, hold: HOLD, times: 1, trial: None }
    }

    /// The line may be so many times as long as it could be borne otherwise.
    pub(super) fn times(&self) -> f64 {
        self.times.into()
    }

    /// A longer line is tried.
    pub(super) fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// Takes note of a window under this limit, which as many are under as may be.
    pub(super) fn judge(&mut self, figures: &Figures, limit: u32) -> Look {
        let refusals = figures.refused * f64::from(figures.ends);
        if let Some(trial) = &mut self.trial
            && !trial.filled
        {
            trial.filled = refusals > 0.0;
            return Look::On;
        }
        let helped = self.times > 1;
        if self.trial.is_none() && !helped && figures.refused < MUCH {
            self.forget();
            return Look::Away;
        }
        self.refusals += refusals;
        self.seconds += figures.length;
        match self.trial {
            Some(trial) => self.end(&trial),
            None => self.begin(figures, limit),
        }
    }

    fn begin(&mut self, figures: &Figures, limit: u32) -> Look {
        let many = figures.refused >= MANY;
        let hold = if self.times > 1 || many && self.hold <= HOLD { LEAST_LOOK } else { self.hold };
        if self.refusals < TELLING || self.seconds < hold {
            return Look::Away;
        }
        let times = if many { MUCH_LONGER } else { LONGER };
        self.trial = Some(Trial { before: self.refusals / self.seconds, limit, times, filled: false });
        self.forget();
        Look::Put(limit.saturating_mul(times).min(u32::MAX - 1))
    }

    fn end(&mut self, trial: &Trial) -> Look {
        if self.seconds < LEAST_LOOK.max(TELLING / trial.before) {
            return Look::On;
        }
        self.trial = None;
        let helps = self.refusals < FEWER * trial.before * self.seconds;
        self.forget();
        if helps {
            self.times = self.times.saturating_mul(trial.times);
            return Look::On;
        }
        self.times = 1;
        self.hold = (2.0 * self.hold).min(LONGEST_HOLD);
        Look::Put(trial.limit)
    }

    fn forget(&mut self) {
        self.refusals = 0.0;
        self.seconds = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn window(ends: u32, refused: f64, length: f64) -> Figures {
        let now = Instant::now() + Duration::from_secs_f64(length);
        let rate = f64::from(ends) / length;
        Figures {
            now,
            length,
            ends,
            time: 0.5,
            rate,
            before: 0,
            inside: 0,
            growth: 0.0,
            refused,
            gone: 0.0,
            not_taken: 0.0,
        }
    }

    /// Windows of half a second with two refused for one that is answered; what is put, and after how many of them.
    fn limits(looking: &mut Looking, windows: usize) -> Vec<(usize, u32)> {
        let mut limit = 200;
        let mut put = Vec::new();
        for number in 1..=windows {
            if let Look::Put(other) = looking.judge(&window(200, 2.0, 0.5), limit) {
                limit = other;
                put.push((number, other));
            }
        }
        put
    }

    #[test]
    fn a_longer_line_that_does_not_help_is_tried_less_and_less_often() {
        let put = limits(&mut Looking::new(), 1000);
        let times: Vec<_> = put.iter().map(|(number, _)| *number).collect();
        // Three to fill it and to look, and twice as long in between each time.
        assert_eq!(times, [30, 33, 93, 96, 216, 219, 459, 462, 942, 945]);
        assert!(put.chunks(2).all(|pair| pair[0].1 == 400 && pair[1].1 == 200), "{put:?}");
    }

    #[test]
    fn one_that_helps_stays_and_a_longer_one_is_tried_at_once() {
        let mut looking = Looking::new();
        assert_eq!(limits(&mut looking, 30), [(30, 400)]);
        let _filled = looking.judge(&window(200, 1.0, 0.5), 400);
        for _ in 0..2 {
            assert!(matches!(looking.judge(&window(200, 1.0, 0.5), 400), Look::On));
        }
        assert!(!looking.is_trying() && looking.times() > 1.0);
        let _first = looking.judge(&window(200, 1.0, 0.5), 400);
        assert!(matches!(looking.judge(&window(200, 1.0, 0.5), 400), Look::Put(800)));
    }

    proptest! {
        #[test]
        fn a_limit_that_is_tried_is_taken_back_or_stays_and_every_try_ends(
            windows in prop::collection::vec((1..500_u32, 0.0..30.0_f64, 0.2..5.0_f64), 1..300),
        ) {
            let mut looking = Looking::new();
            let (mut limit, mut before, mut tried) = (64_u32, 64, 0.0);
            for (ends, refused, length) in windows {
                match looking.judge(&window(ends, refused, length), limit) {
                    Look::Put(higher) if looking.is_trying() => {
                        prop_assert!(higher > limit || limit == u32::MAX - 1);
                        (before, limit, tried) = (limit, higher, 0.0);
                    }
                    Look::Put(back) => {
                        prop_assert_eq!(back, before);
                        limit = back;
                    }
                    Look::On => tried += if refused > 0.0 { length } else { 0.0 },
                    Look::Away => {}
                }
                // As long as so many refusals took before, at half a refusal for an answer at least; and a window more.
                prop_assert!(!looking.is_trying() || tried < 2.0 * (TELLING / MUCH) * 5.0);
            }
        }
    }
}
