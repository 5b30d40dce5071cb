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
    /// How long a downstream connection may stay open between requests, or without a stream. Default 60 s.
    pub idle_timeout: Duration,
    /// How long a connection may take to show what is spoken on it, where that is not declared; then it is carried as
    /// opaque bytes. Default 1 s.
    pub detect_timeout: Duration,
    /// How long the bodies of a request and its response may stand still in the middle, both at once, for want of bytes or of
    /// room for them, where no policy says otherwise. Default 300 s.
    pub body_timeout: Duration,
    /// How long a request that said `Expect: 100-continue` waits for the application's `100`; then its body is sent
    /// anyway, as most clients do. Default 1 s.
    pub continue_timeout: Duration,
    /// From the accepted connection to the end of its TLS handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Connections that one listener has open at a time; more wait in the kernel's queue. Default 10000.
    pub connections: usize,
    /// Connections that one worker has to the own application at a time; more requests wait. Default 1024.
    pub app_connections: u32,
    /// Requests that may wait for one. Default 1024.
    pub app_pending: u32,
    /// Streams that may be open on an HTTP/2 connection at a time, on either side of the proxy. Default 256.
    pub http2_streams: usize,
    /// Bytes that an HTTP/2 stream may have on the way without being read: also what a stream that stands still makes
    /// the proxy hold. Default 256 KiB.
    pub http2_window: u32,
    /// Largest HTTP/2 frame that is taken, bytes. Default 128 KiB.
    pub http2_frame: u32,
    /// How long a TCP connection, a tunnel or an upgraded connection may be without a byte in either direction, where no policy
    /// says otherwise. Default 1 h.
    pub stream_idle: Duration,
    /// The same on the callee's side, and for bodies, whatever the caller's policy says. Default 24 h, the longest that one
    /// can.
    pub inbound_idle: Duration,
    /// How long a peer may take to acknowledge what it was sent on a connection that many requests share: a machine that
    /// vanished holds them for no longer. Default 20 s.
    pub peer_timeout: Duration,
    /// How long a request may wait for a connection; 503 after it. Default 1 s.
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
            detect_timeout: Duration::from_secs(1),
            body_timeout: Duration::from_secs(300),
            continue_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            connections: 10_000,
            app_connections: 1024,
            app_pending: 1024,
            http2_streams: 256,
            http2_window: 256 * 1024,
            http2_frame: 128 * 1024,
            stream_idle: Duration::from_secs(3600),
            inbound_idle: Duration::from_secs(24 * 3600),
            peer_timeout: Duration::from_secs(20),
            queue_timeout: Duration::from_secs(1),
            pool_idle: Duration::from_secs(30),
            distrust_spread: Duration::from_secs(60),
            distrust_grace: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// The buffer of an HTTP/1 connection in each direction, for a head or for a part of a body; a little more, so that the
    /// limit itself decides.
    pub(crate) fn http1_buffer(&self) -> usize {
        self.head_bytes.saturating_add(8 * 1024)
    }

    /// Likewise of one to the own application: as much of a body is read at once as goes on in one frame. It grows with what
    /// comes, from 8 KiB.
    pub(crate) fn http1_application_buffer(&self) -> usize {
        self.head_bytes.max(usize::try_from(self.http2_frame).unwrap_or(usize::MAX)).saturating_add(8 * 1024)
    }

    /// What the TLS of an HTTP/2 connection may hold that its socket has no room for: a whole frame and what is around it,
    /// so that a frame is one write.
    pub(crate) fn tls_buffer(&self) -> usize {
        usize::try_from(self.http2_frame).unwrap_or(usize::MAX).saturating_add(64 * 1024)
    }

    /// A connection's window: the sum of its streams', so that those that stand still leave the others theirs.
    pub(crate) fn http2_connection_window(&self) -> u32 {
        let streams = u32::try_from(self.http2_streams).unwrap_or(u32::MAX);
        // The largest that there is (RFC 9113 §6.9.1).
        self.http2_window.saturating_mul(streams).min((1 << 31) - 1)
    }

    /// What the frames of an upstream's connection may take beyond the bytes that they carry, as the parser counts it:
    /// 256 bytes less what is in them for each that nobody has read. The parser ends the connection above it, and with
    /// it the requests of everybody; its own choice is half of the window, which a few streams of server-sent events
    /// reach whose clients pause.
    pub(crate) fn http2_overhead(&self) -> usize {
        usize::try_from(self.http2_connection_window()).unwrap_or(usize::MAX).saturating_mul(4)
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
            detect_timeout: settings.detect_timeout,
            inbound_idle: settings.inbound_idle_timeout,
            peer_timeout: settings.peer_timeout,
            connections: settings.max_connections,
            // Peers have the same idle timeout, most likely: half of it leaves room for what is on its way.
            pool_idle: defaults.pool_idle.min(settings.idle_timeout / 2),
            ..defaults
        }
    }
}
