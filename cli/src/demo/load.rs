//! An open-loop load: requests leave when they are due, whatever became of those before them, so that a stall of the
//! mesh cannot hide behind a client that waits for it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    app::{ID, INSTANCE},
    books::Sent,
    client::Client,
};
use crate::failure::Failure;

/// Requests per second: above what a phase must have, so that a hiccup of the machine does not make it worthless.
pub(crate) const RATE: u32 = 250;
/// Longer than any timeout behind it: what takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(8);
/// Requests in flight; beyond it the mesh stands still, and each further one has failed.
const MAX_IN_FLIGHT: usize = 4_096;

/// Sends requests to `front` and keeps the books. Ids are unique over all its phases.
#[derive(Debug)]
pub(crate) struct Load {
    client: Client,
    authority: HeaderValue,
    next_id: AtomicU64,
    in_flight: AtomicUsize,
}

/// The load of a phase, under way. Dropped, it ends without books.
#[derive(Debug)]
pub(crate) struct Traffic {
    end: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<Sent>, JoinError>>,
}

impl Traffic {
    /// Every request of the phase, once it has lasted long enough and the last answer is there.
    ///
    /// # Errors
    /// A request is lost to the books: nothing could be said of the phase.
    pub(crate) async fn end(mut self) -> Result<Vec<Sent>, Failure> {
        self.end.store(true, Ordering::Relaxed);
        (&mut self.task)
            .await
            .flatten()
            .map_err(|error| Failure::io("the load broke", std::io::Error::other(error)))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the load has seen while it runs without books.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Requests that ended.
    pub(crate) done: AtomicU64,
    /// Those without a good answer.
    pub(crate) failed: AtomicU64,
}

impl Load {
    /// A load on the application at `front`.
    pub(crate) fn new(front: SocketAddr) -> Self {
        Self {
            client: Client::new(front, PATIENCE),
            // An address always makes a header value.
            authority: HeaderValue::from_str(&front.to_string())
                .unwrap_or_else(|_impossible| HeaderValue::from_static("front")),
            next_id: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Sends from `start` on, for `least` and until the end is asked for.
    pub(crate) fn phase(self: Arc<Self>, start: Instant, least: Duration) -> Traffic {
        let end = Arc::new(AtomicBool::new(false));
        Traffic { end: Arc::clone(&end), task: tokio::spawn(self.send(start, requests(least), end)) }
    }

    async fn send(
        self: Arc<Self>,
        start: Instant,
        least: u32,
        end: Arc<AtomicBool>,
    ) -> Result<Vec<Sent>, JoinError> {
        let mut requests = JoinSet::new();
        for index in 0.. {
            if index >= least && end.load(Ordering::Relaxed) {
                break;
            }
            sleep_until(start + Duration::from_secs(1) * index / RATE).await;
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let load = Arc::clone(&self);
            let left = start.elapsed();
            let method = method(index);
            requests.spawn(async move {
                let outcome = load.one(Some(id), &method).await;
                Sent { id, method, left, ended: start.elapsed(), outcome }
            });
        }
        let mut sent = Vec::with_capacity(requests.len());
        while let Some(entry) = requests.join_next().await {
            sent.push(entry?);
        }
        sent.sort_by_key(|entry| entry.id);
        Ok(sent)
    }

    /// Sends without books or log, until it is dropped.
    pub(crate) async fn forever(self: Arc<Self>, counters: Arc<Counters>) {
        let start = Instant::now();
        let mut index = 0_u32;
        loop {
            sleep_until(start + Duration::from_secs(1) * index / RATE).await;
            let (load, counters, method) = (Arc::clone(&self), Arc::clone(&counters), method(index));
            tokio::spawn(async move {
                if load.one(None, &method).await.is_err() {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                }
                counters.done.fetch_add(1, Ordering::Relaxed);
            });
            index = index.wrapping_add(1);
        }
    }

    /// One request: the instance that answered, or why there is no good answer.
    pub(crate) async fn one(&self, id: Option<u64>, method: &Method) -> Result<String, String> {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= MAX_IN_FLIGHT {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(format!("{MAX_IN_FLIGHT} requests wait already"));
        }
        let answer = self.client.send(self.request(id, method)).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            let text = String::from_utf8_lossy(&answer.body);
            let line: String = text.lines().next().unwrap_or_default().chars().take(120).collect();
            return Err(format!("{}: {line}", answer.status));
        }
        let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        if text(ID).and_then(|own| own.parse().ok()) != id {
            return Err("the answer belongs to another request".to_owned());
        }
        text(INSTANCE).map(str::to_owned).ok_or_else(|| "the answer names no instance".to_owned())
    }

    fn request(&self, id: Option<u64>, method: &Method) -> Request<Full<Bytes>> {
        let body = match *method {
            Method::POST => Bytes::from_static(b"{\"item\":\"kayak\",\"count\":1}\n"),
            _ => Bytes::new(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = http::Uri::from_static("/quote");
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.authority.clone());
        if let Some(id) = id {
            headers.insert(ID, HeaderValue::from(id));
        }
        request
    }
}

/// Requests of so long: the last one is due at its end.
pub(crate) fn requests(length: Duration) -> u32 {
    let whole = u32::try_from(length.as_millis() * u128::from(RATE) / 1_000).unwrap_or(u32::MAX);
    whole.saturating_add(1)
}

/// Three in ten are POST, spread evenly.
fn method(index: u32) -> Method {
    match index % 10 {
        0 | 3 | 7 => Method::POST,
        _ => Method::GET,
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Method, method, requests};

    #[test]
    fn three_requests_in_ten_are_post() {
        assert_eq!((0..1_000).filter(|index| method(*index) == Method::POST).count(), 300);
    }

    #[test]
    fn the_last_request_of_a_phase_is_due_at_its_end() {
        assert_eq!(requests(Duration::from_secs(10)), 2_501);
    }
}
