//! One server connection, from its first byte to its close.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use outrigger_core::reason::Reason;
use tokio::{
    pin,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Guarded, Limits, Link, ResponseBody, Transport, stall::Streams};
use crate::signal::Signal;

/// How long a connection that was opened just before the end may take to bring its first request, and one of HTTP/1
/// between two sidecars the next one: it may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// As many streams may be reset before they were looked at, on a connection that many clients share: about what one
/// read may bring of them. Each of those clients is held to the parser's own limit where it comes from.
const SHARED_RESETS: usize = 4096;

/// Whom a connection speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// One client: whatever is wrong with its streams is its own doing, and too much of it ends the connection (CVE-2023-44487,
    /// CVE-2025-8671).
    One,
    /// All those of a sidecar, which answers for them: what one of them does must not end the connection of the others.
    Many,
}

/// When a connection is to take no further request, and to finish what it has.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    /// With all others.
    draining: Signal,
    /// By itself, and without delay.
    at_once: Signal,
}

impl Closing {
    pub(crate) fn new(draining: &Signal) -> Self {
        Self { draining: draining.clone(), at_once: Signal::default() }
    }

    /// Closes this one: its peer is not believed any more.
    pub(crate) fn at_once(&self) -> Signal {
        self.at_once.clone()
    }

    fn is_told(&self) -> bool {
        self.draining.is_given() || self.at_once.is_given()
    }

    /// Waits until it is time. In a drain, a connection that is new has a moment for its first request, which may be on
    /// its way: whoever connects now has not heard of the end yet. So has one of HTTP/1 between two sidecars for its
    /// next: the answer says that it was the last.
    async fn told(&self, link: &Link) {
        let drained = async {
            self.draining.given().await;
            if link.is_mesh() || !link.is_used() {
                sleep(ON_ITS_WAY).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = self.at_once.given() => {}
        }
    }
}

/// How long a peer may take to close an idle connection after it was told that there will be no answers any more.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves HTTP/1 requests until either side is done, or `closing` lets the request in flight finish and takes no further
/// one. Returns the reason, if the parser had to answer in place of `service`.
pub(crate) async fn serve_http1<T, S, F>(
    io: Guarded<T>,
    limits: &Limits,
    closing: &Closing,
    service: S,
) -> Option<Reason>
where
    T: Transport,
    S: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<ResponseBody>> + Send,
{
    let link = Arc::clone(io.link());
    let mut builder = http1::Builder::new();
    builder
        // The guard has timeouts that tell an idle connection from a slow head.
        .header_read_timeout(None)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.http1_buffer())
        .auto_date_header(true);
    // The parser keeps up to a hundred fields without an allocation of its own.
    if limits.head_fields != 100 {
        builder.max_headers(limits.head_fields);
    }
    let told = Arc::new(closing.clone());
    let service = service_fn(move |request| {
        let (response, closing) = (service(request), Arc::clone(&told));
        async move {
            let mut response = response.await;
            if closing.is_told() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    pin!(connection);
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = closing.told(&link) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match result {
        Ok(()) if !link.head_timed_out() => None,
        Ok(()) => Some(Reason::HeaderTimeout),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
            refused(&error, &link)
        }
    }
}

/// Serves HTTP/2 requests, each in a task of its own, until either side is done or there was none for too long;
/// `closing` tells the peer to open no further stream, and lets those that are open finish.
pub(crate) async fn serve_http2<T, S, F>(
    io: Guarded<T>,
    clients: Clients,
    limits: &Limits,
    closing: &Closing,
    service: S,
) -> Option<Reason>
where
    T: Transport,
    S: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let link = Arc::clone(io.link());
    let born = Instant::now();
    let connection = http2_builder(clients, limits).serve_connection(
        TokioIo::new(io),
        service_fn(move |request| {
            let response = service(request);
            async move { Ok::<_, Infallible>(response.await) }
        }),
    );
    pin!(connection);
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = closing.told(&link) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = idle(&link, born, limits.idle_timeout) => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    let error = result.err()?;
    tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    // What the peer wrote is not HTTP/2; what ends a connection otherwise has ended its streams' records.
    source.is_some_and(|error| error.is_library() && !error.is_io()).then_some(Reason::BadRequest)
}

fn http2_builder(clients: Clients, limits: &Limits) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams { timeout: limits.body_timeout });
    if clients == Clients::Many {
        builder.max_pending_accept_reset_streams(SHARED_RESETS).max_local_error_reset_streams(None);
    }
    builder
        .max_concurrent_streams(u32::try_from(limits.http2_streams).unwrap_or(u32::MAX))
        .initial_stream_window_size(limits.http2_window)
        .initial_connection_window_size(limits.http2_connection_window())
        .max_frame_size(limits.http2_frame)
        .max_send_buf_size(usize::try_from(limits.http2_window).unwrap_or(usize::MAX))
        // Up to twice the limit the answer is ours, with its reason; beyond it the parser's.
        .max_header_list_size(u32::try_from(limits.head_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .auto_date_header(true);
    builder
}

/// Ready when there was no request for `timeout`.
async fn idle(link: &Link, born: Instant, timeout: Duration) {
    let mut look = born + timeout;
    loop {
        sleep_until(look).await;
        let now = Instant::now();
        look = match link.idle_since(born) {
            Some(since) if since + timeout <= now => return,
            Some(since) => since + timeout,
            None => now + timeout,
        };
    }
}

/// What the parser refused. Everything else ended an exchange that has a record of its own, or nothing at all.
fn refused(error: &hyper::Error, link: &Link) -> Option<Reason> {
    if link.head_timed_out() {
        Some(Reason::HeaderTimeout)
    } else if error.is_parse_too_large() {
        Some(Reason::HeadTooLarge)
    } else if error.is_parse_version_h2() {
        Some(Reason::UnsupportedProtocol)
    } else if error.is_parse() {
        Some(Reason::BadRequest)
    } else {
        None
    }
}
