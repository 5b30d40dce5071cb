//! A delay in one place, and what it does to the phases: requests with the delay and requests without are made in turn, so
//! that whatever else the machine does happens to both.
//!
//! What else it does comes by the time slice, and a slice is longer than what may be moved. But a delay that is charged to
//! the wrong phase moves all that is measured there, the least and the median alike; somebody else's slices seldom move
//! both, so the one that moved less tells. A thread that has just slept gets its next slice in another way than one that
//! has not, and that is none of the sidecars' doing: so requests without the delay stop at the same place, for a moment,
//! which is subtracted like the delay. And where the machine puts a thread it tends to stay: so part of the requests goes
//! through other threads.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger_core::telemetry::{Phase, PhaseTimes};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::support::log::{self, Line};

/// How long a request is held up on purpose. Real time: it is what is measured.
pub(super) const DELAY: Duration = Duration::from_millis(60);
/// How long one is that is said not to be: long enough for a thread to sleep.
const MOMENT: Duration = Duration::from_millis(10);
/// How often there are other threads, and how often each request is made on them.
const STAGES: usize = 3;
const REPETITIONS: usize = 5;
/// Before each request, so that all of them find the machine equally cold.
pub(super) const REST: Duration = Duration::from_millis(10);
/// Requests where no delay is measured.
pub(super) const SEVERAL: usize = 5;
/// What the delay may do to any other phase (SEMANTICS F.4).
pub(super) const ELSEWHERE: Duration = Duration::from_millis(1);

/// A place at which the next one who comes by is held up, once.
#[derive(Debug, Default)]
pub(super) struct Delay {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Duration>,
    spent: Duration,
    ended: Option<Instant>,
}

impl Delay {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The next one waits so long.
    pub(super) fn set(&self, wanted: Duration) {
        *self.state.lock() = State { wanted: Some(wanted), ..State::default() };
    }

    /// What it is to be, for somebody who sees to it by other means.
    pub(super) fn take(&self) -> Option<Duration> {
        self.state.lock().wanted.take()
    }

    /// Whether somebody is to be held up.
    pub(super) fn is_set(&self) -> bool {
        self.state.lock().wanted.is_some()
    }

    /// Waits, if it is to.
    pub(super) async fn spend(&self) {
        let Some(wanted) = self.take() else {
            return;
        };
        self.begun.notify_one();
        let began = Instant::now();
        sleep(wanted).await;
        let ended = Instant::now();
        let mut state = self.state.lock();
        state.ended = Some(ended);
        state.spent = ended - began;
    }

    /// Somebody has come by.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// When whoever was held up went on.
    pub(super) fn ended(&self) -> Instant {
        self.state.lock().ended.unwrap()
    }

    /// So long it was, as far as can be seen from here.
    pub(super) fn note(&self, spent: Duration) {
        self.state.lock().spent = spent;
    }

    fn spent(&self) -> Duration {
        self.state.lock().spent
    }
}

/// One request's time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) total: Duration,
    pub(super) phases: PhaseTimes,
}

impl Times {
    /// Of the request that is called so.
    pub(super) async fn of(request_id: &str) -> Self {
        let line = log::line(&[("request_id", request_id), ("direction", "outbound")]).await;
        Self::read(&line)
    }

    pub(super) fn read(line: &Line) -> Self {
        let micros = |text: &str| Duration::from_micros(text.parse().unwrap());
        let named = |(name, time): (&str, &str)| {
            let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == name).unwrap();
            (phase, micros(time))
        };
        let phases =
            line["phases_us"].split_terminator(' ').map(|phase| named(phase.split_once('=').unwrap()));
        let times = Self { total: micros(&line["duration_us"]), phases: phases.collect() };
        assert!(times.phases.sum() <= times.total, "{line:?}");
        times
    }

    pub(super) fn get(&self, phase: Phase) -> Duration {
        self.phases.get(phase)
    }

    /// Each phase, and what none of them accounts for; microseconds.
    fn parts(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let unexplained = self.total - self.phases.sum();
        let phases = self.phases;
        Phase::ALL
            .into_iter()
            .map(move |phase| (phase.as_str(), phases.get(phase)))
            .chain([("unexplained", unexplained)])
            .map(|(part, time)| (part, micros(time)))
    }
}

/// What no other request of this process is called.
pub(super) fn unused_id() -> String {
    static USED: AtomicU64 = AtomicU64::new(0);
    format!("timed-{}", USED.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap()
}

fn median(values: &[i64]) -> i64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[values.len() / 2]
}

fn least(values: &[i64]) -> i64 {
    values.iter().copied().min().unwrap()
}

