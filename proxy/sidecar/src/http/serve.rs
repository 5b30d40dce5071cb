//! One HTTP/1 server connection, from its first byte to its close.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use outrigger_core::reason::Reason;
use tokio::{pin, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Guarded, Limits, Link, ResponseBody, Transport};

/// How long a connection that was opened just before the end may take to bring its first request.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// Serves requests until either side is done; `draining`: lets the request in flight finish, and takes no further one.
/// Returns the reason, if the parser had to answer in place of `service`.
pub(crate) async fn serve<T, S, F>(
    io: Guarded<T>,
    limits: &Limits,
    draining: &CancellationToken,
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
        // Of the head's buffer and of what is held of a body; a little more, so that the limit itself decides.
        .max_buf_size(limits.head_bytes.saturating_add(8 * 1024))
        .auto_date_header(true);
    // The parser keeps up to a hundred fields without an allocation of its own.
    if limits.head_fields != 100 {
        builder.max_headers(limits.head_fields);
    }
    let service = service_fn(move |request| {
        let response = service(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    pin!(connection);
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = draining.cancelled() => {
            // The parser closes at once what it has read nothing from, although a request may be on its way: whoever
            // connects now has not heard of the end yet.
            let first = match link.is_used() {
                true => None,
                false => timeout(FIRST_REQUEST, connection.as_mut()).await.ok(),
            };
            match first {
                Some(result) => result,
                None => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
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
