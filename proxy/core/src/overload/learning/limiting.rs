//! A limit that is in force: whether it does what it is for, and how much it has to be.

use std::time::{Duration, Instant};

use super::{
    super::concurrency::LEAST,
    ENDS, Figures, SLOW_TIMES, Usual, WAIT,
    looking::{Look, Looking},
};

/// A limit goes when nothing was refused for so long, and for twice as long as a request usually takes.
const QUIET: Duration = Duration::from_secs(1);
/// Refusing has lasted after it.
const LASTING: Duration = Duration::from_secs(1);
/// The first limit leaves what is inside alone, and a part of it more, for chance. It refuses what the application does not
/// answer anyhow, and costs nothing where it was a mistake.
const SLACK: u32 = 8;
/// Where so many times fewer answers come than before, or as many times more, something else has changed: it is looked at anew.
const OTHER: f64 = 0.5;
/// So many refused, for one that is answered, are more than chance; after so long, fewer are.
const MORE: f64 = 0.1;
const LONG: Duration = Duration::from_secs(5);
/// So many of those that ended were given up: what it did was for others that were, too.
const ALL_GONE: f64 = 0.9;
/// Later than so many times what can be borne, the limit is lowered.
const LATE: f64 = 1.25;
/// A lower limit leaves so much of what is inside at least.
const LOWER: u32 = 6;

#[derive(Debug)]
pub(super) struct Limiting {
    limit: u32,
    since: Instant,
    /// It goes when nothing was refused for so long.
    quiet: Duration,
    /// What was refused first, and last.
    refused: Option<(Instant, Instant)>,
    settled: Settled,
    proof: Proof,
    /// Callers were seen to go away.
    impatient: bool,
    /// Most of them were, or were not taken, and that is all that is known; so many answers a second came then.
    of_gone: Option<f64>,
    /// The application was seen to have no room for connections: whoever waits for one does not wait for long.
    not_taken: bool,
    looking: Looking,
}

/// How far what was there before is gone.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Settled {
    No,
    /// No more are inside than may be, since then. Those have come before.
    Since(Instant),
    /// One that came later has ended.
    Flushed,
}

/// What is known of it.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// It only holds what is inside; so many answers a second came before.
    First { rate: f64 },
    /// It is lower than what was inside by far, and has to help.
    Due(Before),
    /// It does what it is for; so many answers a second come, about.
    Given { rate: f64 },
}

/// What held before a limit was lowered, and which part of the rate is left if what was inside did not wait for a place.
#[derive(Debug, Clone, Copy)]
struct Before {
    time: f64,
    rate: f64,
    left: f64,
}

impl Limiting {
    /// `rate`: answers per second, before.
    pub(super) fn new(figures: &Figures, usual: &Usual, rate: f64) -> Self {
        Self {
            limit: figures.inside.saturating_add(figures.inside / SLACK).clamp(LEAST, u32::MAX - 1),
            since: figures.now,
            quiet: QUIET.max(Duration::try_from_secs_f64(2.0 * usual.time).unwrap_or(QUIET)),
            refused: None,
            settled: Settled::Flushed,
            proof: Proof::First { rate },
            impatient: figures.is_impatient(),
            of_gone: None,
            not_taken: figures.not_taken > 0.0,
            looking: Looking::new(),
        }
    }

