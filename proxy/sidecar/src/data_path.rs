//! The whole data path: its listeners, its workers, and what they share. Started and drained by `app`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use outrigger_tls::Identity;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{BoundListener, Listener},
    headers::Hop,
    http::Limits,
    outbound::Discover,
    overload::Applications,
    settings::{self, Overload},
    signal::Signal,
    snapshot::Handle,
    telemetry::Telemetry,
    tunnel,
    worker::Workers,
};

/// For idle connections to be told that they are over.
const TELL: Duration = Duration::from_millis(100);

/// What the operator decided about the data path.
#[derive(Debug, Clone)]
pub struct DataPathSettings {
    /// How many threads carry traffic.
    pub workers: NonZeroU16,
    /// Where the forward proxy for the own workload listens; loopback only.
    pub outbound: SocketAddr,
    /// What else the own workload connects to, each leading to one service; loopback only.
    pub services: Vec<settings::ServiceListener>,
    /// What peers reach.
    pub inbound: Vec<settings::Inbound>,
    /// Bounds for every connection.
    pub limits: Limits,
    /// What becomes of requests that are too many.
    pub overload: Overload,
    /// Addresses outside the mesh that are never dialled, beside those that never are: the control plane's.
    pub never_dialled: Vec<IpAddr>,
}

/// What the data path reads while it runs; each is swapped by somebody else.
#[derive(Debug, Clone)]
pub struct DataPathHandles {
    /// Who we are and whom we trust.
    pub identity: Identity,
    /// The configuration in force.
    pub snapshot: Handle,
    /// Who is asked for a name that the configuration does not hold yet.
    pub discover: Arc<dyn Discover>,
    /// Where it is counted.
    pub telemetry: Telemetry,
}

/// Why the data path could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener would be an open proxy with this workload's identity.
    #[error(
        "{setting}: {address} has to be a loopback address, since whoever reaches it speaks as this workload"
    )]
    NotLoopback {
        /// Which setting asks for it.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// An application's address is one of the proxy's own: requests would run in a circle.
    #[error("inbound application {0} is the proxy's own listener")]
    OwnListener(SocketAddr),
    /// A listener.
    #[error(
        "{setting}: cannot listen on {address}; is another sidecar running here? Write port 0 for any free one"
    )]
    Listen {
        /// Which setting asks for it.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A worker.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) snapshot: Handle,
    pub(crate) discover: Arc<dyn Discover>,
    pub(crate) telemetry: Telemetry,
    pub(crate) limits: Limits,
    /// Limits on what the own applications are given.
    pub(crate) applications: Applications,
    /// How long what is ready may wait for its turn on a worker; zero: as long as it takes.
    pub(crate) max_delay: Duration,
    pub(crate) hop: Hop,
    pub(crate) never_dialled: Vec<IpAddr>,
    /// Inbound connections finish what they do, and take no further request.
    pub(crate) draining_inbound: Signal,
    /// Outbound ones do; later, since the application may have to call out to finish what came in.
    pub(crate) draining_outbound: Signal,
    /// Everything ends now.
    pub(crate) stopped: CancellationToken,
    /// One task per connection.
    pub(crate) tasks: TaskTracker,
    /// Those of inbound connections, again.
    pub(crate) inbound_tasks: TaskTracker,
}

impl Shared {
    /// Ends everything, now.
    fn stop(&self) {
        self.telemetry.stop();
        self.stopped.cancel();
    }
}

/// A running data path. Dropped, it ends at once; see [`Self::drain`].
#[derive(Debug)]
pub struct DataPath {
    outbound: SocketAddr,
    services: Vec<SocketAddr>,
    inbound: Vec<SocketAddr>,
    shared: Arc<Shared>,
    workers: Option<Workers>,
    /// They were told to end.
    joining: Option<JoinHandle<()>>,
}

/// The accepted connections that are open, counted. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OpenConnections(TaskTracker);

impl OpenConnections {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were not done in time, and were cut.
    pub cut: usize,
}

impl DataPath {
    /// Binds all listeners, then starts the workers. Until an identity and a snapshot are there, requests are answered
    /// 503 and peers' handshakes fail.
    ///
    /// # Errors
    /// If a listener cannot be bound or must not be, or a worker cannot be started; nothing is left running then.
    pub fn start(settings: &DataPathSettings, handles: DataPathHandles) -> Result<Self, StartError> {
        let listeners = Listeners::bind(settings)?;
        let addresses = |listeners: &[BoundListener]| listeners.iter().map(BoundListener::address).collect();
        let (outbound, services, inbound) =
            (listeners.outbound.address(), addresses(&listeners.services), addresses(&listeners.inbound));
        let Overload { application, max_delay } = settings.overload;
        let applications = Applications::new(&settings.inbound, application, &handles.telemetry);
        let shared = Arc::new(Shared {
            applications,
            max_delay,
            identity: handles.identity,
            snapshot: handles.snapshot,
            discover: handles.discover,
            telemetry: handles.telemetry,
            limits: settings.limits.clone(),
            hop: Hop::new(),
            never_dialled: settings.never_dialled.clone(),
            draining_inbound: Signal::default(),
            draining_outbound: Signal::default(),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
            inbound_tasks: TaskTracker::new(),
        });
        let workers = Workers::start(settings.workers, &shared, listeners.into_all()).map_err(|error| {
            // Those that were started before it.
            shared.stop();
            StartError::Worker(error)
        })?;
        Ok(Self { outbound, services, inbound, shared, workers: Some(workers), joining: None })
    }

