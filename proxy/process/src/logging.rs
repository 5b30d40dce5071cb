//! Logs go to standard error, as JSON lines or as text for people.

use std::io;

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt, util::SubscriberInitExt as _};

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

/// Starts logging for the whole process.
///
/// # Errors
/// If the level cannot be read, or logging was started before.
pub fn init(logging: &Logging) -> Result<(), LoggingError> {
    let filter = filter(&logging.level)?;
    let subscriber = fmt().with_env_filter(filter).with_writer(io::stderr);
    match logging.format {
        Format::Json => subscriber.json().flatten_event(true).with_current_span(false).finish().try_init(),
        Format::Text => subscriber.finish().try_init(),
    }
    .map_err(LoggingError::Started)
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
