//! An attempt over HTTP/2: a stream among others, on a connection that may have been closed while nothing was under way on
//! it.

use std::{future::poll_fn, mem, pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::{Request, Response, header};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::{Answer, Attempt, Demand, Failed, is_short, no_response, not_sent, wait};
use crate::{
    headers::TRACEPARENT,
    http::{InvalidLength, RequestBody, Upload, is_idempotent, length},
    telemetry::Exchange,
    upstream::{Connect, Occupied, Stream, UpstreamBody, body},
};

impl<C: Connect> Attempt<'_, C> {
    /// Takes the request when it is sent. `broke`: it was sent before, on a connection that broke; whatever comes now, it may
    /// have been processed.
    pub(super) async fn send_http2(
        &self,
        request: &mut Request<()>,
        (demand, broke): (&Demand, bool),
        upload: &Arc<Upload>,
        (mut begin, exchange): (Instant, &mut Exchange),
    ) -> Result<Answer, Failed> {
        let bodiless = upload.is_bodiless();
        loop {
            let pool = &self.upstream.http2;
            let acquired = wait(pool.acquire(demand), || pool.is_connecting(), (begin, &mut *exchange)).await;
            let (mut sender, stream, waited) = acquired.map_err(|failed| failed.or_processed(broke))?;
            self.waited(waited, request.headers_mut(), (begin, &mut *exchange));
            if let Err(error) = poll_fn(|cx| Poll::Ready(open(sender.poll_ready(cx)))).await {
                tracing::debug!(%error, "connection takes no further request");
                stream.is_last();
                if waited.fresh {
                    return Err(Failed::before(not_sent(&stream)).or_processed(broke));
                }
                self.telemetry.metrics().pool_replaced.inc();
                begin = Instant::now();
                exchange.stamp(|stamps| stamps.begin_attempt(begin.into_std()));
                continue;
            }
            let doubtful = demand.closes_silently && stream.is_doubtful() && !waited.fresh && !broke;
            let repeatable = is_idempotent(request.method()) && upload.is_replayable();
            let kept = (doubtful && repeatable).then(|| Box::new(request.clone()));
            if stream.naming().is_due(begin, || false)
                && let Some(trace) = request.headers_mut().get_mut(TRACEPARENT)
            {
                trace.set_sensitive(false);
            }
            let (response, send) = sender.send_request(mem::take(request), bodiless).map_err(|error| {
                tracing::debug!(%error, "request could not be written");
                stream.is_last();
                Failed::before(not_sent(&stream)).or_processed(broke)
            })?;
            drop(sender);
            if !bodiless {
                push_on(RequestBody::of(upload), send).await;
            }
            let error = match self.final_response(response).await {
                Ok(response) => return begun(response, stream, exchange).await,
                Err(error) => error,
            };
            tracing::debug!(%error, "attempt failed");
            let failed = no_response(&error, &stream, upload, waited.fresh);
            // Without a word of what became of the stream. What was sent meanwhile may have been too much to keep.
            let closed = error.is_io() && failed == Failed::after(Reason::UpstreamReset);
            let Some(kept) = kept.filter(|_| closed && upload.is_replayable()) else {
                return Err(failed.or_processed(broke));
            };
            drop(stream);
            return self.once_more(kept, upload, exchange).await;
        }
    }

    /// Sends a request again, on a new connection: the one that it was sent on broke.
    fn once_more<'s>(
        &'s self,
        mut request: Box<Request<()>>,
        upload: &'s Arc<Upload>,
        exchange: &'s mut Exchange,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Failed>> + Send + 's>> {
        upload.rewind();
        self.telemetry.metrics().pool_replaced.inc();
        let begin = Instant::now();
        exchange.stamp(|stamps| stamps.begin_attempt(begin.into_std()));
        Box::pin(async move {
            let demand = Demand { max_idle: Duration::ZERO, ..self.demand.clone() };
            self.send_http2(&mut request, (&demand, true), upload, (begin, exchange)).await
        })
    }

    /// The answer that ends the wait, past those that only inform.
    async fn final_response(&self, mut response: ResponseFuture) -> Result<Response<RecvStream>, h2::Error> {
        poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(_))) = response.poll_informational(cx) {
                if self.counts_informational {
                    self.telemetry.metrics().informational_dropped.inc();
                }
            }
            Pin::new(&mut response).poll(cx)
        })
        .await
    }
}

/// Makes an answer of a response whose head came, and of as much of its body as came with it.
fn begun(
    response: Response<RecvStream>,
    stream: Stream,
    exchange: &mut Exchange,
) -> impl Future<Output = Result<Answer, Failed>> + Send + use<> {
    exchange.stamp(|stamps| stamps.response_head = Some(Instant::now().into_std()));
    stream.is_heard();
    let (head, body) = response.into_parts();
    let mut body = UpstreamBody::http2(body);
    let short = length(head.headers.get_all(header::CONTENT_LENGTH).iter()).map(is_short);
    async move {
        body.begin(short.map_err(|InvalidLength| Failed::after(Reason::BadResponse))?).await;
        Ok(Answer { head, body, occupied: Some(Occupied::Http2(stream)), refused: None })
    }
}

/// Whether a connection is open at all: a sender of its own never waits.
fn open(ready: Poll<Result<(), h2::Error>>) -> Result<(), h2::Error> {
    match ready {
        Poll::Ready(ready) => ready,
        Poll::Pending => Ok(()),
    }
}

/// Sends what is there of the body now; the rest by a task of its own, which ends with the stream.
async fn push_on(body: RequestBody, stream: SendStream<Bytes>) {
    let mut pushing = Box::pin(body::push(body, stream));
    let done = poll_fn(|cx| Poll::Ready(pushing.as_mut().poll(cx).is_ready())).await;
    if !done {
        tokio::spawn(pushing);
    }
}
