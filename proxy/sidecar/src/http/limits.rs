//! Bounds on what a peer may make the proxy hold or wait for.

use std::time::Duration;

use crate::settings;

/// Limits of the data path, the same for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers together, bytes; 431 above. At least 8192. Default 65536.
    pub head_bytes: usize,
    /// Headers of a request or response; 431 (request) or 502 (response) above. Default 100.
    pub head_fields: usize,
    /// From a head's first byte to its last; 408 after it. Default 10 s.
    pub head_timeout: Duration,
    /// How long a downstream connection may stay open between requests. Default 60 s.
    pub idle_timeout: Duration,
    /// How long a body may stand still in the middle, in either direction. Default 300 s.
    pub body_timeout: Duration,
    /// How long a request that said `Expect: 100-continue` waits for the application's `100`; then its body is sent
    /// anyway, as most clients do. Default 1 s.
    pub continue_timeout: Duration,
    /// From the accepted connection to the end of its TLS handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Connections that one listener has open at a time; more wait in the kernel's queue. Default 10000.
    pub connections: usize,
    /// Requests that one worker has at one endpoint at a time, each on a connection of its own; more wait. Default 1024.
    pub endpoint_requests: usize,
    /// How long they may wait; 503 after it. Default 1 s.
    pub queue_timeout: Duration,
    /// How long an unused connection to an endpoint of the mesh is kept: shorter than the idle timeout on the other
    /// side, which must not close it just as a request is sent. Default 30 s.
    pub pool_idle: Duration,
    /// When a change of the trust bundle or an expired certificate may have made peers untrustworthy, each open
    /// connection is judged again at a random moment within so long. Default 60 s.
    pub distrust_spread: Duration,
    /// How long a request may still take on a connection whose peer is no longer trusted. Default 10 s.
    pub distrust_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            head_fields: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(300),
            continue_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            connections: 10_000,
            endpoint_requests: 1024,
            queue_timeout: Duration::from_secs(1),
            pool_idle: Duration::from_secs(30),
            distrust_spread: Duration::from_secs(60),
            distrust_grace: Duration::from_secs(10),
        }
    }
}

impl From<&settings::Limits> for Limits {
    fn from(settings: &settings::Limits) -> Self {
        let defaults = Self::default();
        Self {
            head_bytes: settings.max_head_bytes,
            head_fields: settings.max_headers,
            head_timeout: settings.head_timeout,
            idle_timeout: settings.idle_timeout,
            connections: settings.max_connections,
            // Peers have the same idle timeout, most likely: half of it leaves room for what is on its way.
            pool_idle: defaults.pool_idle.min(settings.idle_timeout / 2),
            ..defaults
        }
    }
}
