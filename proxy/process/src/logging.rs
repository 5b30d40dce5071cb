//! Logs go to standard error, as JSON lines or as text for people.

use std::io;

use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, FilterFn, LevelFilter},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

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
    /// Somebody else logs already.
    #[error("logging has been started already")]
    Started(#[source] tracing_subscriber::util::TryInitError),
}

/// Something that takes events beside the log. It has a filter of its own: what it switches on is not logged for that, and
/// what nobody switched on costs nothing.
pub type EventLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging for the whole process, and what is `beside` it.
///
/// # Errors
/// If the level cannot be read, or logging was started before.
pub fn init(logging: &Logging, beside: Option<EventLayer>) -> Result<(), LoggingError> {
    let bounded = FilterFn::new(|place: &Metadata<'_>| !is_said_at_will(place));
    let filter = filter(&logging.level)?.and(bounded.with_max_level_hint(LevelFilter::TRACE));
    let lines = fmt::layer().with_writer(io::stderr);
    let lines: EventLayer = match logging.format {
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed(),
        Format::Text => lines.with_filter(filter).boxed(),
    };
    let layers: Vec<EventLayer> = beside.into_iter().chain([lines]).collect();
    Registry::default().with(layers).try_init().map_err(LoggingError::Started)
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
    use super::*;

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
    fn a_wrong_level_is_an_error_that_shows_it() {
        let error = filter("info,pool=loud").unwrap_err();
        assert!(error.to_string().contains("'info,pool=loud'"), "{error}");
    }
}
