//! Which part of an application's time it waited for its own calls: one sidecar sees both the requests of a trace that
//! its application works on and the calls of the same trace that the application makes.
//!
//! A request's calls can be told from another one's only while it is the only request of its trace in the application;
//! else what it waited is not known. Nor is it known when a call went out meanwhile that belongs to no request there: an
//! application that does not hand the trace on may have made it for this one. Calls that overlap are waited for once
//! (the union of their intervals). Times are given by the caller; of one trace they should not go backwards, and do no
//! harm if they do.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use http::HeaderValue;

/// Names a trace: `trace-id` of W3C Trace Context.
pub type TraceId = [u8; 16];

/// Traces with requests in the application, of which calls are tied to them; further ones are not.
pub const MAX_TRACES: usize = 4096;

/// So many separate waits of a request are kept one by one, the latest; earlier ones only as their sum.
const SPANS: usize = 4;

/// The trace that a `traceparent` names (W3C Trace Context §3.2). `None` for one that is not valid: version 00 exactly,
/// later ones as far as version 00 reads them.
pub fn trace_id(traceparent: &HeaderValue) -> Option<TraceId> {
    let bytes = traceparent.as_bytes();
    let (version, rest) = bytes.split_first_chunk::<2>()?;
    let (trace, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
    let (parent, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
    let (flags, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<2>()?;
    let whole = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    // Without a branch for each digit: all are read, and what was none shows at the end.
    let hex = |digits: &[u8]| digits.iter().fold(0, |seen, digit| seen | hex_digit(*digit));
    let mut seen = hex(version) | hex(flags) | hex(parent);
    let mut id = TraceId::default();
    for (byte, pair) in id.iter_mut().zip(trace.as_chunks::<2>().0) {
        let [high, low] = pair.map(hex_digit);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    let legal = whole && seen & NO_DIGIT == 0 && parent != &[b'0'; 16];
    (legal && id != TraceId::default()).then_some(id)
}

/// Set in what is not a digit.
const NO_DIGIT: u8 = 0x80;

/// Lower case only (§3.2.2.2).
const fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => NO_DIGIT,
    }
}

/// A stay of a trace's requests in the application, from the first that entered to the last that left. What began in
/// one is not taken for another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    trace: TraceId,
    number: u64,
}

/// The traces with requests in the application.
#[derive(Debug, Default)]
pub struct Traces {
    /// Looked up several times a request: std's hasher would take longer than the rest of it. Keys are chosen by clients; whoever
    /// found some that collide, which needs the seeds of this process, has a chain of [`MAX_TRACES`] at the worst.
    stays: HashMap<TraceId, State, RandomState>,
    /// Counts the stays.
    number: u64,
    /// Counts the calls of no request in the application.
    untied: u64,
    refused: u64,
}

/// One stay.
#[derive(Debug)]
struct State {
    number: u64,
    /// How many untied calls there had been when it began.
    untied: u64,
    requests: u32,
    /// Two requests were in the application at once.
    shared: bool,
    /// Calls under way.
    calls: u32,
    /// Since when there are any.
    since: Option<Instant>,
    waited: Waited,
}

impl Traces {
    /// A request of `trace` is handed to the application. `None`: there is no room for one more trace.
    pub fn enter(&mut self, trace: TraceId) -> Option<Stay> {
        let full = self.stays.len() >= MAX_TRACES;
        let state = match self.stays.entry(trace) {
            Entry::Occupied(state) => {
                let state = state.into_mut();
                state.shared = true;
                state
            }
            Entry::Vacant(_) if full => {
                self.refused = self.refused.saturating_add(1);
                return None;
            }
            Entry::Vacant(place) => {
                self.number = self.number.wrapping_add(1);
                place.insert(State::new(self.number, self.untied))
            }
        };
        state.requests = state.requests.saturating_add(1);
        Some(Stay { trace, number: state.number })
    }

    /// A request that entered is out of the application, whatever became of it.
    pub fn leave(&mut self, stay: Stay) {
        if let Some(state) = self.state(stay) {
            state.requests = state.requests.saturating_sub(1);
            if state.requests == 0 {
                self.stays.remove(&stay.trace);
            }
        }
    }

    /// A call of `trace` goes out. `None`: the application works on no request of that trace, and there is nothing to
    /// [`end`](Self::end).
    pub fn begin(&mut self, trace: TraceId, now: Instant) -> Option<Stay> {
        let Some(state) = self.stays.get_mut(&trace) else {
            self.untied = self.untied.wrapping_add(1);
            return None;
        };
        state.calls = state.calls.saturating_add(1);
        state.since.get_or_insert(now);
        Some(Stay { trace, number: state.number })
    }

    /// A call that began is over, whatever became of it.
    pub fn end(&mut self, stay: Stay, now: Instant) {
        if let Some(state) = self.state(stay) {
            state.calls = state.calls.saturating_sub(1);
            if state.calls == 0
                && let Some(since) = state.since.take()
            {
                state.waited.add(Span { from: since, to: now });
            }
        }
    }

    /// How much of `from..to` the application waited for calls of its own; `None`: not known, since another request of
    /// the trace was in it too, or a call of no request went out. Exact, unless more than four separate waits were
    /// over and the first of them began before `from`: then it may count some of those.
    pub fn waiting(&self, stay: Stay, from: Instant, to: Instant) -> Option<Duration> {
        let state = self.stays.get(&stay.trace).filter(|state| state.number == stay.number)?;
        if state.shared || state.untied != self.untied {
            return None;
        }
        let within = Span { from, to };
        let open = state.since.map_or(Duration::ZERO, |since| Span { from: since, to }.overlap(within));
        Some(state.waited.overlap(within).saturating_add(open).min(within.length()))
    }

    /// Whether no request of any trace is in the application.
    pub fn is_empty(&self) -> bool {
        self.stays.is_empty()
    }

    /// Requests that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn state(&mut self, stay: Stay) -> Option<&mut State> {
        self.stays.get_mut(&stay.trace).filter(|state| state.number == stay.number)
    }
}

impl State {
    fn new(number: u64, untied: u64) -> Self {
        Self { number, untied, requests: 0, shared: false, calls: 0, since: None, waited: Waited::default() }
    }
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Instant,
}

impl Span {
    fn length(self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }

    fn overlap(self, other: Self) -> Duration {
        Self { from: self.from.max(other.from), to: self.to.min(other.to) }.length()
    }
}

/// Waits that are over, in order and apart from each other.
#[derive(Debug, Default)]
struct Waited {
    /// A ring: `next` is the place of the oldest.
    latest: [Option<Span>; SPANS],
    next: usize,
    /// Sum of all earlier ones, and the end of the last of them.
    earlier: Duration,
    earlier_to: Option<Instant>,
}

impl Waited {
    fn add(&mut self, span: Span) {
        if let Some(place) = self.latest.get_mut(self.next)
            && let Some(oldest) = place.replace(span)
        {
            self.earlier = self.earlier.saturating_add(oldest.length());
            self.earlier_to = Some(oldest.to);
        }
        self.next = (self.next + 1) % SPANS;
    }

    fn overlap(&self, within: Span) -> Duration {
        let earlier = self.earlier_to.map_or(Duration::ZERO, |to| {
            self.earlier.min(to.min(within.to).saturating_duration_since(within.from))
        });
        let latest = self.latest.iter().flatten().map(|span| span.overlap(within));
        latest.fold(earlier, Duration::saturating_add)
    }
}

#[cfg(test)]
mod tests;
