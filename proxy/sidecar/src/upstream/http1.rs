//! HTTP/1 connections to one upstream, kept by one worker: one request on each at a time, bounded, and reused for as
//! long as whoever asks thinks that safe.
//!
//! Whoever finds none that is idle waits in line. Connections are made for those in line, a few at a time, by tasks of
//! their own: a request that goes away takes no half-made connection with it, and whoever is first in line takes what
//! comes first, a new one or one that was given back.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use outrigger_core::reason::Reason;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Connect, Protocol,
    attempt::{Demand, Waited},
    connect::{Connected, Standing},
    ending::End,
    patient::{Governing, Patient},
};
use crate::{
    endpoint::{Counted, DestinationState, Pooled},
    http::{self, Limits, RequestBody},
    signal::{GiveOnDrop, Signal},
};

/// How long a connection that just finished a response may take to be ready for the next request. Its task only needs
/// to be polled once more.
const READY: Duration = Duration::from_millis(100);
/// How often one in line looks whether there is room for a connection meanwhile, which others may have made: elsewhere in
/// the pool, or at another worker.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// How long a connection that nobody wants any more may take to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// Connections that are being made at once. More would only slow each other down.
const CONNECTING: usize = 32;

/// One upstream's connections.
#[derive(Debug)]
pub(super) struct Pool<C> {
    connect: Arc<C>,
    destination: Arc<DestinationState>,
    builder: http1::Builder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one used last is at the end.
    idle: Vec<Resting>,
    /// First come, first served.
    line: VecDeque<Waiting>,
    connecting: usize,
    /// A task will close those that are kept too long.
    reaped: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("idle", &self.idle.len())
            .field("line", &self.line.len())
            .field("connecting", &self.connecting)
            .finish_non_exhaustive()
    }
}

/// One in line.
struct Waiting {
    /// Since it asked.
    since: Instant,
    sender: oneshot::Sender<Result<Connection, Reason>>,
}

/// A connection on which HTTP/1 has begun.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    standing: Standing,
    /// How long it took to make, until it is used for the first time.
    fresh: Option<Duration>,
    bond: Arc<Bond>,
    /// Tells the connection's task that nobody has it any more.
    _held: GiveOnDrop,
}

/// What a connection and its task know of each other.
#[derive(Debug, Default)]
struct Bond {
    /// It was asked to leave HTTP: its task watches over what follows.
    may_switch: AtomicBool,
    released: Signal,
    cut: CancellationToken,
    governing: Governing,
}

impl Connection {
    /// Where the next request goes.
    pub(super) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    /// Whether its peer refused us.
    pub(super) fn is_refused(&self) -> bool {
        self.standing.is_refused()
    }

    /// Whether it leads to another sidecar.
    pub(super) fn is_of_a_peer(&self) -> bool {
        self.standing.is_proven()
    }

    /// A request is about to be sent.
    pub(super) fn begin(&self) {
        self.standing.ending().begin();
    }

    /// How it ended, if it did so without a byte of an answer.
    pub(super) fn unanswered(&self) -> Option<End> {
        self.standing.ending().unanswered()
    }

    /// Whether a byte of the request may have left.
    pub(super) fn has_sent(&self) -> bool {
        self.standing.ending().has_sent()
    }

    /// The next request may turn it into something else.
    pub(super) fn may_switch(&self) {
        self.bond.may_switch.store(true, Ordering::Relaxed);
    }

    /// The next request may be `idle`: so long may the upstream take nothing of it.
    pub(super) fn may_be(&self, idle: &Arc<http::Idle>) {
        *self.bond.governing.lock() = Some(Arc::clone(idle));
    }

    fn is_over(&self) -> bool {
        self.sender.is_closed() || self.standing.is_retired()
    }

    fn is_ready_now(&self) -> bool {
        !self.is_over() && self.sender.is_ready()
    }

    async fn is_ready(&mut self) -> bool {
        !self.is_over()
            && (self.sender.is_ready() || matches!(timeout(READY, self.sender.ready()).await, Ok(Ok(()))))
    }
}

/// A connection that nobody uses, since when, and how long it is kept.
#[derive(Debug)]
struct Resting {
    connection: Connection,
    since: Instant,
    until: Instant,
}

