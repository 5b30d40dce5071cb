//! What the ends of requests say about how much their application can do.
//!
//! ```text
//! ends -> windows of 24 and more -> fuller and fuller, waits longer and longer, and they are long -> limit at what is inside
//!                                -> most callers go away before they are answered                 -> lower limit
//!                                -> it has no room for connections, and answers others             -> lower limit
//! limit at what is inside -> answers come by far fewer              -> it was not that: none
//!                         -> still more come than are answered      -> lower limit
//! lower limit             -> fewer answers, and none of them sooner -> it was not that: none
//!                         -> otherwise it was: more or fewer, until they take what they may
//!                         -> and much is refused, for long          -> a longer line, for a try
//! a longer line           -> as much is refused                     -> as it was
//!                         -> less is refused: its callers wait      -> it stays, and longer ones are tried
//! nothing refused for a second                                      -> none
//! no room for connections, and nothing that it had ends: it hangs    -> none
//! ```
//!
//! Latency alone is no sign: an application may be slow because it waits for others, and would take ten times as much. What
//! tells overload apart is that more and more is inside and no more comes out. Times are seconds, rates are per second.

mod limiting;
mod looking;
mod suspicion;

use std::time::{Duration, Instant};

use self::{limiting::Limiting, suspicion::Suspicion};
use super::concurrency::LEAST;

/// So many ends make a window; where they come slowly, fewer after a second.
const ENDS: u32 = 24;
const FEW_ENDS: u32 = 8;
const SLOW_WINDOW: f64 = 1.0;
/// So many tell what is usual.
const CALM_ENDS: u32 = 16;
/// A window is at least this long; longer ones tell whether a limit helps.
const WINDOW: f64 = 0.05;
const PROOF_WINDOW: f64 = 0.2;
/// Nobody is refused while answers take less, unless callers go away before: as long as a busy machine, a pause of a collector or a
/// cold cache may delay them at any time, and less than callers use to wait.
const WAIT: f64 = 0.5;
/// Slow: longer than so many times what is usual, and by so much longer.
const SLOW_TIMES: f64 = 3.0;
const SLOW_BY: f64 = 0.02;
/// Callers of so many of those that ended have gone away before: they do not wait for as long as [`WAIT`].
const IMPATIENT: f64 = 0.25;
/// Of whoever has no room for connections no request that it had ends for so long (three times the usual time, if that is longer): it is
/// not busy. By chance that happens to one that answers a few in a second; its limit comes back.
const SILENCE: f64 = 1.0;
/// What is usual doubles in so long at most, when answers come slower; when they come faster, it follows in so long.
const USUAL_RISES: f64 = 30.0;
const USUAL_FALLS: f64 = 2.0;
/// Fewer answers, while they are slow, are usual after so long.
const USUAL_FORGETS: f64 = 10.0;

/// One end of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) took: Duration,
    pub(super) answered: bool,
    /// The application had it.
    pub(super) taken: bool,
}

#[derive(Debug)]
pub(super) struct Learning {
    window: Window,
    knowledge: Knowledge,
    state: State,
    /// When a request last ended that the application had.
    heard: Instant,
}

/// Ends since a moment.
#[derive(Debug)]
struct Window {
    begun: Instant,
    /// Requests inside then.
    inside: u32,
    ends: u32,
    answers: u32,
    not_taken: u32,
    refused: u32,
    seconds: f64,
}

/// What a window says.
#[derive(Debug, Clone, Copy)]
struct Figures {
    now: Instant,
    length: f64,
    ends: u32,
    /// From admission to end, on average.
    time: f64,
    /// Answers per second.
    rate: f64,
    /// Inside at its begin, and at its end.
    before: u32,
    inside: u32,
    /// More than at its begin, by a part of those that ended.
    growth: f64,
    /// Refused, by a part of those that ended.
    refused: f64,
    /// Of those that ended: whose callers did not wait for it any longer.
    gone: f64,
    /// Of those that ended: that it did not take.
    not_taken: f64,
}

