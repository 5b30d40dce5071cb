//! An application with so many places, requests that come at random moments, and virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::{Range, RangeInclusive},
    time::{Duration, Instant},
};

use super::super::{Admission, Concurrency, Ended};

/// Seconds since the start -> a figure that holds then.
pub(super) type Course<'a> = &'a dyn Fn(f64) -> f64;

/// An application: how many requests it works on at a time, and how long each takes it on average, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Application<'a> {
    pub(super) places: Course<'a>,
    pub(super) takes: Course<'a>,
    pub(super) spread: Spread,
}

/// How the times of an application are distributed, and by which random numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spread {
    /// Each takes exactly as long.
    Exact(u64),
    /// Exponentially.
    Exponential(u64),
}

/// What holds has to hold for each of these.
pub(super) const SPREADS: [Spread; 5] = [
    Spread::Exact(7),
    Spread::Exponential(1),
    Spread::Exponential(3),
    Spread::Exponential(4),
    Spread::Exponential(7),
];

/// Both kinds, by each of these numbers.
pub(super) fn both_of(seeds: RangeInclusive<u64>) -> impl Iterator<Item = Spread> {
    seeds.flat_map(|seed| [Spread::Exact(seed), Spread::Exponential(seed)])
}

/// As many places as there are requests.
pub(super) fn unbounded(_: f64) -> f64 {
    1e9
}

/// What became of a request.
#[derive(Clone, Copy)]
struct Outcome {
    at: f64,
    took: Option<f64>,
    gone: bool,
    not_taken: bool,
}

/// So long a request waits for a connection.
const CONNECT_TIMEOUT: f64 = 1.0;

/// What became of all.
pub(super) struct Outcomes(Vec<Outcome>);

