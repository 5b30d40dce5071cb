//! What the ends of requests say about how much their application can do.
//!
//! ```text
//! ends -> windows of 24 and more -> slow, and fuller and fuller, and no more answers for it -> limit
//!                                -> slower than it was, and still filling up after a while  -> limit
//! limit in force -> fewer answers, and none of them sooner -> it was not that: none, and this is usual now
//!                -> otherwise it was: more or fewer, until they take what they may
//!                -> nothing refused for a second -> none
//! ```
//!
//! Latency alone is no sign: an application may be slow because it waits for others, and would take ten times as much. What
//! tells overload apart is that more is inside and no more comes out. Times are seconds, rates are per second.

use std::time::{Duration, Instant};

use super::concurrency::LEAST;

/// So many ends make a window; where they come slowly, fewer after a second.
const ENDS: u32 = 24;
const FEW_ENDS: u32 = 8;
const SLOW_WINDOW: f64 = 1.0;
/// A window is at least this long; longer ones tell whether a limit helps.
const WINDOW: f64 = 0.05;
const PROOF_WINDOW: f64 = 0.2;
/// Slow: longer than so many times what is usual, and by so much longer.
const SLOW_TIMES: f64 = 3.0;
const SLOW_BY: f64 = 0.02;
/// What is usual doubles in so long at most, when answers come slower; when they come faster, it follows in so long.
const USUAL_RISES: f64 = 30.0;
const USUAL_FALLS: f64 = 2.0;
/// Ends after which what an application does is usual, although its load has only grown.
const LONG_UNSEEN: u32 = 8192;
/// A limit goes when nothing was refused for so long, and for twice as long as a request usually takes.
const QUIET: Duration = Duration::from_secs(1);
/// Refusing has lasted after it.
const LASTING: Duration = Duration::from_secs(1);

/// One end of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) took: Duration,
    pub(super) answered: bool,
}

#[derive(Debug)]
pub(super) struct Learning {
    window: Window,
    /// Answers per second in the window before.
    rate_before: f64,
    knowledge: Knowledge,
    state: State,
}

/// Ends since a moment.
#[derive(Debug)]
struct Window {
    begun: Instant,
    /// Requests inside then.
    inside: u32,
    ends: u32,
    answers: u32,
    seconds: f64,
}

/// What a window says.
#[derive(Debug, Clone, Copy)]
struct Figures {
    begun: Instant,
    now: Instant,
    length: f64,
    /// From admission to end, on average.
    time: f64,
    /// Answers per second.
    rate: f64,
    /// Inside at its end.
    inside: u32,
    /// More than at its begin, by a part of those that ended.
    growth: f64,
    settled: bool,
}

/// What was seen of an application whose load has only grown so far.
#[derive(Debug, Clone, Copy)]
struct Unknown {
    ends: u32,
    /// Time of the quickest window.
    quickest: f64,
    /// Ends in the last window.
    last: u32,
}

#[derive(Debug, Clone, Copy)]
enum Knowledge {
    /// What was seen so far does not tell what is usual.
    None(Unknown),
    Usual(Usual),
}

/// What a request takes when there is not too much to do, and how many are answered.
#[derive(Debug, Clone, Copy)]
struct Usual {
    time: f64,
    rate: f64,
}

#[derive(Debug)]
enum State {
    Open(Suspicion),
    Limiting(Limiting),
}

#[derive(Debug, Default)]
struct Suspicion {
    /// Slow windows in a row.
    slow: u32,
    /// Of them those, in a row, in which it filled up although answers came as fast as ever and no faster.
    saturated: u32,
    spell: Option<Spell>,
}

/// Since when it has been slow.
#[derive(Debug, Clone, Copy)]
struct Spell {
    begun: Instant,
    inside: u32,
    time: f64,
}

#[derive(Debug)]
struct Limiting {
    limit: u32,
    since: Instant,
    /// It goes when nothing was refused for so long.
    quiet: Duration,
    /// What was refused first, and last.
    refused: Option<(Instant, Instant)>,
    /// What was there before is gone, and a window begins that tells what the limit does.
    settled: bool,
    /// It does what it is for.
    proven: bool,
    /// What held before, and which part of the rate is left if what was inside did not wait for a place.
    time_before: f64,
    rate_before: f64,
    left: f64,
}