/// What is known of an application.
#[derive(Debug, Clone, Copy)]
enum Knowledge {
    Nothing,
    /// Its load has only grown, for so many ends: the quickest window stands for what is usual.
    Growing(u32, Usual),
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

impl Learning {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window: Window::new(now, 0),
            knowledge: Knowledge::Nothing,
            state: State::Open(Suspicion::default()),
            heard: now,
        }
    }

    pub(super) fn limit(&self) -> Option<u32> {
        match &self.state {
            State::Open(_) => None,
            State::Limiting(limiting) => Some(limiting.limit()),
        }
    }

    /// A request found the limit reached. `None`: the limit has had no work for a while, and goes; else whether requests
    /// have been refused for a second.
    pub(super) fn refuse(&mut self, now: Instant) -> Option<bool> {
        let State::Limiting(limiting) = &mut self.state else {
            return None;
        };
        let lasting = limiting.refuse(now);
        if lasting.is_some() {
            self.window.refused = self.window.refused.saturating_add(1);
        } else {
            self.state = State::Open(Suspicion::default());
        }
        lasting
    }

    /// Takes note of an end, after which so many are `inside`.
    pub(super) fn add(&mut self, now: Instant, inside: u32, sample: Sample) {
        let took = sample.took.as_secs_f64();
        if sample.taken {
            self.heard = self.heard.max(now);
        } else if self.is_silent(now) {
            self.state = State::Open(Suspicion::default());
            self.window = Window::new(now, inside);
            return;
        }
        let early = |usual: Usual| took <= if sample.taken { usual.slow() } else { usual.slow().min(WAIT) };
        if !sample.answered && self.usual().is_none_or(early) {
            // Whoever goes away early says nothing of those who wait.
            return;
        }
        if let State::Limiting(limiting) = &mut self.state
            && limiting.settles(now, inside, sample.took)
        {
            self.window = Window::new(now, inside);
        }
        self.window.ends += 1;
        self.window.answers += u32::from(sample.answered);
        self.window.not_taken += u32::from(!sample.taken);
        self.window.seconds += took;
        let Some(figures) = self.figures(now, inside) else {
            return;
        };
        self.learn(&figures);
        self.window = Window::new(now, inside);
    }

    fn is_silent(&self, now: Instant) -> bool {
        let least = self.usual().map_or(SILENCE, |usual| usual.slow().max(SILENCE));
        now.saturating_duration_since(self.heard).as_secs_f64() >= least
    }

    fn usual(&self) -> Option<Usual> {
        match self.knowledge {
            Knowledge::Nothing => None,
            Knowledge::Growing(_, usual) | Knowledge::Usual(usual) => Some(usual),
        }
    }

    /// What the window says, if it is over.
    fn figures(&self, now: Instant, inside: u32) -> Option<Figures> {
        let Window { begun, inside: before, ends, answers, not_taken, refused, seconds } = self.window;
        let length = now.saturating_duration_since(begun).as_secs_f64();
        let time = seconds / f64::from(ends);
        let few = f64::from(ENDS);
        let (least, waits, needs) = match (&self.state, self.knowledge) {
            // What came before a limit still ends for as long as a request takes.
            (State::Limiting(limiting), _) => {
                let (ends, part) = limiting.needs();
                (PROOF_WINDOW, part * time, ends)
            }
            // Those that end soon after load has begun are the quick ones.
            (State::Open(_), Knowledge::Nothing) => (WINDOW, time, few),
            (State::Open(_), Knowledge::Growing(_, usual) | Knowledge::Usual(usual)) => {
                (WINDOW, usual.time.max(time / 4.0), few)
            }
        };
        let full = f64::from(ends) >= needs && length >= waits.max(least);
        let overdue = needs <= few && ends >= FEW_ENDS && length >= waits.max(SLOW_WINDOW);
        if !full && !overdue {
            return None;
        }
        Some(Figures {
            now,
            length,
            ends,
            time,
            rate: f64::from(answers) / length,
            before,
            inside,
            growth: (f64::from(inside) - f64::from(before)) / f64::from(ends),
            refused: f64::from(refused) / f64::from(ends),
            gone: f64::from(ends.saturating_sub(answers).saturating_sub(not_taken)) / f64::from(ends),
            not_taken: f64::from(not_taken) / f64::from(ends),
        })
    }

    /// What is usual is what holds while the load does not grow, nor is limited.
    fn learn(&mut self, figures: &Figures) {
        let Figures { time, rate, ends, .. } = *figures;
        let open = matches!(self.state, State::Open(_));
        // A line of those that it does not take is no longer than they wait.
        let calm = open && figures.not_taken == 0.0 && (!figures.fills() || figures.inside <= LEAST);
        let seen = match self.knowledge {
            Knowledge::Nothing | Knowledge::Usual(_) => ends,
            Knowledge::Growing(before, _) => before.saturating_add(ends),
        };
        self.knowledge = match self.knowledge {
            Knowledge::Usual(mut usual) => {
                self.judge(figures, &mut usual);
                Knowledge::Usual(usual)
            }
            _ if calm && seen >= CALM_ENDS => Knowledge::Usual(Usual { time, rate }),
            Knowledge::Nothing => Knowledge::Growing(seen, Usual { time, rate }),
            Knowledge::Growing(_, quickest) => {
                let mut usual = Usual { time: time.min(quickest.time), rate };
                self.judge(figures, &mut usual);
                Knowledge::Growing(seen, usual)
            }
        };
    }

    fn judge(&mut self, figures: &Figures, usual: &mut Usual) {
        let next = match &mut self.state {
            State::Open(suspicion) => {
                let limiting = suspicion.judge(figures, usual);
                if limiting.is_none() {
                    usual.follow(figures);
                }
                limiting.map(State::Limiting)
            }
            State::Limiting(limiting) => {
                let over = limiting.judge(figures, usual);
                over.then(|| State::Open(Suspicion::default()))
            }
        };
        if let Some(next) = next {
            self.state = next;
        }
    }
}