impl<C: Connect> Pool<C> {
    pub(super) fn new(
        connect: Arc<C>,
        destination: Arc<DestinationState>,
        (limits, buffer): (&Limits, usize),
    ) -> Arc<Self> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(limits.head_bytes).max_buf_size(buffer);
        // The parser keeps up to a hundred fields without an allocation of its own.
        if limits.head_fields != 100 {
            builder.max_headers(limits.head_fields);
        }
        let pool = Arc::new(Self { connect, destination, builder, state: Mutex::default() });
        let weak = Arc::downgrade(&pool);
        pool.destination.add_pool(weak);
        pool
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.state.lock().idle.is_empty()
    }

    /// Whether a connection is being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.state.lock().connecting > 0
    }

    /// A connection that is ready, which is wanted since `begin`. Cancel safe.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        demand: &Demand,
        begin: Instant,
    ) -> Result<(Lease, Waited), Reason> {
        let mut now = begin;
        let mut closed = 0;
        let mut max_idle = demand.max_idle;
        loop {
            let popped = self.pop(now, max_idle);
            let (mut connection, pooled) = match popped {
                Some(connection) => (connection, true),
                None => (self.wait(demand, begin).await?, false),
            };
            let fresh = connection.fresh.take();
            let at_once = closed == 0 && pooled && connection.is_ready_now();
            if at_once || fresh.is_some() || connection.is_ready().await {
                let all = if at_once { Duration::ZERO } else { begin.elapsed() };
                let connecting = fresh.map_or(Duration::ZERO, |took| took.min(all));
                let waited = Waited { queued: all - connecting, connecting, closed, fresh: fresh.is_some() };
                let home: Arc<dyn Home> = Arc::clone(self) as _;
                return Ok((Lease { home, connection, keep: Duration::ZERO }, waited));
            }
            closed += 1;
            now = Instant::now();
            if !pooled {
                // What others give back is not believed twice.
                max_idle = Duration::ZERO;
            }
        }
    }

    /// Stands in line.
    async fn wait(self: &Arc<Self>, demand: &Demand, begin: Instant) -> Result<Connection, Reason> {
        let _pending = self.destination.pending(demand.pending).ok_or(Reason::PendingLimit)?;
        let (sender, mut receiver) = oneshot::channel();
        let (mut room, connecting) = {
            let mut state = self.state.lock();
            state.line.push_back(Waiting { since: begin, sender });
            (self.make(&mut state, demand), state.connecting > 0)
        };
        // Whoever makes a connection has a timeout of his own, and tells everybody of it.
        let patience =
            demand.queue_timeout + if connecting { demand.connect_timeout } else { Duration::ZERO };
        let end = begin + patience;
        loop {
            let now = Instant::now();
            let given = async {
                tokio::select! {
                    biased;
                    given = &mut receiver => Some(given),
                    () = self.destination.freed(), if !room => None,
                }
            };
            match timeout_at(end.min(now + LOOK), given).await {
                Ok(Some(Ok(given))) => return given,
                Ok(Some(Err(_gone))) => return Err(Reason::InternalError),
                Ok(None) => room = self.make(&mut self.state.lock(), demand),
                Err(_elapsed) if now + LOOK < end => {
                    room = self.make(&mut self.state.lock(), demand);
                    if !room {
                        self.destination.make_room(LOOK);
                    }
                }
                Err(_elapsed) if self.is_connecting() => return Err(Reason::ConnectTimeout),
                Err(_elapsed) => return Err(Reason::ConnectionLimit),
            }
        }
    }

    /// Makes connections for those in line, as far as the bounds allow; whether the destination's allowed it.
    fn make(self: &Arc<Self>, state: &mut State, demand: &Demand) -> bool {
        state.line.retain(|waiting| !waiting.sender.is_closed());
        while state.connecting < state.line.len().min(CONNECTING) {
            let Some(counted) = self.destination.connection(demand.connections) else {
                return false;
            };
            state.connecting += 1;
            tokio::spawn(Arc::clone(self).make_one(counted, demand.clone()));
        }
        true
    }

    async fn make_one(self: Arc<Self>, counted: Counted, demand: Demand) {
        let began = Instant::now();
        let made = timeout(demand.connect_timeout, self.connect.connect(Protocol::Http1)).await;
        let made = match made {
            Ok(Ok(connected)) => self.begin(connected, counted, began).await,
            Ok(Err(reason)) => not_made(counted, reason),
            Err(_elapsed) => not_made(counted, Reason::ConnectTimeout),
        };
        let mut state = self.state.lock();
        state.connecting = state.connecting.saturating_sub(1);
        match made {
            Ok(connection) => {
                self.give(&mut state, connection, demand.keep);
                self.make(&mut state, &demand);
            }
            // An application that has no room for a connection may have it for the next one: who has waited for as long as one
            // takes has no time left, the others have.
            Err(Reason::ConnectTimeout) => {
                while let Some(first) = state.line.pop_front_if(|first| first.since <= began) {
                    let _gone = first.sender.send(Err(Reason::ConnectTimeout));
                }
                self.make(&mut state, &demand);
            }
            // What failed for one would fail for the others.
            Err(reason) => {
                for waiting in state.line.drain(..) {
                    let _gone = waiting.sender.send(Err(reason));
                }
            }
        }
    }

    /// Begins HTTP/1 on a new connection. Its task ends with it, or when it has to be cut.
    async fn begin(
        &self,
        connected: Connected,
        counted: Counted,
        began: Instant,
    ) -> Result<Connection, Reason> {
        let (io, standing, cut) = connected.split();
        let bond = Arc::new(Bond::default());
        let io = TokioIo::new(Patient::new(io, Arc::clone(&bond.governing)));
        let (sender, connection) = self.builder.handshake(io).await.map_err(|error| {
            tracing::debug!(%error, "connection could not be used");
            Reason::ConnectFailed
        })?;
        let held = bond.released.give_on_drop();
        tokio::spawn(watch_over(connection, cut, Arc::clone(&bond), counted));
        Ok(Connection { sender, standing, fresh: Some(began.elapsed()), bond, _held: held })
    }

    fn pop(&self, now: Instant, max_idle: Duration) -> Option<Connection> {
        let mut state = self.state.lock();
        // The newest is the last: when it is too old, so are all others.
        let newest = state
            .idle
            .pop_if(|newest| newest.until > now && now.saturating_duration_since(newest.since) <= max_idle);
        newest.map(|newest| newest.connection)
    }

    /// Gives a connection to the first in line, else keeps it for a while.
    fn give(self: &Arc<Self>, state: &mut State, mut connection: Connection, keep: Duration) {
        while let Some(first) = state.line.pop_front() {
            match first.sender.send(Ok(connection)) {
                Ok(()) => return,
                Err(Ok(returned)) => connection = returned,
                Err(Err(_reason)) => return,
            }
        }
        if connection.is_over() || keep.is_zero() {
            return;
        }
        let since = Instant::now();
        state.idle.push(Resting { connection, since, until: since + keep });
        if !state.reaped {
            state.reaped = true;
            tokio::spawn(reap(Arc::downgrade(self)));
        }
    }

    /// Closes what was kept too long; returns when to look again, `None` when nothing is left.
    fn close_expired(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.idle.retain(|idle| idle.until > now && !idle.connection.is_over());
        let next = state.idle.iter().map(|idle| idle.until).min();
        state.reaped = next.is_some();
        next
    }
}

