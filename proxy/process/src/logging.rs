//! Logs go to standard error, as JSON lines or as text for people. Whoever logs never waits for whoever reads there; whoever panics
//! does, for a tenth of a second.

mod destination;
mod sink;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _, Write as _},
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, FilterFn, LevelFilter},
    fmt,
    layer::{Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

pub use destination::Destination;
pub use sink::Sink;

use crate::settings::Defect;

/// The target of what ends a process: it is logged whatever is filtered.
pub const FATAL: &str = "outrigger_fatal";
/// The target of panics: likewise.
const PANIC: &str = "outrigger_panic";

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// `json` (default) or `text`.
    pub format: Format,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`; default `info`), or levels by target:
    /// `info,outrigger_proxy::pool=debug`.
    pub level: String,
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: Format::Json, level: "info".to_owned() }
    }
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Not a level or filter.
    #[error("'{level}' is not a level (error, warn, info, debug, trace) or a list of target=level")]
    Level {
        /// What was given.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A word that is no level. As a filter it would be a target, and silence everything else.
    #[error(
        "'{word}' is not a level: write error, warn, info, debug, trace or off, or a list of target=level"
    )]
    Word {
        /// Which.
        word: String,
    },
    /// What is logged is written by a thread of its own.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    /// Somebody else logs already.
    #[error("logging has been started already")]
    Started(#[source] tracing_subscriber::util::TryInitError),
}

/// What is wrong with the setting `log.level`, if anything is: for the checks of settings.
pub fn check_level(level: &str) -> Option<Defect> {
    let problem = match filter(level).err()? {
        LoggingError::Word { word } => format!("'{word}' is not a level"),
        LoggingError::Level { level, .. } => format!("'{level}' is not a list of target=level"),
        other @ (LoggingError::Thread(_) | LoggingError::Started(_)) => other.to_string(),
    };
    let remedy =
        "write error, warn, info, debug, trace or off, or a list such as info,outrigger_proxy::pool=debug";
    Some(Defect::new("log.level", problem, remedy))
}

/// Something that takes events beside the log. It has a filter of its own: what it switches on is not logged for that, and
/// what nobody switched on costs nothing.
pub type EventLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Of the process.
static SINK: OnceLock<Sink<()>> = OnceLock::new();
/// So long the last lines may take to be written.
const LAST: Duration = Duration::from_secs(1);
/// The same for what is said of a panic, by the thread that panics.
const PANICS: Duration = Duration::from_millis(100);

/// Held by whoever ends the process: dropped, it waits for the last lines, see [`flush`].
#[derive(Debug)]
#[must_use = "dropped, it waits for the last lines"]
pub struct Flush(());

impl Drop for Flush {
    fn drop(&mut self) {
        flush();
    }
}

/// Waits until what was logged is written, for a second at most. Blocks.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush(LAST);
    }
}

/// Writes `line` to standard error, after what was logged before, for people who have started a process by hand. Waits for whoever reads
/// there as [`flush`] does; blocks.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    match SINK.get() {
        Some(sink) => {
            sink.append(|(), buffer| buffer.extend_from_slice(line.as_bytes()));
            sink.flush(LAST);
        }
        // Nobody is left to tell if it is closed.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Registers what is counted of the log, once it has been started; the names have no prefix but the registry's.
pub fn register(registry: &mut prometheus_client::registry::Registry) {
    registry.register(
        "log_lines_dropped",
        "Lines of the log, but for those of requests, that were dropped because it is read too slowly or cannot be written",
        SINK.get().map(Sink::dropped).unwrap_or_default(),
    );
}

/// A line's way to the thread that writes it.
struct Line(Sink<()>);

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.append(|(), buffer| buffer.extend_from_slice(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging for the whole process, and what is `beside` it.
///
/// # Errors
/// If the level cannot be read, there can be no thread for it, or logging was started before.
pub fn init(logging: &Logging, beside: Option<EventLayer>) -> Result<Flush, LoggingError> {
    let filter = admitted(filter(&logging.level)?);
    let started =
        Sink::start("log", Duration::ZERO, (), Destination::stderr()).map_err(LoggingError::Thread)?;
    let sink = SINK.get_or_init(|| started).clone();
    // Colours are for people.
    let lines = fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(move || Line(sink.clone()));
    let lines: EventLayer = match logging.format {
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed(),
        Format::Text => lines.with_filter(filter).boxed(),
    };
    let layers: Vec<EventLayer> = beside.into_iter().chain([lines]).collect();
    Registry::default().with(layers).try_init().map_err(LoggingError::Started)?;
    panic::set_hook(Box::new(tell_of_panic));
    Ok(Flush(()))
}

/// In place of the standard library's, which waits for whoever reads standard error, however long.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let place = panic.location().map(tracing::field::display);
    // Only if it was asked for, by RUST_BACKTRACE.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then_some(tracing::field::display(&backtrace));
    let message = panic.payload_as_str().unwrap_or("of another kind than a text");
    tracing::error!(target: PANIC, thread = thread.name(), place, backtrace, "panic: {message}");
    // It may be one that ends the process at once.
    if let Some(sink) = SINK.get() {
        sink.flush(PANICS);
    }
}

/// What `asked` lets through, but for what a peer could say at will; and in any case what ends the process, and panics.
fn admitted(asked: EnvFilter) -> impl Filter<Registry> + Send + Sync + 'static {
    let bounded = FilterFn::new(|place: &Metadata<'_>| !is_said_at_will(place));
    let fatal = FilterFn::new(|place: &Metadata<'_>| {
        [FATAL, PANIC].contains(&place.target()) && *place.level() == Level::ERROR
    });
    asked
        .and(bounded.with_max_level_hint(LevelFilter::TRACE))
        .or(fatal.with_max_level_hint(LevelFilter::ERROR))
}

/// A warning of the HTTP/2 parser about a frame that it ignores: a peer would fill the log with it.
fn is_said_at_will(place: &Metadata<'_>) -> bool {
    place.target() == "h2::proto::ping_pong" && *place.level() == Level::WARN
}

fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let misspelt =
        |part: &&str| part.is_empty() || !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
    if let Some(word) = level.split(',').map(str::trim).find(misspelt) {
        return Err(LoggingError::Word { word: word.to_owned() });
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| LoggingError::Level { level: level.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
    };

    use tracing::Subscriber;
    use tracing_subscriber::layer::Context;

    use super::*;

    /// Counts what it is told.
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _event: &tracing::Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_ends_the_process_is_logged_whatever_is_filtered() {
        for (level, logged) in [("foo=debug", 1), ("off", 1), ("error", 2)] {
            let count = Arc::new(AtomicUsize::new(0));
            let layer = Count(Arc::clone(&count)).with_filter(admitted(filter(level).unwrap()));
            tracing::subscriber::with_default(Registry::default().with(layer), || {
                tracing::error!(target: FATAL, "cannot go on");
                tracing::error!("goes on");
                tracing::info!(target: FATAL, "is none");
            });
            // At `error`, the level holds for this target, too.
            assert_eq!(count.load(Ordering::Relaxed), logged, "{level}");
        }
    }

    /// This program again, as `child`, a test that is ignored otherwise.
    fn run(child: &str) -> Child {
        Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", &format!("logging::tests::{child}")])
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    #[ignore = "is run by another test, as a process of its own"]
    fn panics_while_nobody_reads() {
        let _flush =
            init(&Logging { level: "info,foo=debug".to_owned(), ..Logging::default() }, None).unwrap();
        // More than a pipe takes, and less than what is dropped.
        for _ in 0..256 {
            tracing::info!("{}", "x".repeat(1024));
        }
        let thread = thread::Builder::new().name("stumbles".to_owned());
        assert!(thread.spawn(|| panic!("on purpose")).unwrap().join().is_err());
        println!("has gone on");
        io::stdout().flush().unwrap();
        // Whoever reads begins now.
        SINK.get().unwrap().flush(Duration::from_secs(20));
    }

    #[test]
    fn a_thread_that_panics_while_nobody_reads_the_log_does_not_stand_still() {
        let mut child = run("panics_while_nobody_reads");
        let (said, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        loop {
            match lines.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains("has gone on") => break,
                Ok(_) => {}
                Err(error) => {
                    child.kill().unwrap();
                    panic!("{error}");
                }
            }
        }
        let log = io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(child.wait().unwrap().success(), "{}", log.len());
        let last = log.lines().last().unwrap();
        for part in ["\"panic: on purpose\"", "\"thread\":\"stumbles\"", "logging.rs:", "outrigger_panic"] {
            assert!(last.contains(part), "{last}");
        }
    }

    #[test]
    #[ignore = "is run by another test, as a process of its own"]
    fn panics_while_it_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the second");
            }
        }
        let _flush = init(&Logging { level: "off".to_owned(), ..Logging::default() }, None).unwrap();
        let _bomb = Bomb;
        panic!("the first");
    }

    #[test]
    fn what_ends_a_process_at_once_is_logged_before_whatever_is_filtered() {
        let output = run("panics_while_it_panics").wait_with_output().unwrap();
        assert_eq!(output.status.code(), None, "aborted");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("panic: the first") && log.contains("panic: the second"), "{log}");
    }

    #[test]
    fn a_level_or_levels_by_target_are_read() {
        assert!(filter("debug").is_ok());
        assert!(filter("info,outrigger_proxy::pool=trace").is_ok());
    }

    #[test]
    fn a_misspelt_level_does_not_silence_everything() {
        for level in ["inof", "", "info,", "info,outrigger_proxy"] {
            assert!(matches!(filter(level), Err(LoggingError::Word { .. })), "{level}");
        }
    }

    #[test]
    fn a_wrong_level_is_a_defect_of_its_setting() {
        assert_eq!(check_level("info,outrigger_proxy::pool=trace"), None);
        for (level, problem) in
            [("loud", "'loud' is not a level"), ("pool=loud", "'pool=loud' is not a list of target=level")]
        {
            let defect = check_level(level).unwrap();
            assert_eq!((defect.key.as_str(), defect.problem.as_str()), ("log.level", problem));
            assert!(defect.remedy.starts_with("write error, warn, info"), "{defect:?}");
        }
    }

    #[test]
    fn a_wrong_level_is_an_error_that_shows_it() {
        let error = filter("info,pool=loud").unwrap_err();
        assert!(error.to_string().contains("'info,pool=loud'"), "{error}");
    }
}