impl Learning {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window: Window::new(now, 0),
            rate_before: 0.0,
            knowledge: Knowledge::None(Unknown { ends: 0, quickest: f64::INFINITY, last: 0 }),
            state: State::Open(Suspicion::default()),
        }
    }

    pub(super) fn limit(&self) -> Option<u32> {
        match &self.state {
            State::Open(_) => None,
            State::Limiting(limiting) => Some(limiting.limit),
        }
    }

    /// A request found the limit reached. `None`: the limit has had no work for a while, and goes; else whether requests
    /// have been refused for a second.
    pub(super) fn refuse(&mut self, now: Instant) -> Option<bool> {
        let State::Limiting(limiting) = &mut self.state else {
            return None;
        };
        if limiting.is_idle(now) {
            self.state = State::Open(Suspicion::default());
            return None;
        }
        let (first, _) = limiting.refused.unwrap_or((now, now));
        limiting.refused = Some((first, now));
        Some(now.saturating_duration_since(first) >= LASTING)
    }

    /// Takes note of an end, after which so many are `inside`.
    pub(super) fn add(&mut self, now: Instant, inside: u32, sample: Sample) {
        let took = sample.took.as_secs_f64();
        if !sample.answered && !self.is_slow(took) {
            // Whoever goes away early says nothing of those who wait.
            return;
        }
        self.window.ends += 1;
        self.window.answers += u32::from(sample.answered);
        self.window.seconds += took;
        let Some(figures) = self.figures(now, inside) else {
            return;
        };
        match self.knowledge {
            Knowledge::None(unknown) => self.get_to_know(&figures, unknown),
            Knowledge::Usual(usual) => self.judge(&figures, usual),
        }
        self.rate_before = figures.rate;
        self.window = Window::new(now, inside);
    }

    fn is_slow(&self, took: f64) -> bool {
        matches!(self.knowledge, Knowledge::Usual(usual) if took > usual.bearable())
    }

    /// What the window says, if it is over.
    fn figures(&self, now: Instant, inside: u32) -> Option<Figures> {
        let Window { begun, inside: before, ends, answers, seconds } = self.window;
        let length = now.saturating_duration_since(begun).as_secs_f64();
        let time = seconds / f64::from(ends);
        let (least, waits) = match (&self.state, self.knowledge) {
            // What came before a limit still ends for as long as a request takes.
            (State::Limiting(_), _) => (PROOF_WINDOW, time),
            (State::Open(_), Knowledge::Usual(usual)) => (WINDOW, usual.time.max(time / 4.0)),
            // Those that end soon after load has begun are the quick ones.
            (State::Open(_), Knowledge::None(_)) => (WINDOW, time),
        };
        let full = ends >= ENDS && length >= waits.max(least);
        let overdue = ends >= FEW_ENDS && length >= waits.max(SLOW_WINDOW);
        if !full && !overdue {
            return None;
        }
        let limit = self.limit().unwrap_or(u32::MAX);
        Some(Figures {
            begun,
            now,
            length,
            time,
            rate: f64::from(answers) / length,
            inside,
            growth: (f64::from(inside) - f64::from(before)) / f64::from(ends),
            settled: before <= limit && inside <= limit,
        })
    }

    /// What is usual is what holds while the load does not grow. Load that only ever grows, and is not answered any faster,
    /// is too much from its begin: then answers were slow already when they were first seen.
    fn get_to_know(&mut self, figures: &Figures, unknown: Unknown) {
        let (rate, last) = (figures.rate, self.window.ends);
        let ends = unknown.ends.saturating_add(last);
        let quickest = unknown.quickest.min(figures.time);
        let calm = !figures.fills() || figures.inside <= LEAST;
        // By so many each, chance is no explanation.
        let certain = unknown.last.min(last) >= 2 * ENDS;
        let flat = certain && figures.growth >= 0.45 && rate <= 1.15 * self.rate_before;
        self.knowledge = if calm && ends >= 2 * FEW_ENDS || ends >= LONG_UNSEEN {
            Knowledge::Usual(Usual { time: figures.time, rate })
        } else if flat {
            Knowledge::Usual(Usual { time: quickest / 2.0, rate })
        } else {
            Knowledge::None(Unknown { ends, quickest, last })
        };
    }

    fn judge(&mut self, figures: &Figures, mut usual: Usual) {
        let next = match &mut self.state {
            State::Open(suspicion) => {
                let limiting = suspicion.judge(figures, &mut usual, self.rate_before);
                if limiting.is_none() {
                    usual.follow(figures);
                }
                limiting.map(State::Limiting)
            }
            State::Limiting(limiting) => {
                let over = limiting.judge(figures, &mut usual);
                over.then(|| State::Open(Suspicion::default()))
            }
        };
        self.knowledge = Knowledge::Usual(usual);
        if let Some(next) = next {
            self.state = next;
        }
    }
}

impl Window {
    fn new(begun: Instant, inside: u32) -> Self {
        Self { begun, inside, ends: 0, answers: 0, seconds: 0.0 }
    }
}

impl Figures {
    /// More and more are inside.
    fn fills(&self) -> bool {
        self.growth >= 0.25
    }

