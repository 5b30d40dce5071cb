//! The socket under a server connection: says when the last byte of a response was handed to the kernel, and ends peers
//! that do not read. Under HTTP/1 it also watches the framing, ends peers that are slow with a head or idle for too
//! long, resets the connection when a response had to be cut short, and lingers after an answer that came before the
//! request's end; under HTTP/2 streams are reset instead, and `serve` ends idle connections.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::io::{Ahead, Gather, whole};

use super::{
    Idle, Limits, Patience,
    framing::{Framing, Position},
    stall,
};

/// How long, and for how many bytes, a peer that is still sending is listened to after the answer: closing at once
/// would reset the connection, and the answer could be lost with it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What an HTTP connection runs on.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the close of the connection a reset, so that the peer cannot take it for the end of a message.
    fn reset_on_close(&self);

    /// Whether something that was flushed is still to be written.
    fn holds_back(&self) -> bool {
        false
    }
}

impl Transport for TcpStream {
    fn reset_on_close(&self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "connection could not be set to reset");
        }
    }
}

impl Transport for Ahead {
    fn reset_on_close(&self) {
        self.socket().reset_on_close();
    }
}

impl<T: Transport> Transport for tokio_rustls::server::TlsStream<T> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

impl<T: Transport> Transport for tokio_rustls::client::TlsStream<T> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

/// Called once with the moment at which the last byte of a response was accepted by the kernel, or `None` when the
/// connection ended before.
type OnFlushed = Box<dyn FnOnce(Option<Instant>) + Send>;

/// What the requests of a connection and its socket share.
#[derive(Default)]
pub(crate) struct Link {
    multiplexed: bool,
    /// Between two sidecars.
    mesh: bool,
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// When the last answer was complete.
    answered: Mutex<Option<Instant>>,
    ambiguous: AtomicBool,
    timed_out: AtomicBool,
    reset: AtomicBool,
    flushed: Mutex<Vec<OnFlushed>>,
    /// How long the exchange that has the connection may be idle.
    idle: Mutex<Option<Arc<Idle>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("busy", &self.busy).finish_non_exhaustive()
    }
}

impl Link {
    /// A request is being answered: meanwhile neither the idle nor the head timeout runs.
    pub(crate) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::AcqRel);
    }

    /// It no longer is, since `now`.
    pub(crate) fn finish(&self, now: Instant) {
        *self.answered.lock() = Some(now);
        self.busy.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Whether there has been a request yet.
    pub(super) fn is_used(&self) -> bool {
        self.is_busy() || self.answered.lock().is_some()
    }

    /// Since when there is no request, at the earliest since `born`; `None`: there is one.
    pub(super) fn idle_since(&self, born: Instant) -> Option<Instant> {
        (!self.is_busy()).then(|| self.answered.lock().unwrap_or(born))
    }

    /// Since when the peer is waited for: at the earliest since it has the last answer, and not at all before: one that
    /// reads slowly is not idle, and nothing may be written into the middle of what it still has to get.
    fn waiting_since(&self, since: Instant, now: Instant) -> Instant {
        if self.is_busy() || !self.flushed.lock().is_empty() {
            return now;
        }
        self.answered.lock().map_or(since, |answered| answered.max(since))
    }

    /// The peer's framing can be understood in two ways: nothing more of this connection may be believed.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Relaxed)
    }

    /// The peer did not finish a head in time and was told so.
    pub(crate) fn head_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// A response had to be cut short: the peer must see a reset, never an end. A stream is reset by its own parser.
    pub(crate) fn cut_short(&self) {
        if !self.multiplexed {
            self.reset();
        }
    }

    /// The whole connection has to end with a reset.
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Whether it is one of HTTP/1 between two sidecars.
    pub(super) fn is_mesh(&self) -> bool {
        self.mesh
    }

    /// Whether its requests are streams, each with a window of its own.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// The exchange that runs may be `idle` for so long: whoever does not take what he is sent has as long as well.
    pub(crate) fn may_be(&self, idle: &Arc<Idle>) {
        if self.multiplexed {
            stall::may_be(idle);
        } else {
            *self.idle.lock() = Some(Arc::clone(idle));
        }
    }

    /// Calls `done` when everything written so far is in the kernel's hands, or the connection is gone.
    pub(crate) fn on_flushed(&self, done: OnFlushed) {
        let earlier = {
            let mut flushed = self.flushed.lock();
            // A pipelined response may follow before the one before it was flushed.
            let earlier = if self.multiplexed { None } else { flushed.pop() };
            flushed.push(done);
            earlier
        };
        if let Some(earlier) = earlier {
            earlier(Some(Instant::now()));
        }
    }

    fn flushed(&self, at: Option<Instant>) {
        let done = std::mem::take(&mut *self.flushed.lock());
        if done.is_empty() {
            return;
        }
        *self.answered.lock() = at;
        for done in done {
            done(at);
        }
    }
}