    /// Where the forward proxy listens.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// Where the own workload reaches one service each, in the order of the settings.
    pub fn services(&self) -> &[SocketAddr] {
        &self.services
    }

    /// Where peers are expected, in the order of the settings.
    pub fn inbound(&self) -> &[SocketAddr] {
        &self.inbound
    }

    pub(crate) fn open(&self) -> OpenConnections {
        OpenConnections(self.shared.tasks.clone())
    }

    /// Stops: requests in flight may finish within `timeout`, each connection is told that it was its last one, and the
    /// listeners go last. The own workload is served as ever until what came in for it is finished. Where the result is
    /// dropped before, [`Self::end`] is what is left to do.
    pub async fn drain(&mut self, timeout: Duration) -> Drained {
        let Shared { draining_inbound, draining_outbound, tasks, inbound_tasks, .. } = &*self.shared;
        let deadline = Instant::now() + timeout;
        inbound_tasks.close();
        draining_inbound.give();
        let inbound_done = timeout_at(deadline, inbound_tasks.wait()).await.is_ok();
        tasks.close();
        draining_outbound.give();
        // Where the time is up, connections without a request still have to be told before the rest is counted.
        let deadline = if inbound_done { deadline } else { Instant::now() + TELL };
        let cut = match timeout_at(deadline, tasks.wait()).await {
            Ok(()) => 0,
            Err(_elapsed) => tasks.len(),
        };
        self.shared.stop();
        self.join().await;
        Drained { cut }
    }

    /// Ends everything at once. Waits for `limit` at most until the workers have said what became of it.
    pub async fn end(&mut self, limit: Duration) {
        self.shared.stop();
        if timeout(limit, self.join()).await.is_err() {
            tracing::warn!("a worker hangs");
        }
    }

    /// Cancel safe.
    async fn join(&mut self) {
        if let Some(workers) = self.workers.take() {
            self.joining = Some(tokio::task::spawn_blocking(move || workers.join()));
        }
        if let Some(joining) = &mut self.joining {
            if let Err(error) = joining.await {
                tracing::error!(%error, "worker ended badly");
            }
            self.joining = None;
        }
    }
}

/// All of them, bound.
struct Listeners {
    outbound: BoundListener,
    services: Vec<BoundListener>,
    inbound: Vec<BoundListener>,
}

impl Listeners {
    fn bind(settings: &DataPathSettings) -> Result<Self, StartError> {
        let outbound = BoundListener::bind(Listener::Outbound, settings.outbound)?;
        let services = settings.services.iter().map(|pair| {
            let listener = Listener::Service { target: Arc::new(pair.target.clone()) };
            BoundListener::bind(listener, pair.listen)
        });
        let services = services.collect::<Result<_, _>>()?;
        let inbound = settings.inbound.iter().map(|pair| {
            let listener = Listener::Inbound { app: pair.app, protocol: pair.protocol };
            BoundListener::bind(listener, pair.listen)
        });
        let inbound = inbound.collect::<Result<_, _>>()?;
        let this = Self { outbound, services, inbound };
        let circle =
            |pair: &&settings::Inbound| this.all().any(|listener| leads_to(pair.app, listener.address()));
        match settings.inbound.iter().find(circle) {
            Some(pair) => Err(StartError::OwnListener(pair.app)),
            None => Ok(this),
        }
    }

    fn all(&self) -> impl Iterator<Item = &BoundListener> {
        std::iter::once(&self.outbound).chain(&self.services).chain(&self.inbound)
    }

    fn into_all(self) -> Vec<BoundListener> {
        std::iter::once(self.outbound).chain(self.services).chain(self.inbound).collect()
    }
}

/// Whether whoever dials `app` may come to `listener`, however the two are written.
fn leads_to(app: SocketAddr, listener: SocketAddr) -> bool {
    let (to, at) = (app.ip().to_canonical(), listener.ip().to_canonical());
    // Dialled, an unspecified address means this machine's loopback.
    let near = to.is_unspecified() || tunnel::is_own(to);
    let same = to == at || (at.is_unspecified() && near) || (to.is_unspecified() && at.is_loopback());
    same && app.port() == listener.port()
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_seen_however_its_addresses_are_written() {
        for (app, listener, circle) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "0.0.0.0:1", true),
            ("127.0.0.1:2", "0.0.0.0:1", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("192.0.2.1:1", "0.0.0.0:1", false),
        ] {
            let found = leads_to(app.parse().unwrap(), listener.parse().unwrap());
            assert_eq!(found, circle, "{app} {listener}");
        }
    }
}
