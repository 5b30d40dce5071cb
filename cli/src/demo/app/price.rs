//! `price`: answers, logs every request, and has the faults that it is told to have.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use super::{ID, INSTANCE, Log, plain};
use crate::failure::Failure;

/// The time an answer takes.
const WORK: Duration = Duration::from_millis(1);
/// What one in so many requests of the slow version takes: more than a busy machine adds by itself.
pub(crate) const SLOW: Duration = Duration::from_millis(150);

/// What is wrong with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Nothing,
    /// Every answer takes this long.
    Slow(Duration),
    /// Every answer is a 500, at once.
    Failing,
}

/// As it is told on standard input.
impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => formatter.write_str("well"),
            Self::Slow(time) => write!(formatter, "slow {}", time.as_millis()),
            Self::Failing => formatter.write_str("fail"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "well" => Ok(Self::Nothing),
            None if text == "fail" => Ok(Self::Failing),
            Some(("slow", time)) => time
                .parse()
                .map(|time| Self::Slow(Duration::from_millis(time)))
                .map_err(|_not_a_number| format!("not a fault: {text}")),
            _ => Err(format!("not a fault: {text}")),
        }
    }
}

/// An instance of `price`.
#[derive(Debug)]
pub(super) struct Price {
    name: HeaderValue,
    slow_every: u64,
    served: AtomicU64,
    fault: Mutex<Fault>,
    log: Log,
}

impl Price {
    /// An instance that is well but for one slow answer in `slow_every` (0: none).
    pub(super) fn new(name: &str, slow_every: u64, log: Log) -> Result<Self, Failure> {
        let name = HeaderValue::from_str(name).map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(Self { name, slow_every, served: AtomicU64::new(0), fault: Mutex::new(Fault::Nothing), log })
    }

    /// Has `fault` from the next request on.
    pub(super) fn has(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// The answer, after the time that it takes.
    pub(super) async fn answer(&self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        // Logged before the work: a request that breaks off later was processed all the same.
        if let Err(error) = self.log.write(method, headers) {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
        }
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let slow = self.slow_every != 0 && served.is_multiple_of(self.slow_every);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let mut response = match fault {
            Fault::Failing => plain(StatusCode::INTERNAL_SERVER_ERROR, "told to fail"),
            Fault::Slow(time) => quote(time).await,
            Fault::Nothing => quote(if slow { SLOW } else { WORK }).await,
        };
        response.headers_mut().insert(INSTANCE, self.name.clone());
        if let Some(id) = headers.get(ID) {
            response.headers_mut().insert(ID, id.clone());
        }
        response
    }
}

async fn quote(after: Duration) -> Response<Full<Bytes>> {
    tokio::time::sleep(after).await;
    let mut response = plain(StatusCode::OK, "{\"cents\":1999}\n");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::{Duration, Fault};

    #[test]
    fn a_fault_is_understood_as_it_was_told() {
        for fault in [Fault::Nothing, Fault::Failing, Fault::Slow(Duration::from_millis(300))] {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        for bad in ["", "slow", "slow x", "fail 3", "wel"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
