//! Connections to one endpoint, kept by one worker: at most one request on each, bounded, and reused for as long as
//! whoever asks thinks that safe.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use outrigger_core::reason::Reason;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};

use crate::http::{Limits, RequestBody};

/// How long a connection that just finished a response may take to be ready for the next request. Its task only needs
/// to be polled once more.
const READY: Duration = Duration::from_millis(100);

/// One endpoint's connections.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<IdleConnections>,
    permits: Arc<Semaphore>,
    queue_timeout: Duration,
}

#[derive(Debug, Default)]
struct IdleConnections {
    /// The one used last is at the end.
    connections: Vec<Idle>,
    /// A task will close those that are kept too long.
    reaped: bool,
}

/// A connection to an upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: SendRequest<RequestBody>,
    /// Set when its peer is no longer trusted: it may finish what it does, and takes nothing new.
    retired: Option<Arc<AtomicBool>>,
}

impl Upstream {
    /// One on which HTTP/1 has begun.
    pub(crate) fn new(sender: SendRequest<RequestBody>) -> Self {
        Self { sender, retired: None }
    }

    /// The same, but not used any more once `retired` is set.
    pub(crate) fn until(self, retired: Arc<AtomicBool>) -> Self {
        Self { retired: Some(retired), ..self }
    }

    /// Where the next request goes.
    pub(crate) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    fn is_over(&self) -> bool {
        self.sender.is_closed()
            || self.retired.as_ref().is_some_and(|retired| retired.load(Ordering::Relaxed))
    }

    async fn is_ready(&mut self) -> bool {
        !self.is_over()
            && (self.sender.is_ready() || matches!(timeout(READY, self.sender.ready()).await, Ok(Ok(()))))
    }
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Instant,
    until: Instant,
}

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(limits.endpoint_requests)),
            queue_timeout: limits.queue_timeout,
        })
    }

    /// Waits for the right to have one more request at the endpoint. Cancel safe.
    pub(crate) async fn permit(self: &Arc<Self>) -> Result<Slot, Reason> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => timeout(self.queue_timeout, Arc::clone(&self.permits).acquire_owned())
                .await
                .map_err(|_elapsed| Reason::ConnectionLimit)?
                .map_err(|_closed| Reason::InternalError)?,
        };
        Ok(Slot { pool: Arc::clone(self), _permit: permit })
    }

    /// Whether nothing would be lost with it: no connection, and no request that counts against its bound.
    pub(crate) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.idle.lock().connections.is_empty()
    }

    fn pop(&self, max_idle: Duration) -> Option<Upstream> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        // The newest is the last: when it is too old, so are all others.
        let newest = idle.connections.pop_if(|newest| newest.until > now && now - newest.since <= max_idle);
        newest.map(|newest| newest.upstream)
    }

    fn put(self: &Arc<Self>, upstream: Upstream, keep: Duration) {
        if upstream.is_over() || keep.is_zero() {
            return;
        }
        let since = Instant::now();
        let mut idle = self.idle.lock();
        idle.connections.push(Idle { upstream, since, until: since + keep });
        if !idle.reaped {
            idle.reaped = true;
            tokio::spawn(reap(Arc::downgrade(self)));
        }
    }

    /// Closes what was kept too long; returns when to look again, `None` when nothing is left.
    fn close_expired(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        idle.connections.retain(|connection| connection.until > now && !connection.upstream.is_over());
        let next = idle.connections.iter().map(|connection| connection.until).min();
        idle.reaped = next.is_some();
        next
    }
}

/// Runs only while there is something to close, and sleeps until then.
async fn reap(pool: Weak<Pool>) {
    loop {
        let Some(next) = pool.upgrade().and_then(|pool| pool.close_expired()) else {
            return;
        };
        sleep_until(next).await;
    }
}

/// The right to have one request at an endpoint.
#[derive(Debug)]
pub(crate) struct Slot {
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// A connection that is ready and was idle for at most `max_idle`; those that were found closed are counted.
    pub(crate) async fn reuse(&self, max_idle: Duration) -> (Option<Upstream>, u64) {
        let mut closed = 0;
        while let Some(mut upstream) = self.pool.pop(max_idle) {
            if upstream.is_ready().await {
                return (Some(upstream), closed);
            }
            closed += 1;
        }
        (None, closed)
    }

    /// The request went out on `upstream`.
    pub(crate) fn lease(self, upstream: Upstream) -> Lease {
        Lease { slot: self, upstream, keep: Duration::ZERO }
    }
}

/// A connection with a request on it. Dropped, the connection is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    slot: Slot,
    upstream: Upstream,
    keep: Duration,
}

impl Lease {
    /// How long it may be idle afterwards; nothing: it is not kept.
    pub(crate) fn set_keep(&mut self, keep: Duration) {
        self.keep = keep;
    }

    /// The exchange is over and the connection whole.
    pub(crate) fn keep(self) {
        // Back in the pool first, so that whoever waits for the permit finds it there.
        self.slot.pool.put(self.upstream, self.keep);
    }
}
