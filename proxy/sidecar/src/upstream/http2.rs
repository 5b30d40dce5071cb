//! HTTP/2 connections to one upstream, kept by one worker: as few as carry all requests. A further one is made only
//! when every stream of the others is taken: so a stream that stands still costs the others neither a place nor, since
//! the connection's window is the sum of its streams', a byte.
//!
//! Connecting is single flight: a task of its own makes the connection, and everybody who needs one waits for that task.
//!
//! A connection on which nothing is under way may have been closed by the other side without a word. Whoever asks says for
//! how long he believes one: where none is young enough a new one takes their place, so that there are never more of them.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use outrigger_core::reason::Reason;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    Connect, Protocol,
    attempt::{Demand, Waited},
    connect::{Connected, Standing},
    http1::LOOK,
};
use crate::{
    endpoint::{Counted, DestinationState, Pooled},
    headers::Naming,
    http::{Limits, overhear},
    io::Gather,
};

/// So many new connections may be full of others' streams before a request has one.
const LANDINGS: u32 = 16;

/// Within so long a new connection is used by whoever it was made for, if ever.
const CLAIMED: Duration = Duration::from_millis(250);

/// Instead of a time.
const UNUSED: u64 = u64::MAX;

/// What a flight ended with.
type Landing = watch::Receiver<Option<Result<(), Reason>>>;

/// Why there is no flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// The destination has no connection left for it.
    Room,
    /// The peer would take no stream there either.
    Streams,
}

/// One upstream's connections.
#[derive(Debug)]
pub(super) struct Multiplexer<C> {
    connect: Arc<C>,
    destination: Arc<DestinationState>,
    builder: Builder,
    streams: usize,
    state: Mutex<State>,
    /// Somebody gave a stream back while all were taken.
    freed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    connections: Vec<Open>,
    flight: Option<Landing>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("connections", &self.connections.len())
            .field("in_flight", &self.flight.is_some())
            .finish()
    }
}

/// A connection that takes requests.
struct Open {
    /// Dropped with the last of its copies, the connection closes once its streams are done.
    sender: SendRequest<Bytes>,
    load: Arc<Load>,
    landed: Instant,
}

impl Open {
    /// For how long it was idle, at `now`; `None`: it is in use, or was made a moment ago for somebody who is to use it.
    fn rested(&self, now: Instant) -> Option<Duration> {
        let idle = self.load.idle_since()?;
        if self.load.is_unused() {
            Some(now.saturating_duration_since(self.landed)).filter(|rested| *rested >= CLAIMED)
        } else {
            Some(now.saturating_duration_since(idle))
        }
    }
}

/// What is under way on a connection.
#[derive(Debug)]
struct Load {
    streams: AtomicUsize,
    born: Instant,
    /// When its last stream was given back, microseconds after it was born; [`UNUSED`]: it had none yet.
    idle_since: AtomicU64,
    /// How long it is kept when it is idle.
    keep: Duration,
    /// An answer came on it since it was idle last: it was not closed then.
    proven: AtomicBool,
    /// Of the trace in its requests.
    naming: Naming,
    standing: Standing,
    over: AtomicBool,
    freed: Arc<Notify>,
}

impl Load {
    /// Since when nothing is under way on it; `None`: something is.
    fn idle_since(&self) -> Option<Instant> {
        let since = match self.idle_since.load(Ordering::Relaxed) {
            UNUSED => self.born,
            micros => self.born + Duration::from_micros(micros),
        };
        (self.streams.load(Ordering::Relaxed) == 0).then_some(since)
    }

    /// Whether it was idle for longer than `max_idle`, or than it is kept.
    fn is_stale(&self, max_idle: Duration, now: impl FnOnce() -> Instant) -> bool {
        let max_idle = max_idle.min(self.keep);
        self.idle_since().is_some_and(|since| now().saturating_duration_since(since) > max_idle)
    }

    fn is_unused(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) == UNUSED && self.streams.load(Ordering::Relaxed) == 0
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.standing.is_retired()
    }
}

/// The right to one stream of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    load: Arc<Load>,
    /// Nothing was heard on its connection since that was idle.
    doubtful: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let load = &self.load;
        if load.streams.load(Ordering::Relaxed) == 1 {
            let age = load.born.elapsed().as_micros();
            load.idle_since.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
            load.proven.store(false, Ordering::Relaxed);
        }
        load.streams.fetch_sub(1, Ordering::Relaxed);
        load.freed.notify_one();
    }
}

impl<C: Connect> Multiplexer<C> {
    pub(super) fn new(connect: Arc<C>, destination: Arc<DestinationState>, limits: &Limits) -> Arc<Self> {
        let streams = limits.http2_streams;
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(limits.http2_window)
            .initial_connection_window_size(limits.http2_connection_window())
            .max_frame_size(limits.http2_frame)
            .max_send_buffer_size(usize::try_from(limits.http2_window).unwrap_or(usize::MAX))
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .initial_max_send_streams(streams)
            // What is wrong with one response after the other must not end those of others, however long it takes.
            .max_local_error_reset_streams(None)
            .data_frame_budget(limits.http2_overhead());
        let pool = Arc::new(Self {
            connect,
            destination,
            builder,
            streams,
            state: Mutex::default(),
            freed: Arc::default(),
        });
        let weak = Arc::downgrade(&pool);
        pool.destination.add_pool(weak);
        pool
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        let state = self.state.lock();
        Arc::strong_count(self) == 1 && state.connections.is_empty() && state.flight.is_none()
    }

