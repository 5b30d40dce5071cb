//! How requests to one port of a service are retried, timed, limited, and kept away from endpoints in trouble: what a
//! TrafficPolicy says, with a default for everything it does not say.

use std::{collections::BTreeSet, time::Duration};

/// The rules for one port of a service, as one proxy applies them. [`Default`]: what holds without any policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resilience {
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Which requests are sent again.
    pub retry: Retry,
    /// How many of them.
    pub budget: RetryBudget,
    /// When an endpoint is left alone for a while.
    pub outlier: Outlier,
    /// How much one proxy has under way at the destination.
    pub limits: TrafficLimits,
}

/// What a TrafficPolicy says; the rest has its default. A part that is there is whole: what its author left out of it is
/// filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResilienceOverrides {
    /// Each by itself.
    pub timeouts: Timeouts,
    /// `None`: by default.
    pub retry: Option<Retry>,
    /// `None`: by default.
    pub budget: Option<RetryBudget>,
    /// `None`: by default.
    pub outlier: Option<Outlier>,
    /// `None`: by default.
    pub limits: Option<TrafficLimits>,
}

impl From<ResilienceOverrides> for Resilience {
    fn from(overrides: ResilienceOverrides) -> Self {
        let ResilienceOverrides { timeouts, retry, budget, outlier, limits } = overrides;
        Self {
            timeouts,
            retry: retry.unwrap_or_default(),
            budget: budget.unwrap_or_default(),
            outlier: outlier.unwrap_or_default(),
            limits: limits.unwrap_or_default(),
        }
    }
}

/// How long things may take. `None`: the mesh's default, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Head read -> last byte of the response, retries included, 1 ms to 24 h; `None`: the mesh's default; zero: none. A
    /// rule's own goes before it.
    pub request: Option<Duration>,
    /// Start of an attempt -> its response's head, 1 ms to 24 h and at most `request`, if there is one; `None`: none.
    pub per_try: Option<Duration>,
    /// TCP and TLS together, 1 ms to 60 s; `None`: the mesh's default.
    pub connect: Option<Duration>,
    /// How long the bodies of a request and its response, a TCP connection, a tunnel or an upgraded connection may be
    /// without a byte in either direction, 1 ms to 24 h; `None`: 5 min for bodies, 1 h for the others; zero: as long as the
    /// callee's sidecar allows, 24 h unless its settings say otherwise.
    pub idle: Option<Duration>,
}

/// Which requests are sent again. Those of which nothing was processed always are (connect failure, refused stream,
/// *unprocessed*), whatever their method; `statuses` and `reset` are for idempotent methods only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first, 0 to 10. Default 2.
    pub attempts: u32,
    /// Statuses that are retried, 500 to 599 or 429. Default none; `retry: {}` in a policy: 502, 503, 504.
    pub statuses: BTreeSet<u16>,
    /// Whether a connection that broke before the response's head is retried. Default no; `retry: {}`: yes.
    pub reset: bool,
    /// The pause before retry n is uniform in 0 ..= min(base * 2^(n - 1), max) (full jitter). 1 ms to `backoff_max`.
    /// Default 25 ms.
    pub backoff_base: Duration,
    /// At most so long, 1 ms to 60 s. Default 250 ms.
    pub backoff_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            statuses: BTreeSet::new(),
            reset: false,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
        }
    }
}

/// How many retries there may be, over all requests of one proxy to the destination: the larger of a share of them and
/// a rate (GEP-3388). Always in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries per 100 requests, 0 to 100. Default 20.
    pub percent: u32,
    /// Over how long the share is taken, 1 s to 60 s. Default 10 s.
    pub interval: Duration,
    /// Retries per second that are allowed however few requests there are, 0 to 1 000. Default 10.
    pub min_per_second: u32,
}

impl Retry {
    /// What `retry: {}` in a policy says: 502, 503, 504 and broken connections too.
    pub fn enabled() -> Self {
        Self { statuses: BTreeSet::from([502, 503, 504]), reset: true, ..Self::default() }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 }
    }
}

/// When an endpoint is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// So many failures in a row, 0 to 1 000; 0: never. Default 7.
    pub consecutive_failures: u32,
    /// For how long the first time; twice as long each time after, 100 ms to 1 h. Default 1 s.
    pub base_ejection: Duration,
    /// At most so long, at least `base_ejection`, at most 24 h. Default 60 s.
    pub max_ejection: Duration,
    /// At most so many of 100 endpoints at once, 0 to 50; one may always be, if there are two. Default 10.
    pub max_ejected_percent: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_failures: 7,
            base_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_secs(60),
            max_ejected_percent: 10,
        }
    }
}

/// How much one proxy has under way at the destination, over all its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficLimits {
    /// Connections, each carrying one request or TCP stream or many multiplexed ones, 1 to 1 000 000. Default 1 024.
    pub connections: u32,
    /// Requests and TCP streams, 1 to 1 000 000. Default 4 096.
    pub requests: u32,
    /// Requests that wait for a connection, 0 to 1 000 000. Default 1 024.
    pub pending: u32,
}

impl Default for TrafficLimits {
    fn default() -> Self {
        Self { connections: 1024, requests: 4096, pending: 1024 }
    }
}