/// Splitmix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between 0 and 1.
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// Exponential with mean 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.uniform() * 0.999_999).ln()
    }
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) enum Load<'a> {
    /// So many requests a second, at random moments, whatever becomes of those before.
    Open(Course<'a>),
    /// The same, of callers that wait for so long and then go away: the application works for them all the same.
    Impatient(Course<'a>, f64),
    /// The same, to an application that has an accept queue for so many; the others wait for a connection, for a second at most.
    Queued(Course<'a>, usize),
    /// Clients, each from its moment on, of which each asks again when it was answered or refused: after so long, on average.
    Closed(&'a [f64], f64),
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks,
    /// The request of this number.
    Answered(usize),
    /// Its caller.
    GoesAway(usize),
    /// It has no connection yet, most likely.
    TakesTooLong(usize),
}

/// Sends `rate` requests a second for so many seconds through a limit that knows nothing at the begin.
pub(super) fn run(rate: Course<'_>, application: Application<'_>, seconds: f64) -> Outcomes {
    put(Load::Open(rate), application, seconds)
}

/// Puts a load on an application for so many seconds, through a limit that knows nothing at the begin.
pub(super) fn put(load: Load<'_>, application: Application<'_>, seconds: f64) -> Outcomes {
    let start = Instant::now();
    let (Spread::Exact(seed) | Spread::Exponential(seed)) = application.spread;
    let mut world = World {
        load,
        application,
        start,
        now: 0.0,
        concurrency: Concurrency::new(start, true),
        random: Random::new(seed),
        outcomes: Vec::new(),
        events: BinaryHeap::new(),
        waiting: VecDeque::new(),
        busy: 0.0,
    };
    match load {
        Load::Open(_) | Load::Impatient(..) | Load::Queued(..) => world.later(0.0, Event::Asks),
        Load::Closed(clients, _) => clients.iter().for_each(|from| world.later(*from, Event::Asks)),
    }
    while let Some(Reverse((at, event))) = world.events.pop() {
        world.now = Duration::from_nanos(u64::try_from(at).unwrap()).as_secs_f64();
        match event {
            Event::Asks if world.now > seconds => {}
            Event::Asks => world.ask(),
            Event::Answered(index) => world.answer(index),
            Event::GoesAway(index) => world.go_away(index),
            Event::TakesTooLong(index) => world.time_out(index),
        }
        world.work();
    }
    Outcomes(world.outcomes)
}

struct World<'a> {
    load: Load<'a>,
    application: Application<'a>,
    start: Instant,
    now: f64,
    concurrency: Concurrency,
    random: Random,
    outcomes: Vec<Outcome>,
    events: BinaryHeap<Reverse<(u128, Event)>>,
    waiting: VecDeque<usize>,
    busy: f64,
}

impl World<'_> {
    fn later(&mut self, after: f64, event: Event) {
        let at = Duration::from_secs_f64(self.now).as_nanos() + Duration::from_secs_f64(after).as_nanos();
        self.events.push(Reverse((at, event)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now)
    }

    fn ask(&mut self) {
        if let Load::Open(rate) | Load::Impatient(rate, _) | Load::Queued(rate, _) = self.load {
            let pause = self.random.exponential() / rate(self.now);
            self.later(pause, Event::Asks);
        }
        let index = self.outcomes.len();
        self.outcomes.push(Outcome { at: self.now, took: None, gone: false, not_taken: false });
        if matches!(self.concurrency.admit(self.instant()), Admission::Refused { .. }) {
            self.ask_again();
            return;
        }
        self.waiting.push_back(index);
        match self.load {
            Load::Impatient(_, patience) => self.later(patience, Event::GoesAway(index)),
            Load::Queued(..) => self.later(CONNECT_TIMEOUT, Event::TakesTooLong(index)),
            Load::Open(_) | Load::Closed(..) => {}
        }
    }

    fn ask_again(&mut self) {
        if let Load::Closed(_, pause) = self.load {
            let pause = 0.001 + pause * self.random.exponential();
            self.later(pause, Event::Asks);
        }
    }

    fn answer(&mut self, index: usize) {
        self.busy -= 1.0;
        let outcome = &mut self.outcomes[index];
        if !outcome.gone {
            let took = self.now - outcome.at;
            outcome.took = Some(took);
            self.concurrency.end(self.instant(), Ended::Answered(Duration::from_secs_f64(took)));
            self.ask_again();
        }
    }

    fn go_away(&mut self, index: usize) {
        let outcome = &mut self.outcomes[index];
        if outcome.took.is_none() {
            outcome.gone = true;
            let waited = Duration::from_secs_f64(self.now - outcome.at);
            self.concurrency.end(self.instant(), Ended::GivenUp(waited));
        }
    }

    fn time_out(&mut self, index: usize) {
        let Load::Queued(_, room) = self.load else { return };
        // The numbers of those that wait go up.
        if let Ok(place) = self.waiting.binary_search(&index)
            && place >= room
        {
            self.waiting.remove(place);
            self.outcomes[index].not_taken = true;
            let waited = Duration::from_secs_f64(CONNECT_TIMEOUT);
            self.concurrency.end(self.instant(), Ended::NotTaken(waited));
        }
    }

    fn work(&mut self) {
        while self.busy < (self.application.places)(self.now)
            && let Some(index) = self.waiting.pop_front()
        {
            self.busy += 1.0;
            let factor = match self.application.spread {
                Spread::Exact(_) => 1.0,
                Spread::Exponential(_) => self.random.exponential(),
            };
            let takes = (self.application.takes)(self.now) * factor;
            self.later(takes, Event::Answered(index));
        }
    }
}

impl Outcome {
    fn is_refused(&self) -> bool {
        self.took.is_none() && !self.gone && !self.not_taken
    }
}

impl Outcomes {
    fn during(&self, span: &Range<f64>) -> impl Iterator<Item = &Outcome> {
        let span = span.clone();
        self.0.iter().filter(move |outcome| span.contains(&outcome.at))
    }

    /// Requests refused of those that came then.
    pub(super) fn refused(&self, span: Range<f64>) -> usize {
        self.during(&span).filter(|outcome| outcome.is_refused()).count()
    }

    /// Requests that the application did not take, of those that came then.
    pub(super) fn not_taken(&self, span: Range<f64>) -> usize {
        self.during(&span).filter(|outcome| outcome.not_taken).count()
    }

    /// Part of them that was refused.
    pub(super) fn share_refused(&self, span: Range<f64>) -> f64 {
        let all = self.during(&span).count();
        f64::from(u32::try_from(self.refused(span)).unwrap()) / f64::from(u32::try_from(all).unwrap())
    }

    /// Requests answered then, per second, whenever they came.
    pub(super) fn answered(&self, span: Range<f64>) -> f64 {
        let ends = self.0.iter().filter_map(|outcome| outcome.took.map(|took| outcome.at + took));
        f64::from(u32::try_from(ends.filter(|end| span.contains(end)).count()).unwrap())
            / (span.end - span.start)
    }

    /// When one was refused first.
    pub(super) fn first_refused(&self) -> Option<f64> {
        self.0.iter().find(|outcome| outcome.is_refused()).map(|outcome| outcome.at)
    }

    /// How long 99 of 100 of those that were served took at most, seconds.
    pub(super) fn p99(&self, span: Range<f64>) -> f64 {
        let mut took: Vec<_> = self.during(&span).filter_map(|outcome| outcome.took).collect();
        took.sort_by(f64::total_cmp);
        took.get(took.len() * 99 / 100).copied().unwrap_or_default()
    }
}