    /// Whether a connection is being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.state.lock().flight.is_some()
    }

    /// A stream on a connection that is open as far as is known. Cancel safe.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        demand: &Demand,
    ) -> Result<(SendRequest<Bytes>, Stream, Waited), Reason> {
        if let Some((sender, stream)) = self.find(&mut self.state.lock(), (demand.max_idle, false)) {
            return Ok((sender, stream, Waited::default()));
        }
        Box::pin(self.wait(demand)).await
    }

    async fn wait(self: &Arc<Self>, demand: &Demand) -> Result<(SendRequest<Bytes>, Stream, Waited), Reason> {
        let _pending = self.destination.pending(demand.pending).ok_or(Reason::PendingLimit)?;
        let begin = Instant::now();
        let mut connecting = Duration::ZERO;
        let mut landings = 0;
        let mut looked_in_vain = false;
        loop {
            // Registered before the look, so that no stream given back in between is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            let landing = {
                let mut state = self.state.lock();
                if let Some((sender, stream)) = self.find(&mut state, (demand.max_idle, landings > 0)) {
                    let waited = Waited {
                        queued: begin.elapsed().saturating_sub(connecting),
                        connecting,
                        closed: 0,
                        fresh: !connecting.is_zero(),
                    };
                    return Ok((sender, stream, waited));
                }
                self.flight(&mut state, demand)
            };
            match landing {
                Ok(mut landing) => {
                    // It may have been under way before, for somebody else.
                    let joined = Instant::now();
                    let landed = landing.wait_for(Option::is_some).await;
                    let landed = landed.ok().and_then(|landed| *landed).ok_or(Reason::InternalError)?;
                    landed?;
                    connecting += joined.elapsed();
                    landings += 1;
                    if landings > LANDINGS {
                        // It takes connections and no streams.
                        return Err(Reason::ConnectFailed);
                    }
                }
                Err(lack) => {
                    // A connection may end elsewhere, which makes room for one here.
                    let (now, end) = (Instant::now(), begin + demand.queue_timeout);
                    if now >= end {
                        return Err(Reason::ConnectionLimit);
                    }
                    if looked_in_vain && lack == Lack::Room {
                        self.destination.make_room(LOOK);
                    }
                    let either = async {
                        tokio::select! {
                            () = freed => {}
                            () = self.destination.freed(), if lack == Lack::Room => {}
                        }
                    };
                    looked_in_vain = timeout_at(end.min(now + LOOK), either).await.is_err();
                }
            }
        }
    }

    /// The first connection that has a stream left and was not idle for longer than `max_idle`, or, if one `landed`, was
    /// not used at all: the fewer connections, the more goes into one write.
    fn find(
        &self,
        state: &mut State,
        (max_idle, landed): (Duration, bool),
    ) -> Option<(SendRequest<Bytes>, Stream)> {
        let mut gone = false;
        let mut found = None;
        for open in &state.connections {
            if open.load.is_over() {
                gone = true;
                continue;
            }
            if !(landed && open.load.is_unused()) && open.load.is_stale(max_idle, Instant::now) {
                continue;
            }
            let streams = open.load.streams.load(Ordering::Relaxed);
            // What the peer allows counts, too; it is asked only where it could be less.
            if streams < self.streams && streams < open.sender.current_max_send_streams() {
                open.load.streams.fetch_add(1, Ordering::Relaxed);
                let doubtful = !open.load.proven.load(Ordering::Relaxed);
                found = Some((open.sender.clone(), Stream { load: Arc::clone(&open.load), doubtful }));
                break;
            }
        }
        if gone {
            state.connections.retain(|open| !open.load.is_over());
        }
        found
    }

    /// The flight that is under way, or a new one, or why there is none.
    fn flight(self: &Arc<Self>, state: &mut State, demand: &Demand) -> Result<Landing, Lack> {
        if let Some(landing) = &state.flight {
            return Ok(landing.clone());
        }
        // Whoever takes no stream at all takes none on a further connection either.
        let closed = |open: &Open| !open.load.is_over() && open.sender.current_max_send_streams() == 0;
        if state.connections.iter().any(closed) {
            return Err(Lack::Streams);
        }
        let Some(counted) = self.destination.connection(demand.connections) else {
            // One that nobody may use must not be what there is no room for.
            state.retire_stale(demand.max_idle);
            return Err(Lack::Room);
        };
        let (landed, landing) = watch::channel(None);
        state.flight = Some(landing.clone());
        let this = Arc::clone(self);
        let (connect_timeout, keep, max_idle) = (demand.connect_timeout, demand.keep, demand.max_idle);
        tokio::spawn(async move {
            let made = timeout(connect_timeout, async {
                let connected = this.connect.connect(Protocol::Http2).await?;
                this.begin(connected, counted, keep).await
            });
            let made = made.await.unwrap_or(Err(Reason::ConnectTimeout));
            let mut state = this.state.lock();
            state.flight = None;
            let landing = made.map(|open| {
                state.retire_stale(max_idle);
                state.connections.push(open);
            });
            drop(state);
            let _nobody_waits = landed.send(Some(landing));
            // Those who found no room for another one.
            this.freed.notify_waiters();
        });
        Ok(landing)
    }

    /// Begins HTTP/2 on a new connection. Its task ends with it, or when it has to be cut.
    async fn begin(
        self: &Arc<Self>,
        connected: Connected,
        counted: Counted,
        keep: Duration,
    ) -> Result<Open, Reason> {
        let (io, standing, cut) = connected.split();
        let (sender, connection) = self.builder.handshake(Gather::new(io)).await.map_err(|error| {
            tracing::debug!(%error, "connection could not be used");
            if standing.is_refused() { Reason::PeerRejected } else { Reason::ConnectFailed }
        })?;
        let load = Arc::new(Load {
            streams: AtomicUsize::new(0),
            born: Instant::now(),
            idle_since: AtomicU64::new(UNUSED),
            keep,
            proven: AtomicBool::new(false),
            naming: Naming::new(),
            standing,
            over: AtomicBool::new(false),
            freed: Arc::clone(&self.freed),
        });
        let home = Arc::downgrade(self);
        let (idle, over) = (close_when_idle(Weak::clone(&home), Arc::clone(&load)), Arc::clone(&load));
        let connect = Arc::clone(&self.connect);
        tokio::spawn(async move {
            let ended = async {
                tokio::select! {
                    biased;
                    ended = overhear(connection, |refused| connect.refused(refused)) => if let Err(error) = ended {
                        tracing::debug!(%error, "upstream connection ended");
                    },
                    () = idle => {}
                }
            };
            tokio::select! {
                biased;
                () = ended => {}
                () = cut => {}
            }
            over.over.store(true, Ordering::Relaxed);
            over.standing.end();
            // Those who wait for a stream of it look elsewhere.
            over.freed.notify_waiters();
            if let Some(home) = home.upgrade() {
                home.state.lock().connections.retain(|open| !open.load.is_over());
            }
            drop(counted);
        });
        // Its first word is its settings: it believes us then, how many streams it takes is known, and no request is sent
        // in vain.
        load.standing.heard().await?;
        if load.is_over() {
            return Err(Reason::ConnectFailed);
        }
        Ok(Open { sender, load, landed: Instant::now() })
    }
}