#[derive(Debug)]
enum Closing {
    No,
    Lingering { until: Instant, bytes: usize },
    Done,
}

/// A transport with the watch described above.
#[derive(Debug)]
pub(crate) struct Guarded<T: Transport> {
    /// `None` only after [`Self::into_inner`].
    io: Option<T>,
    /// Read before `io`.
    prefix: Bytes,
    /// `None` under HTTP/2.
    framing: Option<Framing>,
    link: Arc<Link>,
    head_timeout: Duration,
    idle_timeout: Duration,
    since: Option<(Position, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// For a peer that does not read, and how long it need not.
    writing: Patience,
    unread: Arc<Idle>,
    closing: Closing,
}

impl<T: Transport> Guarded<Gather<T>> {
    /// Watches `io` under HTTP/2, of which `prefix` was read already.
    pub(crate) fn http2(io: T, prefix: Bytes, limits: &Limits) -> Self {
        Self::new(Gather::new(io), prefix, limits, (None, false))
    }
}

impl<T: Transport> Guarded<T> {
    /// Watches `io` under HTTP/1, of which `prefix` was read already.
    pub(crate) fn http1(io: T, prefix: Bytes, limits: &Limits) -> Self {
        Self::new(io, prefix, limits, (Some(Framing::new()), false))
    }

    /// The same, of a sidecar: what it sends after our end of the connection is listened to and dropped until it has
    /// seen that end, which tells it that nothing of it was looked at. A reset could overtake the end.
    pub(crate) fn mesh_http1(io: T, limits: &Limits) -> Self {
        Self::new(io, Bytes::new(), limits, (Some(Framing::new()), true))
    }

    fn new(io: T, prefix: Bytes, limits: &Limits, (framing, mesh): (Option<Framing>, bool)) -> Self {
        Self {
            io: Some(io),
            prefix,
            link: Arc::new(Link { multiplexed: framing.is_none(), mesh, ..Link::default() }),
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            since: None,
            timer: None,
            writing: Patience::new(None),
            // Streams end by themselves, each in its own time.
            unread: Idle::new(if framing.is_none() { limits.inbound_idle } else { limits.body_timeout }),
            closing: Closing::No,
            framing,
        }
    }

    /// The first bytes came at `since`: the time for the first head runs from then on.
    pub(crate) fn begun(mut self, since: Instant) -> Self {
        self.since = Some((Position::Head, since));
        self
    }

    /// What the service of this connection needs of it.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The transport itself and what was read of it, when the connection left HTTP.
    pub(crate) fn into_inner(mut self) -> Option<(T, Bytes)> {
        let prefix = std::mem::take(&mut self.prefix);
        self.io.take().map(|io| (io, prefix))
    }

    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        let io = self.io.as_mut().map(Pin::new);
        io.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn take_prefix(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.prefix.is_empty() || buffer.remaining() == 0 {
            return false;
        }
        let taken = self.prefix.split_to(self.prefix.len().min(buffer.remaining()));
        buffer.put_slice(&taken);
        true
    }

