//! Whether more is to do than can be done: answers are late, more and more are inside, each waits longer and longer, and no more
//! are answered for it. Each of these alone has harmless causes; together, and for a while, hardly any.

use std::time::Instant;

use super::{super::concurrency::LEAST, Figures, Usual, limiting::Limiting};

/// A step: so many times as many inside, and so many times the wait. So many of them, that make so many times together, are
/// a climb that chance does not make.
const STEP: f64 = 1.3;
const STEPS: u32 = 3;
const HEIGHT: f64 = 3.5;
/// Back by so much, it was none.
const BACK: f64 = 0.8;
/// A step takes so long at most; so many waits, if that is longer.
const STALE: f64 = 30.0;
const STALE_WAITS: f64 = 3.0;
/// So many times the answers, within two steps: whoever does more has not reached what it can, and who does so much less is
/// about to become slower.
const FASTER: f64 = 1.4;
const SLOWER: f64 = 0.7;
/// Answers have been slow for so long at least, for half as long as a request takes, and so many of them: until then, it may
/// only be that the first were quick.
const SPELL: f64 = 0.5;
const SPELL_ENDS: u32 = 64;
/// Where so much fewer come than usual, it may be the machine that is short of time, and not for long; or a dependency that is
/// slow. Then they have been slow for so long, and such a step comes after that.
const SLOWED: f64 = 0.8;
const SLOWED_SPELL: f64 = 2.0;
const SLOWED_STEP: f64 = 1.4;
/// Where fewer stay inside for one that is answered, it may be clients that come one by one and wait for their answers: they
/// wait for so many times as long before it is too much.
const STEEP: f64 = 0.25;
const FLAT_WAITS: f64 = 3.0;
/// Most callers have gone away before they were answered for so long: nobody is worse off if they are refused.
const GONE: f64 = 1.0;
const MOST: f64 = 0.5;
/// The application did not take so many of those that ended, and answers others: likewise. Where it answers fewer than usual, it may
/// just have been started again, and is given so long. They end in groups, as they began: so much may lie between, or two answers.
const NOT_TAKEN: f64 = 0.1;
const SLOWED_GONE: f64 = 4.0;
const BETWEEN: f64 = 2.0;
/// So much of what was seen counts when the next window is over.
const STAYS: f64 = 0.6;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    flow: Flow,
    climb: Option<Climb>,
    spell: Option<Spell>,
    /// Most callers go away.
    gone: Option<Spell>,
    full: Option<Full>,
}

/// The application takes no more: what ended since some were not taken, for the last time at this moment.
#[derive(Debug)]
struct Full {
    begun: Instant,
    last: Instant,
    ends: f64,
    answers: f64,
    not_taken: f64,
}

/// The last windows together, older ones less.
#[derive(Debug, Default)]
struct Flow {
    seconds: f64,
    ends: f64,
    answers: f64,
    /// That requests spent inside, all together.
    waits: f64,
}

/// How it is at a moment.
#[derive(Debug, Clone, Copy)]
struct Point {
    at: Instant,
    inside: f64,
    /// Of one more, seconds.
    wait: f64,
    rate: f64,
}

/// More and more inside.
#[derive(Debug, Clone, Copy)]
struct Climb {
    steps: u32,
    foot: Point,
    /// Its last step, and the one before.
    last: Point,
    before: Point,
}

/// Slow answers, without a break.
#[derive(Debug, Clone, Copy)]
struct Spell {
    begun: Instant,
    ends: u32,
    /// The lowest point since there were enough of them.
    low: Option<Point>,
}

impl Suspicion {
    /// The limit to put in force, if there is too much inside.
    pub(super) fn judge(&mut self, figures: &Figures, usual: &Usual) -> Option<Limiting> {
        let now = self.flow.take(figures);
        let slow = figures.time > usual.slow();
        if self.are_gone(figures, now) && slow {
            return Some(Limiting::of_gone(figures, usual));
        }
        if let Some(rate) = self.is_full(figures, now, usual) {
            // Few of those that end in a window may be answers.
            return Some(Limiting::of_gone(&Figures { rate, ..*figures }, usual));
        }
        let climb = self.climb.get_or_insert(Climb::from(now));
        let steps = climb.go_on(now);
        if !slow {
            self.spell = None;
            return None;
        }
        let spell = self.spell.get_or_insert(Spell { begun: now.at, ends: 0, low: None });
        spell.go_on(figures.ends, now);
        let fills = figures.inside > figures.before.max(2 * LEAST);
        let overloaded = steps
            && fills
            && climb.is_one(&now)
            && spell.lasts(&now, figures.time, now.rate < SLOWED * usual.rate)
            && climb.is_late(figures, &now, usual);
        overloaded.then(|| Limiting::new(figures, usual, now.rate))
    }
}

impl Suspicion {
    /// Nobody waits for what the application does, so that a line does not grow: but it is still there.
    fn are_gone(&mut self, figures: &Figures, now: Point) -> bool {
        if figures.gone < MOST || figures.inside < 2 * LEAST {
            self.gone = None;
            return false;
        }
        let gone = self.gone.get_or_insert(Spell { begun: now.at, ends: 0, low: None });
        gone.ends = gone.ends.saturating_add(figures.ends);
        gone.ends >= SPELL_ENDS && now.since(gone.begun) >= GONE
    }

