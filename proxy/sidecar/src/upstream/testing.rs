//! What the tests of both pools begin with: an application that is dialled, whose connections are seen as they come and go, and a clock
//! that is moved by hand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::reason::Reason;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{self, Instant},
};

use super::{Connect, Connected, Demand, FirstWord, Io, Protocol};
use crate::{endpoint::DestinationState, http::Overheard};

pub(super) const KEEP: Duration = Duration::from_secs(1);
pub(super) const FRESH: Duration = Duration::from_millis(100);

/// Dials it.
#[derive(Debug)]
pub(super) struct Plain(SocketAddr);

impl Connect for Plain {
    async fn connect(&self, _protocol: Protocol) -> Result<Connected, Reason> {
        let stream = TcpStream::connect(self.0).await.map_err(|_refused| Reason::ConnectFailed)?;
        Ok(Connected { io: Io::Plain(stream, Arc::new(FirstWord::plain())), trust: None })
    }

    fn refused(&self, _refused: &Overheard) {}
}

/// An application, and its connections as they come and go.
pub(super) struct Dialled {
    pub(super) plain: Arc<Plain>,
    pub(super) destination: Arc<DestinationState>,
    opened: mpsc::UnboundedReceiver<()>,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Dialled {
    /// `serve` serves a connection to its end.
    pub(super) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = Arc::new(Plain(listener.local_addr().unwrap()));
        let ((open, opened), (close, closed)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                open.send(()).unwrap();
                let (served, close) = (serve(stream), close.clone());
                tokio::spawn(async move {
                    served.await;
                    let _over = close.send(());
                });
            }
        });
        let destination = Arc::new(DestinationState::new(Instant::now().into_std()));
        Self { plain, destination, opened, closed }
    }

    /// So many connections were opened since this was last asked.
    pub(super) fn opened(&mut self) -> usize {
        std::iter::from_fn(|| self.opened.try_recv().ok()).count()
    }

    /// Waits for one to be closed.
    pub(super) async fn closed(&mut self) {
        self.closed.recv().await.unwrap();
    }
}

pub(super) fn demand(max_idle: Duration) -> Demand {
    Demand {
        max_idle,
        keep: KEEP,
        closes_silently: true,
        connect_timeout: Duration::from_secs(5),
        queue_timeout: Duration::from_secs(5),
        connections: 16,
        pending: 1024,
    }
}

pub(super) async fn pass(duration: Duration) {
    time::pause();
    time::advance(duration).await;
    time::resume();
}