impl<C: Connect> Pooled for Pool<C> {
    fn rested(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        state.idle.retain(|idle| !idle.connection.is_over());
        state.idle.first().map(|idle| now.saturating_duration_since(idle.since))
    }

    fn close_one(&self, least: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock();
        // The first was idle for longest.
        if state.idle.first().is_some_and(|idle| now.saturating_duration_since(idle.since) >= least) {
            state.idle.remove(0);
        }
    }
}

/// Whoever is next in line may have its room.
fn not_made(counted: Counted, reason: Reason) -> Result<Connection, Reason> {
    drop(counted);
    Err(reason)
}

/// The task of a connection: ends with it, with what it was turned into, or when it has to be cut.
async fn watch_over(
    connection: http1::Connection<TokioIo<Patient>, RequestBody>,
    cut: impl Future<Output = ()>,
    bond: Arc<Bond>,
    counted: Counted,
) {
    let over = async {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "upstream connection ended");
        }
        if bond.may_switch.load(Ordering::Relaxed) {
            bond.released.given().await;
        }
    };
    // To a peer that takes nothing, it could not even be said that it is over.
    let given_up = async {
        bond.released.given().await;
        if bond.may_switch.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        sleep(GOODBYE).await;
    };
    tokio::select! {
        biased;
        () = over => {}
        () = cut => bond.cut.cancel(),
        () = given_up => {}
    }
    drop(counted);
}

/// Runs only while there is something to close, and sleeps until then.
async fn reap<C: Connect>(pool: Weak<Pool<C>>) {
    loop {
        let Some(next) = pool.upgrade().and_then(|pool| pool.close_expired()) else {
            return;
        };
        sleep_until(next).await;
    }
}

/// Where a connection goes back to.
trait Home: fmt::Debug + Send + Sync {
    fn put(self: Arc<Self>, connection: Connection, keep: Duration);
}

impl<C: Connect> Home for Pool<C> {
    fn put(self: Arc<Self>, connection: Connection, keep: Duration) {
        if connection.is_over() || keep.is_zero() {
            return;
        }
        let mut state = self.state.lock();
        self.give(&mut state, connection, keep);
    }
}

/// A connection with a request on it. Dropped, the connection is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    home: Arc<dyn Home>,
    connection: Connection,
    keep: Duration,
}

impl Lease {
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Cancelled when its peer is not to be believed any more, whatever it was turned into.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.connection.bond.cut.clone()
    }

    /// How long it may be idle afterwards; nothing: it is not kept.
    pub(crate) fn set_keep(&mut self, keep: Duration) {
        self.keep = keep;
    }

    /// The exchange is over and the connection whole.
    pub(crate) fn keep(self) {
        self.home.put(self.connection, self.keep);
    }
}

#[cfg(test)]
mod tests;