impl Window {
    fn new(begun: Instant, inside: u32) -> Self {
        Self { begun, inside, ends: 0, answers: 0, not_taken: 0, refused: 0, seconds: 0.0 }
    }
}

impl Figures {
    /// More and more are inside.
    fn fills(&self) -> bool {
        self.growth >= 0.25
    }

    /// Many callers do not wait for as long as [`WAIT`].
    fn is_impatient(&self) -> bool {
        self.gone >= IMPATIENT
    }

    /// As many as are inside when a request takes `time`, at the rate of this window (Little's law).
    fn inside_for(&self, time: f64) -> u32 {
        let whole = Duration::try_from_secs_f64(self.rate * time + 0.5).unwrap_or_default().as_secs();
        u32::try_from(whole).unwrap_or(u32::MAX - 1).max(LEAST)
    }
}

impl Usual {
    /// A request that takes longer is slow.
    fn slow(&self) -> f64 {
        (SLOW_TIMES * self.time).max(self.time + SLOW_BY)
    }

    /// What a request may take before there is too much to do.
    fn bearable(&self, impatient: bool) -> f64 {
        if impatient { self.slow() } else { self.slow().max(WAIT) }
    }

    fn follow(&mut self, figures: &Figures) {
        let falls = (figures.length / USUAL_FALLS).min(0.25);
        let slow = figures.time > self.slow();
        let change = figures.time - self.time;
        if change >= 0.0 {
            self.time = figures.time.min(self.time * (1.0 + figures.length / USUAL_RISES));
        } else if !figures.fills() {
            self.time += change * falls;
        }
        if slow || !figures.fills() {
            let within = if slow { USUAL_FORGETS } else { USUAL_FALLS };
            self.rate += (figures.rate - self.rate) * (figures.length / within).min(1.0);
        }
    }
}