/// By how much all of `before` moved to become `after`.
pub(super) fn moved(before: &[i64], after: &[i64]) -> i64 {
    let (least, median) = (least(after) - least(before), median(after) - median(before));
    if least.signum() == median.signum() { least.signum() * least.abs().min(median.abs()) } else { 0 }
}

/// The times of many requests, part by part.
#[derive(Default)]
pub(super) struct Measured(BTreeMap<&'static str, Vec<i64>>);

impl Measured {
    /// The least of a phase.
    pub(super) fn least(&self, phase: Phase) -> Duration {
        self.part(phase.as_str())
    }

    /// The median of what each request spent in `phases` together.
    pub(super) fn together(&self, phases: &[Phase]) -> Duration {
        let times: Vec<&Vec<i64>> = phases.iter().map(|phase| &self.0[phase.as_str()]).collect();
        let sums: Vec<i64> =
            (0..SEVERAL).map(|number| times.iter().map(|times| times[number]).sum()).collect();
        Duration::from_micros(median(&sums).try_into().unwrap())
    }

    /// The least that no phase accounts for.
    pub(super) fn unexplained(&self) -> Duration {
        self.part("unexplained")
    }

    fn part(&self, part: &str) -> Duration {
        Duration::from_micros(least(&self.0[part]).try_into().unwrap())
    }

    /// Without what was `spent` in a phase on purpose.
    fn add(&mut self, times: &Times, spent: Option<(Phase, Duration)>) {
        for (part, time) in times.parts() {
            let spent =
                spent.filter(|(phase, _)| phase.as_str() == part).map_or(0, |(_, spent)| micros(spent));
            self.0.entry(part).or_default().push(time - spent);
        }
    }
}

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.0.iter().map(|(part, times)| (part, (least(times), median(times))));
        f.debug_map().entries(entries).finish()
    }
}

/// Makes a few requests, each called as it is told.
pub(super) async fn several(mut request: impl AsyncFnMut(&str)) -> Measured {
    let mut measured = Measured::default();
    for _ in 0..SEVERAL {
        let id = unused_id();
        request(&id).await;
        measured.add(&Times::of(&id).await, None);
    }
    measured
}

/// Holds the phases to the truth: the delay is in `delayed`, within 5 % and a millisecond, and moves nothing else by more
/// than a millisecond. `part` starts two sidecars, and lets the trial run over them.
pub(super) async fn truth(delayed: Phase, mut part: impl AsyncFnMut(&mut Trial)) {
    let mut trial = Trial { delayed, with: Measured::default(), without: Measured::default() };
    for _ in 0..STAGES {
        Box::pin(part(&mut trial)).await;
    }
    trial.judge();
}

/// See [`truth`].
pub(super) struct Trial {
    delayed: Phase,
    with: Measured,
    without: Measured,
}

impl Trial {
    /// Makes the same request with `delay` and without, by turns. `request` makes one that is called as it is told.
    pub(super) async fn run(&mut self, delay: &Delay, mut request: impl AsyncFnMut(&str)) {
        let delayed = self.delayed;
        let mut once = async |wanted: Duration, measured: &mut Measured| {
            sleep(REST).await;
            let id = unused_id();
            delay.set(wanted);
            request(&id).await;
            let spent = delay.spent();
            assert!(spent + DELAY / 2 >= wanted, "held up for {spent:?}, and not for {wanted:?}");
            measured.add(&Times::of(&id).await, Some((delayed, spent)));
        };
        once(MOMENT, &mut Measured::default()).await;
        for _ in 0..REPETITIONS {
            once(MOMENT, &mut self.without).await;
            once(MOMENT + DELAY, &mut self.with).await;
        }
    }

    fn judge(&self) {
        let Self { delayed, with, without } = self;
        for (part, times) in &with.0 {
            let within = if *part == delayed.as_str() { DELAY / 20 + ELSEWHERE } else { ELSEWHERE };
            let moved = moved(&without.0[part], times);
            assert!(
                moved.abs() <= micros(within),
                "{part} moved by {moved} us beside the delay in {delayed}, least and median: with it {with:?}, without {without:?}"
            );
        }
    }
}

#[test]
fn what_moves_all_requests_is_seen_and_what_moves_some_of_them_is_not() {
    let before = [10, 900, 30, 2000, 20];
    assert_eq!(moved(&before, &before.map(|time| time + 1500)), 1500);
    assert_eq!(moved(&before, &before.map(|time| time - 5)), -5);
    assert_eq!(moved(&before, &[10, 900, 3030, 2000, 3020]), 0);
    assert_eq!(moved(&before, &[1500, 1600, 40, 30, 1550]), 20);
}
