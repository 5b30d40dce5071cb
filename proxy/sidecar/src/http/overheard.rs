//! Hears what the parser of HTTP/2 says to nobody: that it reset a stream, and why it ended a connection. It writes that
//! to its own log only, at a level that is off.
//!
//! Of that log exactly those places are switched on that speak of a refusal; no frame of a request that is in order passes
//! one. What is said there while a connection is polled is about that connection, and is told when the poll is over: the
//! parser holds locks until then.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Debug, Write as _},
    future::poll_fn,
    pin::pin,
};

use outrigger_process::logging::EventLayer;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, LevelFilter},
    layer::Context,
    registry::LookupSpan,
};

use super::refusal::{Ended, Fault, Refusal, Said, gist, understand};

/// Bytes of a message that are looked at; a peer decides how long some are.
const MOST: usize = 120;

/// Refusals of one kind during one poll.
#[derive(Debug)]
pub(crate) struct Overheard {
    pub(crate) refusal: Refusal,
    /// So many.
    pub(crate) times: u32,
    /// How the parser puts it, without what the peer said: of the first of them.
    pub(crate) words: String,
}

#[cfg(test)]
impl Overheard {
    /// One of them.
    pub(crate) fn sample() -> Self {
        let refusal = Refusal { ended: Ended::Stream, fault: Fault::MalformedHead };
        Self { refusal, times: 1, words: String::new() }
    }
}

/// Whether a connection is polled on this thread, and something was said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ear {
    Shut,
    Open,
    Full,
}

/// What was said.
struct Heard {
    kinds: [Option<Overheard>; Refusal::KINDS],
    /// Why the connection is about to end.
    cause: Option<(Fault, String)>,
}

thread_local! {
    static EAR: Cell<Ear> = const { Cell::new(Ear::Shut) };
    static HEARD: RefCell<Heard> = const { RefCell::new(Heard::new()) };
}

/// What the data path hears of its parser, without which it cannot tell what that refused. For whatever collects the
/// events of this process.
pub fn refusals() -> EventLayer {
    Box::new(listening())
}

fn listening<S>() -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'span> LookupSpan<'span> + 'static,
{
    Listening.with_filter(FilterFn::new(speaks_of_refusals).with_max_level_hint(LevelFilter::DEBUG))
}

/// Whether what is said at a place may be a refusal. Those that every frame passes have the frame in a field of its own.
fn speaks_of_refusals(place: &Metadata<'_>) -> bool {
    let mut fields = place.fields().iter().map(|field| field.name());
    place.is_event()
        && *place.level() <= Level::DEBUG
        && place.target().starts_with("h2::")
        && fields.all(|name| name == "message" || name == "error")
}

/// Runs a connection, and tells what its parser refuses meanwhile.
pub(crate) async fn overhear<F: Future>(connection: F, mut tell: impl FnMut(&Overheard)) -> F::Output {
    let mut connection = pin!(connection);
    // It says of its end more than once.
    let mut over = false;
    poll_fn(|cx| {
        let listening = Ears::open();
        let polled = connection.as_mut().poll(cx);
        if let Some(heard) = listening.shut() {
            for overheard in heard.into_iter().flatten() {
                let ends = overheard.refusal.ended == Ended::Connection;
                if !(ends && over) {
                    tell(&overheard);
                }
                over |= ends;
            }
        }
        polled
    })
    .await
}

/// This thread listens for a connection for as long as there is one of these. A poll may panic: what was said in it is not
/// said of the connection that is polled next.
struct Ears;

impl Ears {
    fn open() -> Self {
        EAR.set(Ear::Open);
        Self
    }

    /// What was heard, if anything.
    fn shut(&self) -> Option<[Option<Overheard>; Refusal::KINDS]> {
        let full = EAR.replace(Ear::Shut) == Ear::Full;
        full.then(|| HEARD.with_borrow_mut(Heard::take))
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let _of_no_use = self.shut();
    }
}

impl Heard {
    const fn new() -> Self {
        Self { kinds: [const { None }; Refusal::KINDS], cause: None }
    }

    fn take(&mut self) -> [Option<Overheard>; Refusal::KINDS] {
        std::mem::replace(self, Self::new()).kinds
    }

    fn note(&mut self, sentence: &Sentence) {
        let words = sentence.message.0.as_str();
        match understand(words) {
            Some(Said::Reset(fault)) => self.add(Refusal { ended: Ended::Stream, fault }, gist(words)),
            Some(Said::Cause(fault)) => self.cause = Some((fault, gist(words).to_owned())),
            Some(Said::End) if !self.has_ended() => {
                let Some(fault) = Fault::of_end(&sentence.error.0) else {
                    return;
                };
                let (fault, words) =
                    self.cause.take().unwrap_or_else(|| (fault, "no cause given".to_owned()));
                self.add(Refusal { ended: Ended::Connection, fault }, &words);
            }
            Some(Said::End) | None => {}
        }
    }

    fn has_ended(&self) -> bool {
        self.kinds.iter().flatten().any(|overheard| overheard.refusal.ended == Ended::Connection)
    }

    fn add(&mut self, refusal: Refusal, words: &str) {
        let Some(kind) = self.kinds.get_mut(refusal.place()) else {
            return;
        };
        let overheard = kind.get_or_insert_with(|| Overheard { refusal, times: 0, words: words.to_owned() });
        overheard.times = overheard.times.saturating_add(1);
    }
}

struct Listening;

impl<S: Subscriber> Layer<S> for Listening {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if EAR.get() == Ear::Shut {
            return;
        }
        let mut sentence = Sentence::default();
        event.record(&mut sentence);
        let noted = HEARD.try_with(|heard| heard.try_borrow_mut().map(|mut heard| heard.note(&sentence)));
        if matches!(noted, Ok(Ok(()))) {
            EAR.set(Ear::Full);
        }
    }
}

/// What is said at one place.
#[derive(Default)]
struct Sentence {
    message: Words,
    error: Tail,
}

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _cut_short = match field.name() {
            "message" => write!(self.message, "{value:?}").is_err(),
            _ => write!(self.error, "{value:?}").is_err(),
        };
    }
}

/// The first [`MOST`] bytes of what is written; an error says that there was more.
#[derive(Default)]
struct Words(String);

impl fmt::Write for Words {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = more.floor_char_boundary(MOST.saturating_sub(self.0.len()));
        let (taken, left) = more.split_at(room);
        self.0.push_str(taken);
        if left.is_empty() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The last [`MOST`] bytes of what is written.
#[derive(Default)]
struct Tail(String);

impl fmt::Write for Tail {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.0.push_str(more);
        let left = self.0.ceil_char_boundary(self.0.len().saturating_sub(MOST));
        self.0.replace_range(..left, "");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