impl State {
    /// Takes those off the list that were idle for longer than `max_idle`; each closes itself then.
    fn retire_stale(&mut self, max_idle: Duration) {
        let now = Instant::now();
        self.connections.retain(|open| {
            let stale = open.load.is_stale(max_idle, || now);
            open.load.over.fetch_or(stale, Ordering::Relaxed);
            !stale
        });
    }
}

impl<C: Connect> Pooled for Multiplexer<C> {
    fn rested(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        state.connections.retain(|open| !open.load.is_over());
        state.connections.iter().filter_map(|open| open.rested(now)).max()
    }

    fn close_one(&self, least: Duration) {
        let now = Instant::now();
        // Under the lock under which streams are given out.
        let mut state = self.state.lock();
        let rested = state.connections.iter().filter_map(|open| Some((open.rested(now)?, &open.load)));
        if let Some((_, load)) =
            rested.max_by_key(|(rested, _)| *rested).filter(|(rested, _)| *rested >= least)
        {
            load.over.store(true, Ordering::Relaxed);
            state.connections.retain(|open| !open.load.is_over());
        }
    }
}

/// Takes a connection off the list once it was idle for as long as it is kept; it closes itself then. Never ready: the
/// connection ends when it has said so to its peer.
async fn close_when_idle<C: Connect>(home: Weak<Multiplexer<C>>, load: Arc<Load>) {
    let mut look = Instant::now() + load.keep;
    loop {
        sleep_until(look).await;
        let Some(home) = home.upgrade() else {
            break;
        };
        // Under the lock under which streams are given out.
        let mut state = home.state.lock();
        let now = Instant::now();
        look = load.idle_since().unwrap_or(now) + load.keep;
        if look <= now {
            load.over.store(true, Ordering::Relaxed);
            state.connections.retain(|open| !Arc::ptr_eq(&open.load, &load));
            break;
        }
    }
    std::future::pending().await
}

impl Stream {
    /// Whether the peer refused us.
    pub(super) fn is_refused(&self) -> bool {
        self.load.standing.is_refused()
    }

    /// What its connection knows of the names in requests.
    pub(super) fn naming(&self) -> &Naming {
        &self.load.naming
    }

    /// An answer came on its connection.
    pub(super) fn is_heard(&self) {
        self.load.proven.store(true, Ordering::Relaxed);
    }

    /// Whether its connection may have been closed before the stream was opened: nothing was heard on it since it was
    /// idle.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Its connection refused a further stream, or is gone: nobody else need try.
    pub(super) fn is_last(&self) {
        self.load.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