    /// Of an application most of whose callers go away: what there is to do for those it hardly answers is no matter, and what it does for
    /// the others is not known.
    pub(super) fn of_gone(figures: &Figures, usual: &Usual) -> Self {
        let mut limiting = Self::new(figures, usual, figures.rate);
        limiting.limit = figures.inside_for(limiting.bearable(usual));
        let left = f64::from(limiting.limit) / f64::from(figures.inside.max(1));
        limiting.proof = Proof::Due(Before { time: figures.time, rate: figures.rate, left: left.min(0.9) });
        limiting.settled = Settled::No;
        limiting.of_gone = Some(figures.rate);
        limiting
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// It is one that only holds what is inside.
    fn is_first(&self) -> bool {
        matches!(self.proof, Proof::First { .. })
    }

    /// How many ends tell what it does, after which part of the time that a request takes.
    pub(super) fn needs(&self) -> (f64, f64) {
        let ends = f64::from(ENDS);
        match (self.settled, self.proof) {
            (Settled::Flushed, Proof::First { .. }) => (ends, 0.0),
            (Settled::Flushed, Proof::Given { .. }) => (ends, 1.0),
            // The less it lowers the rate where it is a mistake, the more it takes to tell that from chance.
            (Settled::Flushed, Proof::Due(before)) => {
                ((4.0 / (1.0 - before.left)).powi(2).clamp(ends, 20.0 * ends), 1.0)
            }
            // Until then, only far fewer answers tell anything.
            (Settled::No | Settled::Since(_), _) => (4.0 * ends, 0.0),
        }
    }

    /// An end after which so many are `inside`; whether it is the first of those that tell what the limit does.
    pub(super) fn settles(&mut self, now: Instant, inside: u32, took: Duration) -> bool {
        match self.settled {
            Settled::No if inside <= self.limit => self.settled = Settled::Since(now),
            Settled::Since(since) if now.saturating_duration_since(since) >= took => {
                self.settled = Settled::Flushed;
                return true;
            }
            Settled::No | Settled::Since(_) | Settled::Flushed => {}
        }
        false
    }

    /// A request found it reached. `None`: it has had no work for a while; else whether requests have been refused for a second.
    pub(super) fn refuse(&mut self, now: Instant) -> Option<bool> {
        if self.is_idle(now) {
            return None;
        }
        let (first, _) = self.refused.unwrap_or((now, now));
        self.refused = Some((first, now));
        Some(now.saturating_duration_since(first) >= LASTING)
    }

    fn is_idle(&self, now: Instant) -> bool {
        // Where a little too much comes, it takes its time until as many are inside as may be.
        let long = self.quiet.max(LONG);
        let quiet = if self.looking.is_trying() { long } else { self.quiet };
        let (last, quiet) = self.refused.map_or((self.since, long), |(_, last)| (last, quiet));
        now.saturating_duration_since(last) >= quiet
    }

    /// Adapts the limit; whether it is over with it.
    pub(super) fn judge(&mut self, figures: &Figures, usual: &mut Usual) -> bool {
        self.impatient |= figures.is_impatient();
        self.not_taken |= figures.not_taken > 0.0;
        if self.is_idle(figures.now) || self.is_other(figures) {
            return true;
        }
        if self.settled != Settled::Flushed {
            return false;
        }
        // Whoever does not take all that may be inside has as much to do as without a limit.
        let has_more = figures.not_taken > 0.0;
        match self.proof {
            Proof::First { .. } => {
                let long = figures.now.saturating_duration_since(self.since) >= LONG;
                // Those that are not taken are never more inside than come while one waits: it has nothing to refuse then.
                if figures.refused >= MORE || figures.not_taken >= MORE || long && figures.refused > 0.0 {
                    self.lower(figures, self.bearable(usual));
                }
                return false;
            }
            // What there was to do before takes everything still.
            Proof::Due(_) if figures.gone >= ALL_GONE && self.of_gone.is_none() => return false,
            Proof::Due(before) if figures.refused > 0.0 => {
                let fewer = figures.rate < (1.0 + before.left) / 2.0 * before.rate;
                if fewer && figures.time > 0.75 * before.time && !has_more {
                    return self.was_mistaken(figures, usual);
                }
                self.proof = Proof::Given { rate: figures.rate };
            }
            Proof::Due(_) => {}
            Proof::Given { rate } => self.proof = Proof::Given { rate: rate + 0.3 * (figures.rate - rate) },
        }
        if self.does_less(figures) && figures.refused >= MORE && !has_more {
            return self.was_mistaken(figures, usual);
        }
        if figures.time < usual.time {
            usual.follow(figures);
        }
        let bearable = self.bearable(usual);
        if !self.looks(figures, bearable) {
            self.adapt(figures, usual, bearable);
        }
        false
    }

    /// Far fewer are answered than were while most were gone.
    fn does_less(&self, figures: &Figures) -> bool {
        let (rate, left) = match self.proof {
            // By a few answers only, it would be taken for one sooner or later.
            Proof::Given { rate } if self.not_taken => (rate, 0.5),
            _ => (figures.rate, 0.6),
        };
        self.of_gone.is_some_and(|before| rate < left * before)
    }

    /// Sees whether a longer line would do; whether the limit is to stay as it is then.
    fn looks(&mut self, figures: &Figures, bearable: f64) -> bool {
        // The line is as long as it should be, and whoever stands in it waits.
        let ready = matches!(self.proof, Proof::Given { .. }) && figures.time <= LATE * bearable;
        if self.impatient || self.not_taken || !ready && !self.looking.is_trying() {
            return false;
        }
        match self.looking.judge(figures, self.limit) {
            Look::Away => return false,
            Look::On => {}
            Look::Put(limit) => {
                self.settled = if limit < self.limit { Settled::No } else { Settled::Flushed };
                self.limit = limit;
            }
        }
        true
    }

    fn bearable(&self, usual: &Usual) -> f64 {
        let bearable = usual.bearable(self.impatient);
        match (self.not_taken, self.impatient) {
            (true, _) => bearable.min(usual.time + WAIT),
            (false, true) => bearable,
            (false, false) => bearable * self.looking.times(),
        }
    }

    /// What was inside was not waiting for a place: it is usual, more or less. It is over.
    fn was_mistaken(&self, figures: &Figures, usual: &mut Usual) -> bool {
        let time = if self.of_gone.is_some() { figures.time } else { figures.time / SLOW_TIMES };
        *usual = Usual { time: usual.time.max(time), rate: figures.rate };
        true
    }

    /// Requests are to take what can be borne, about.
    fn adapt(&mut self, figures: &Figures, usual: &Usual, bearable: f64) {
        if figures.time > LATE * bearable && self.limit > LEAST {
            self.lower(figures, bearable);
        } else if figures.not_taken > 0.0 {
            // Some wait in vain for all that: a shorter line, but for those that are worked on.
            let shorter = self.limit.saturating_sub(self.limit / 8);
            self.limit = shorter.max(figures.inside_for(usual.time)).min(self.limit);
        } else if figures.time < 0.75 * bearable && figures.refused > 0.0 {
            self.limit = self.limit.saturating_add((self.limit / 8).max(1)).min(u32::MAX - 1);
        }
    }

    /// It answers many more than before, or fewer, and it is not for the limit.
    fn is_other(&self, figures: &Figures) -> bool {
        if self.of_gone.is_some() {
            // It is to answer many more.
            return false;
        }
        let (rate, settled) = match self.proof {
            Proof::First { rate } => (rate, false),
            Proof::Due(before) => (before.rate, self.settled == Settled::Flushed),
            Proof::Given { .. } => return false,
        };
        // What it does when less is inside is looked at more closely; and those whose callers go away were done as well.
        let fewer = !settled && !figures.is_impatient() && figures.rate < OTHER * rate;
        let taken = f64::from(figures.ends) * (1.0 - figures.not_taken);
        taken >= f64::from(4 * ENDS) && (fewer || figures.rate > rate / OTHER)
    }

    /// To what is inside when a request takes what it may, in steps that can be taken back.
    fn lower(&mut self, figures: &Figures, bearable: f64) {
        let least = figures.inside_for(bearable).max(self.limit / LOWER);
        let limit = least.min(self.limit.saturating_sub(1)).max(LEAST);
        let left = f64::from(limit) / f64::from(self.limit.max(1));
        // Those that are inside now will take longer than those that have ended.
        let time = figures.time.max(f64::from(figures.inside) * figures.length / f64::from(figures.ends));
        // A small step shows nothing that chance does not.
        let shows = self.of_gone.is_none() && (left <= 0.75 || self.is_first());
        // The lower rate, so that fewer answers are not seen where there are none; but not of a few answers.
        let rate = match self.proof {
            Proof::First { rate } | Proof::Given { rate } if figures.ends >= ENDS => rate.min(figures.rate),
            Proof::First { rate } | Proof::Given { rate } => rate,
            Proof::Due(_) => figures.rate,
        };
        self.proof = if shows { Proof::Due(Before { time, rate, left }) } else { Proof::Given { rate } };
        self.limit = limit;
        self.settled = Settled::No;
    }
}
