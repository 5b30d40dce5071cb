//! Workers: threads with a runtime each, which carry the traffic. A connection stays with its worker, and so do the
//! pools that its requests use.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use tokio::{net::TcpStream, runtime, sync::mpsc};

use crate::{
    accept::{Accepted, BoundListener, Listener},
    data_path::Shared,
    inbound::Inbound,
    outbound::Outbound,
    overload::Line,
    settings::InboundProtocol,
};

/// Sockets that wait for a worker to take them; the accepting task waits when there are more.
const WAITING: usize = 256;

/// All workers.
#[derive(Debug)]
pub(crate) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Starts `count` workers; the listeners accept on the first one's thread.
    pub(crate) fn start(
        count: NonZeroU16,
        shared: &Arc<Shared>,
        listeners: Vec<BoundListener>,
    ) -> io::Result<Self> {
        let mut queues = Vec::new();
        let mut starts = Vec::new();
        for index in 0..count.get() {
            let (sender, receiver) = mpsc::channel(WAITING);
            let load = Arc::new(AtomicUsize::new(0));
            queues.push((sender, Arc::clone(&load)));
            // Made here, so that failing to make one stops the start.
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            starts.push((index, runtime, receiver, load));
        }
        let handoff = Handoff(Arc::from(queues));
        let mut listeners = Some(listeners);
        let mut threads = Vec::new();
        for (index, runtime, receiver, load) in starts {
            let shared = Arc::clone(shared);
            let listeners = listeners.take().unwrap_or_default();
            let handoff = handoff.clone();
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                runtime.block_on(async {
                    for listener in listeners {
                        tokio::spawn(listener.accept(Arc::clone(&shared), handoff.clone()));
                    }
                    // The senders live in the accepting tasks only.
                    drop(handoff);
                    Worker::new(shared, load).run(receiver).await;
                });
                // What is still open is cut, here and not by waiting for it.
                runtime.shutdown_background();
            })?;
            threads.push(thread);
        }
        Ok(Self(threads))
    }

    /// Waits for all threads. Blocks.
    pub(crate) fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("worker panicked");
            }
        }
    }
}

/// Gives sockets to workers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handoff(Arc<[(mpsc::Sender<Accepted>, Arc<AtomicUsize>)]>);

impl Handoff {
    /// Gives `accepted` to the worker with the fewest connections.
    pub(crate) async fn give(&self, accepted: Accepted) {
        let least = self.0.iter().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        if let Some((sender, load)) = least {
            load.fetch_add(1, Ordering::Relaxed);
            if sender.send(accepted).await.is_err() {
                load.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Where an application listens, and what it speaks there.
type Application = (SocketAddr, InboundProtocol);

/// What one worker keeps between connections.
struct Worker {
    shared: Arc<Shared>,
    load: Arc<AtomicUsize>,
    line: Option<Arc<Line>>,
    outbound: Arc<Outbound>,
    /// One per application, and what it speaks, that a connection came for.
    inbound: Mutex<Vec<(Application, Arc<Inbound>)>>,
}

impl Worker {
    fn new(shared: Arc<Shared>, load: Arc<AtomicUsize>) -> Self {
        let line = Line::start(shared.max_delay, &shared.telemetry);
        let outbound = Outbound::new(Arc::clone(&shared), line.clone());
        Self { shared, load, line, outbound, inbound: Mutex::default() }
    }

    async fn run(self, mut queue: mpsc::Receiver<Accepted>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shared.stopped.cancelled() => return,
                accepted = queue.recv() => accepted,
            };
            match accepted {
                Some(accepted) => self.take(accepted),
                None => return self.shared.stopped.cancelled().await,
            }
        }
    }

    fn take(&self, accepted: Accepted) {
        let Accepted { listener, stream, peer, connection } = accepted;
        let load = Loaded(Arc::clone(&self.load));
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepted socket could not be taken");
                return;
            }
        };
        crate::accept::tune(&stream);
        let connection = Arc::new((connection, load));
        match listener {
            Listener::Outbound => {
                let outbound = Arc::clone(&self.outbound);
                self.shared.tasks.spawn(outbound.serve(stream, peer, connection));
            }
            Listener::Service { target } => {
                let outbound = Arc::clone(&self.outbound);
                self.shared.tasks.spawn(outbound.serve_service(stream, peer, connection, target));
            }
            Listener::Inbound { app, protocol } => {
                let inbound = self.inbound((app, protocol));
                let counted = self.shared.inbound_tasks.token();
                self.shared.tasks.spawn(async move {
                    inbound.serve(stream, peer).await;
                    drop((connection, counted));
                });
            }
        }
    }

    fn inbound(&self, application: Application) -> Arc<Inbound> {
        let mut inbound = self.inbound.lock();
        if let Some((_, found)) = inbound.iter().find(|(known, _)| *known == application) {
            return Arc::clone(found);
        }
        let new = Inbound::new(Arc::clone(&self.shared), application.0, application.1, self.line.clone());
        inbound.push((application, Arc::clone(&new)));
        new
    }
}

/// One connection more at a worker, until it is dropped.
#[derive(Debug)]
pub(crate) struct Loaded(Arc<AtomicUsize>);

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