    /// As many as are inside when a request takes `time`, at the rate of this window (Little's law).
    fn inside_for(&self, time: f64) -> u32 {
        let whole = Duration::try_from_secs_f64(self.rate * time + 0.5).unwrap_or_default().as_secs();
        u32::try_from(whole).unwrap_or(u32::MAX - 1).max(LEAST)
    }
}

impl Usual {
    /// What a request may take before it is slow.
    fn bearable(&self) -> f64 {
        (SLOW_TIMES * self.time).max(self.time + SLOW_BY)
    }

    fn follow(&mut self, figures: &Figures) {
        let falls = (figures.length / USUAL_FALLS).min(0.25);
        let change = figures.time - self.time;
        if change >= 0.0 {
            self.time = figures.time.min(self.time * (1.0 + figures.length / USUAL_RISES));
        } else if !figures.fills() {
            self.time += change * falls;
        }
    }
}

impl Suspicion {
    /// The limit to put in force, if there is too much inside.
    fn judge(&mut self, figures: &Figures, usual: &mut Usual, rate_before: f64) -> Option<Limiting> {
        if figures.time <= usual.bearable() {
            *self = Self::default();
            if !figures.fills() {
                usual.rate += (figures.rate - usual.rate) * (figures.length / USUAL_FALLS).min(1.0);
            }
            return None;
        }
        self.slow += 1;
        let no_fewer = figures.rate >= 0.8 * usual.rate;
        let no_more = self.saturated == 0 || figures.rate <= 1.25 * rate_before;
        let saturated = figures.growth >= 0.5 && no_fewer && no_more;
        self.saturated = if saturated { self.saturated + 1 } else { 0 };
        let filled = match self.spell {
            None if self.slow >= 2 => {
                let Figures { now, inside, time, .. } = *figures;
                self.spell = Some(Spell { begun: now, inside, time });
                false
            }
            None => false,
            Some(spell) => spell.has_filled(figures),
        };
        let aim = figures.inside_for(usual.bearable());
        if figures.inside <= aim.max(2 * LEAST) {
            return None;
        }
        (self.saturated >= 2 || filled).then(|| Limiting::new(figures, usual, rate_before))
    }
}

impl Spell {
    /// Long enough for whatever became slower to have settled, and it has not.
    fn has_filled(&self, figures: &Figures) -> bool {
        let passed = figures.now.saturating_duration_since(self.begun).as_secs_f64();
        passed >= 3.0 * self.time && figures.inside >= self.inside.max(LEAST).saturating_mul(3)
    }
}

impl Limiting {
    /// `rate`: of the window before, if it was the lower one, so that fewer answers are not seen where there are none.
    fn new(figures: &Figures, usual: &Usual, rate: f64) -> Self {
        let limit = figures.inside_for(usual.bearable());
        Self {
            limit,
            since: figures.now,
            quiet: QUIET.max(Duration::try_from_secs_f64(2.0 * usual.time).unwrap_or(QUIET)),
            refused: None,
            settled: false,
            proven: false,
            // Those that are inside now will take longer than those that have ended.
            time_before: figures.time.max(f64::from(figures.inside) / figures.rate.max(f64::MIN_POSITIVE)),
            rate_before: figures.rate.min(rate),
            left: f64::from(limit) / f64::from(figures.inside.max(1)),
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        let last = self.refused.map_or(self.since, |(_, last)| last);
        now.saturating_duration_since(last) >= self.quiet
    }

    /// Adapts the limit; whether it is over with it.
    fn judge(&mut self, figures: &Figures, usual: &mut Usual) -> bool {
        if self.is_idle(figures.now) {
            return true;
        }
        if !self.settled {
            self.settled = figures.settled;
            return false;
        }
        let refuses = self.refused.is_some_and(|(_, last)| last >= figures.begun);
        if refuses && !self.proven {
            let fewer = figures.rate < (1.0 + self.left) / 2.0 * self.rate_before;
            if fewer && figures.time > 0.75 * self.time_before {
                *usual = Usual { time: figures.time, rate: figures.rate };
                return true;
            }
            self.proven = true;
        }
        if figures.time < usual.time {
            usual.follow(figures);
        }
        let bearable = usual.bearable();
        if figures.time > 1.25 * bearable && self.limit > LEAST {
            let limit = figures.inside_for(bearable).min(self.limit - 1).max(LEAST);
            self.left = f64::from(limit) / f64::from(self.limit);
            self.limit = limit;
            (self.time_before, self.rate_before) = (figures.time, figures.rate);
            // A small step shows nothing that chance does not.
            self.proven = self.left > 0.75;
            self.settled = false;
        } else if figures.time < 0.75 * bearable && refuses {
            self.limit = self.limit.saturating_add((self.limit / 8).max(1)).min(u32::MAX - 1);
        }
        false
    }
}