    fn watch(&mut self, bytes: &[u8]) {
        if let Some(framing) = &mut self.framing {
            framing.feed(bytes);
            if framing.is_ambiguous() {
                self.link.ambiguous.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Where the peer is; streams are not followed.
    fn position(&self) -> Position {
        self.framing.as_ref().map_or(Position::Body, Framing::position)
    }

    /// Until when the peer has to go on, if it has to.
    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let position = self.position();
        let patience = match position {
            Position::Between => self.idle_timeout,
            Position::Head => self.head_timeout,
            // Bodies have a timeout of their own, where they are forwarded.
            Position::Body => return None,
        };
        let since = match self.since {
            Some((before, since)) if before == position => since,
            _ => self.since.insert((position, now)).1,
        };
        Some(self.link.waiting_since(since, now) + patience)
    }

    /// Nothing to read: has the peer been given enough time? Ready when it has.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Position> {
        let position = self.position();
        // Armed where the peer is now, the timer fires too early at worst: no clock is read before it does.
        if self.since.is_some_and(|(before, _)| before == position)
            && let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        loop {
            let now = Instant::now();
            let Some(deadline) = self.deadline(now) else {
                return Poll::Pending;
            };
            if now >= deadline {
                return Poll::Ready(self.position());
            }
            // The timer is armed although a request may be in flight: nobody polls here again just because it is over.
            // One that fires too early is put off then, and only one that would fire too late is put forward now, so
            // that a busy connection does not touch the timer wheel with each request.
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.deadline() > deadline || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// Tells the peer that its head took too long. Nothing else is being written then, so the few bytes fit or the peer
    /// does not read anyway.
    fn answer_timeout(&mut self, cx: &mut Context<'_>) {
        self.link.timed_out.store(true, Ordering::Relaxed);
        if let Ok(mut io) = self.io()
            && io.as_mut().poll_write(cx, REQUEST_TIMEOUT).is_ready()
        {
            let _flushed = io.poll_flush(cx).is_ready();
        }
    }

    /// Tells those who wait for it that everything written so far is in the kernel's hands, if it is.
    fn note_flushed(&self) {
        let held = self.io.as_ref().is_some_and(Transport::holds_back);
        if !held && !self.link.flushed.lock().is_empty() {
            self.link.flushed(Some(Instant::now()));
        }
    }

    /// Passes the result of a write on, unless the peer took nothing for too long.
    fn poll_progress<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.writing.reset();
            return result;
        }
        let idle = self.link.idle.lock().clone();
        ready!(self.writing.poll_idle(cx, idle.as_ref().unwrap_or(&self.unread)));
        self.link.reset();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and forgets what the peer still sends, within bounds.
    fn poll_linger(&mut self, cx: &mut Context<'_>, until: Instant, mut bytes: usize) -> Poll<()> {
        let mut waste = [0; 4096];
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        timer.as_mut().reset(until);
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            let Ok(io) = self.io() else {
                return Poll::Ready(());
            };
            match io.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && bytes > 0 => {
                    bytes = bytes.saturating_sub(buffer.filled().len());
                    self.closing = Closing::Lingering { until, bytes };
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<T: Transport> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if !this.take_prefix(buffer) {
            let read = this.io()?.poll_read(cx, buffer);
            // What was held back was written just now.
            if this.framing.is_none() {
                this.note_flushed();
            }
            match read {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if ready!(this.poll_patience(cx)) == Position::Head {
                        this.answer_timeout(cx);
                    }
                    // To the parser it looks as if the peer had closed.
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        this.watch(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.io()?.poll_write(cx, bytes);
        self.poll_progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match self.framing {
            Some(_) => whole::poll_write(self.io()?, cx, slices),
            // What is gathered is one already.
            None => self.io()?.poll_write_vectored(cx, slices),
        };
        self.poll_progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.io()?.poll_flush(cx);
        ready!(self.poll_progress(cx, flushed))?;
        self.note_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.closing {
                Closing::No => {
                    // Sends what says "no more" and only then listens to what the peer still has to say.
                    ready!(this.io()?.poll_shutdown(cx))?;
                    let position = this.framing.as_ref().map_or(Position::Between, Framing::position);
                    this.closing = match position {
                        Position::Between if !this.link.mesh => Closing::Done,
                        Position::Between | Position::Head | Position::Body => {
                            Closing::Lingering { until: Instant::now() + LINGER, bytes: LINGER_BYTES }
                        }
                    };
                }
                Closing::Lingering { until, bytes } => {
                    ready!(this.poll_linger(cx, until, bytes));
                    this.closing = Closing::Done;
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<T: Transport> Drop for Guarded<T> {
    fn drop(&mut self) {
        if self.link.reset.load(Ordering::Relaxed)
            && let Some(io) = &self.io
        {
            io.reset_on_close();
        }
        self.link.flushed(None);
    }
}

#[cfg(test)]
mod tests;