    /// It takes no more, so that a line does not grow, either; how many it answers in a second, then.
    fn is_full(&mut self, figures: &Figures, now: Point, usual: &Usual) -> Option<f64> {
        let first = Full { begun: now.at, last: now.at, ends: 0.0, answers: 0.0, not_taken: 0.0 };
        let full = match &mut self.full {
            Some(full) if now.since(full.last) < BETWEEN.max(2.0 * usual.time) => full,
            none => {
                *none = (figures.not_taken > 0.0).then_some(first);
                return None;
            }
        };
        full.go_on(figures, now);
        let (lasted, rate) = (now.since(full.begun), full.answers / now.since(full.begun));
        let enough = if rate < SLOWED * usual.rate { SLOWED_GONE } else { GONE };
        if full.not_taken < NOT_TAKEN * full.ends {
            if lasted >= SLOWED_GONE {
                self.full = None;
            }
            return None;
        }
        let many = full.ends >= SPELL_ENDS.into() && figures.inside >= 2 * LEAST;
        (lasted >= enough && many && figures.not_taken > 0.0).then_some(rate)
    }
}

impl Full {
    fn go_on(&mut self, figures: &Figures, now: Point) {
        let ends = f64::from(figures.ends);
        self.ends += ends;
        self.answers += figures.rate * figures.length;
        self.not_taken += figures.not_taken * ends;
        if figures.not_taken > 0.0 {
            self.last = now.at;
        }
    }
}

impl Flow {
    fn take(&mut self, figures: &Figures) -> Point {
        let Figures { now: at, length, ends, rate, before, inside, .. } = *figures;
        let (before, inside) = (f64::from(before), f64::from(inside));
        self.seconds = STAYS * self.seconds + length;
        self.ends = STAYS * self.ends + f64::from(ends);
        self.answers = STAYS * self.answers + rate * length;
        self.waits = STAYS * self.waits + (before + inside) / 2.0 * length;
        // Little's law: where a request takes what it takes, and does not wait for a place, this does not grow with the load.
        let wait = self.waits / self.ends.max(f64::MIN_POSITIVE);
        Point { at, inside, wait, rate: self.answers / self.seconds }
    }
}

impl Point {
    fn exceeds(&self, other: &Self, times: f64) -> bool {
        self.inside >= times * other.inside.max(LEAST.into()) && self.wait >= times * other.wait
    }

    fn falls_below(&self, other: &Self, part: f64) -> bool {
        self.inside < part * other.inside || self.wait < part * other.wait
    }

    fn since(&self, before: Instant) -> f64 {
        self.at.saturating_duration_since(before).as_secs_f64()
    }
}

impl Climb {
    fn from(foot: Point) -> Self {
        Self { steps: 0, foot, last: foot, before: foot }
    }

    /// Whether it is a step.
    fn go_on(&mut self, now: Point) -> bool {
        let last = self.last;
        let back = if self.steps == 0 { 1.0 } else { BACK };
        let stands = now.since(last.at) > STALE.max(STALE_WAITS * last.wait);
        if stands || now.inside < back * last.inside || now.wait < back * back * last.wait {
            *self = Self::from(now);
            return false;
        }
        if now.wait < back * last.wait {
            // It may be chance: on from here.
            *self = Self { last: now, before: now, ..*self };
            return false;
        }
        let steps = now.exceeds(&last, STEP);
        if steps {
            *self = Self { steps: self.steps.saturating_add(1), foot: self.foot, last: now, before: last };
        }
        steps
    }

    /// High enough, and no more are answered for it.
    fn is_one(&self, now: &Point) -> bool {
        let flat = (SLOWER..=FASTER).contains(&(now.rate / self.before.rate));
        flat && self.steps >= STEPS && now.exceeds(&self.foot, HEIGHT)
    }

    /// More are inside than are answered in the time that can be borne.
    fn is_late(&self, figures: &Figures, now: &Point, usual: &Usual) -> bool {
        let answered = (now.rate * now.since(self.before.at)).max(1.0);
        let steep = (now.inside - self.before.inside) / answered >= STEEP;
        let bearable = usual.bearable(figures.is_impatient()) * if steep { 1.0 } else { FLAT_WAITS };
        // Those that end have come before the others, and took less. An application that was quicker a moment ago may be so again.
        figures.time > bearable / 2.0
            && now.wait > bearable
            && now.inside > bearable * now.rate.max(usual.rate)
    }
}

impl Spell {
    fn go_on(&mut self, ends: u32, now: Point) {
        self.ends = self.ends.saturating_add(ends);
        if self.ends >= SPELL_ENDS && self.low.is_none_or(|low| now.falls_below(&low, BACK)) {
            self.low = Some(now);
        }
    }

    /// `time`: that a request took, seconds.
    fn lasts(&self, now: &Point, time: f64, slowed: bool) -> bool {
        let Some(low) = self.low else {
            return false;
        };
        let passed = now.since(self.begun);
        let goes_on = passed >= SLOWED_SPELL && now.exceeds(&low, SLOWED_STEP);
        passed >= SPELL.max(time / 2.0) && (goes_on || !slowed)
    }
}
