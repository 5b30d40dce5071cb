//! The proxy as a whole: what is started in which order, when it is ready, and how it stops.
//!
//! ```text
//! state directory -> identity's origin -> listeners -> join -> last known good -> discovery -> ready -> registered
//! SIGTERM or drain -> withdrawn from the registry -> not ready, connections close -> in flight to the deadline -> listeners
//! ```
//!
//! Everything here runs on the control thread; traffic has threads of its own.

mod figures;
mod kept;
mod metrics;
mod state;
mod stop;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use outrigger_core::model::Name;
use outrigger_process::{
    exit::Exit,
    health::{self, Health},
    logging::{self, Destination},
    memory,
    shutdown::Shutdown,
};
use outrigger_tls::{
    Identity,
    grpc::{ChannelError, ServerTrust, channel_lazy},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;

use crate::{
    admin::Progress,
    data_path::{DataPath, DataPathHandles, DataPathSettings},
    discovery::{Discovery, Link, Status, last_known_good::Store},
    endpoint::States,
    identity::{JoinError, NoIdentity, Origin, Renewal, TokenError, join, origin},
    registration::{self, Registration},
    report::{self, Reporter},
    settings::{CredentialStore, Settings},
    snapshot,
    telemetry::{AccessLog, Telemetry},
};

pub use state::{Addresses, StateError, place};
pub use stop::{FAREWELL, shutdown_deadline};

use figures::DataPathFigures;
use metrics::ControlMetrics;
use state::StateDir;

/// For the name of the control plane.
const RESOLUTION: Duration = Duration::from_secs(1);
/// A timer does not count the time that a machine sleeps: the clock is looked at so often.
const LOOK: Duration = Duration::from_secs(600);
/// After it was ready, a proxy is registered and has reported, and what is code for a start has run.
const SETTLED: Duration = Duration::from_secs(1);

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its own directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nothing to be somebody with.
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    /// The control plane's address.
    #[error(transparent)]
    ControlPlane(#[from] ChannelError),
    /// The health endpoint.
    #[error(
        "health.listen: cannot listen on {address}; is another sidecar running here? Write port 0 for any free one"
    )]
    Health {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Listeners or workers.
    #[error(transparent)]
    DataPath(#[from] crate::data_path::StartError),
}

/// A proxy that has its listeners and is not in the mesh yet.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    state: StateDir,
    instance: Name,
    origin: Origin,
    identity: Identity,
    channel: Channel,
    /// Until it runs.
    discovery: Option<Discovery>,
    last_known_good: Store,
    /// When the control plane was last heard of, before this start if there was an earlier one.
    heard_of: SystemTime,
    status: watch::Receiver<Status>,
    data_path: DataPath,
    telemetry: Telemetry,
    access_log: Option<AccessLog>,
    snapshot: snapshot::Handle,
    renewal_failures: Arc<AtomicU64>,
    health: Health,
    addresses: Addresses,
    shutdown: Shutdown,
    /// How far a stop is, for who asks on the admin socket.
    progress: watch::Sender<Progress>,
    /// Ends everything on the control thread.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl App {
    /// Takes hold of the state directory, finds out how to become somebody, and binds all listeners. `token`: the
    /// environment's join token; a file of the settings goes before it. Blocks while it reads.
    ///
    /// # Errors
    /// If something is missing that waiting does not bring; nothing is left running then.
    pub async fn start(
        settings: Settings,
        token: Option<&str>,
        shutdown: Shutdown,
    ) -> Result<Self, StartError> {
        let state = StateDir::open(settings.state_dir.as_deref())?;
        let instance = state.instance(settings.instance.as_deref())?;
        let token = crate::identity::read_token(settings.join.token_file.as_deref(), token)?;
        let dir = (settings.join.credential == CredentialStore::Disk).then(|| state.credential());
        let origin = origin(dir.as_ref(), token, SystemTime::now())?;
        let identity = Identity::empty();
        let trust = ServerTrust::Bundle(identity.clone());
        let channel = channel_lazy(&settings.control_plane.address, trust, Some(&identity))?;

        let mut registry = Registry::default();
        logging::register(registry.sub_registry_with_prefix("outrigger"));
        let access = || AccessLog::start(settings.log.format, Destination::stderr());
        let access_log = settings.log.access.then(access).flatten();
        let telemetry = Telemetry::new(&mut registry, access_log.clone());
        let handle = snapshot::Handle::default();
        let discovery = Discovery::new(handle.clone(), States::default());
        let last_known_good = Store::new(state.path());
        let renewal_failures = Arc::new(AtomicU64::new(0));
        registry.register_collector(Box::new(ControlMetrics {
            identity: identity.clone(),
            status: discovery.status(),
            renewal_failures: Arc::clone(&renewal_failures),
            kept: last_known_good.figures(),
        }));

        let failed = |source| StartError::Health { address: settings.health.listen, source };
        let listener = TcpListener::bind(settings.health.listen).await.map_err(failed)?;
        let health_address = listener.local_addr().map_err(failed)?;
        let handles = DataPathHandles {
            identity: identity.clone(),
            snapshot: handle.clone(),
            discover: Arc::new(discovery.demand()),
            telemetry: telemetry.clone(),
        };
        let data_path = DataPath::start(&data_path_settings(&settings).await, handles)?;
        let socket = stop::bind(&state)?;
        let addresses = Addresses {
            outbound: data_path.outbound(),
            services: data_path.services().to_vec(),
            inbound: data_path.inbound().to_vec(),
            health: health_address,
        };
        // Who finds them there finds everything there.
        state.write_addresses(&addresses, settings.addresses_file.as_deref())?;
        tracing::info!(
            outbound = %addresses.outbound,
            services = ?addresses.services,
            inbound = ?addresses.inbound,
            health = %addresses.health,
            instance = %instance,
            "listening"
        );

        let health = Health::new("starting");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let registry = Arc::new(registry);
        let metrics: health::Metrics = Arc::new(move |text| encode(text, &registry));
        tasks.spawn(health::serve(listener, health.clone(), metrics, stop.clone()));
        let progress = stop::serve(socket, &data_path, &shutdown, (&stop, &tasks));
        Ok(Self {
            settings,
            state,
            instance,
            origin,
            identity,
            channel,
            status: discovery.status(),
            discovery: Some(discovery),
            last_known_good,
            heard_of: SystemTime::now(),
            data_path,
            telemetry,
            access_log,
            snapshot: handle,
            renewal_failures,
            health,
            addresses,
            shutdown,
            progress,
            stop,
            tasks,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Whether it is ready, and why not.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Joins the mesh and carries traffic until the shutdown has drained it.
    ///
    /// # Errors
    /// If the control plane refuses the join.
    pub async fn run(mut self) -> Result<Exit, JoinError> {
        let draining = self.shutdown.draining().clone();
        let renew_after = tokio::select! {
            joined = self.join() => joined?,
            () = draining.cancelled() => return Ok(self.end(None, None).await),
        };
        let missing = self.recall().await;
        let reporter = self.enter(renew_after);
        tokio::select! {
            () = configured(self.status.clone(), &self.health, missing) => {}
            () = draining.cancelled() => return Ok(self.end(None, Some(reporter)).await),
        }
        self.health.set_ready();
        tracing::info!(id = self.identity.id().map(tracing::field::display), "ready");
        let registration = self.register();
        self.tasks.spawn(settle(self.stop.clone()));
        tokio::select! {
            () = watch_expiry(&self.identity, &self.health) => {}
            () = draining.cancelled() => {}
        }
        Ok(self.end(registration, Some(reporter)).await)
    }

    /// Becomes somebody; returns when the control plane wants the credential renewed, if it said so.
    async fn join(&self) -> Result<Option<SystemTime>, JoinError> {
        let (credential, renew_after) = match &self.origin {
            Origin::Kept(kept) => (kept.clone(), None),
            Origin::Token(token) => {
                self.health.set_not_ready("joining the mesh");
                let address = &self.settings.control_plane.address;
                let waiting = |reason: &str| self.health.set_not_ready(format!("joining the mesh: {reason}"));
                join(address, token, self.credential_dir().as_deref(), waiting).await?
            }
        };
        tracing::info!(
            id = %credential.svid.id(),
            kept = matches!(self.origin, Origin::Kept(_)),
            "this proxy has an identity"
        );
        self.identity.set_bundle(credential.bundle);
        self.identity.set_svid(credential.svid);
        Ok(renew_after)
    }

    fn credential_dir(&self) -> Option<std::path::PathBuf> {
        (self.settings.join.credential == CredentialStore::Disk).then(|| self.state.credential())
    }

    /// Starts what an identity is needed for.
    fn enter(&mut self, renew_after: Option<SystemTime>) -> Reporter {
        let renewal = Renewal {
            channel: self.channel.clone(),
            identity: self.identity.clone(),
            dir: self.credential_dir(),
            renew_after,
            failures: Arc::clone(&self.renewal_failures),
        };
        self.tasks.spawn(renewal.run(self.stop.clone()));
        if let Some(discovery) = self.discovery.take() {
            self.keep(&discovery);
            let link = Link {
                channel: self.channel.clone(),
                identity: self.identity.clone(),
                instance: self.instance.clone(),
            };
            self.tasks.spawn(discovery.run(link, self.stop.clone()));
        }
        let status = self.status.clone();
        self.tasks.spawn(report::applied(
            self.channel.clone(),
            status,
            self.identity.clone(),
            self.stop.clone(),
        ));
        let (mut swapped, activity) = (self.status.clone(), self.telemetry.activity().clone());
        let stopped = self.stop.clone();
        self.tasks.spawn(async move {
            while let Some(Ok(())) = stopped.run_until_cancelled(swapped.changed()).await {
                activity.note();
            }
        });
        let figures = DataPathFigures { telemetry: self.telemetry.clone(), snapshot: self.snapshot.clone() };
        Reporter::start(self.channel.clone(), Arc::new(figures), &self.instance)
    }

    fn register(&self) -> Option<registration::Running> {
        if self.settings.inbound.is_empty() {
            tracing::info!("nothing inbound: this workload is not registered");
            return None;
        }
        let ports = self.settings.inbound.iter().zip(&self.addresses.inbound);
        let registration = Registration {
            instance: self.instance.clone(),
            ports: ports
                .map(|(pair, bound)| registration::Port {
                    name: pair.name.clone(),
                    application_port: pair.app.port(),
                    protocol: pair.protocol.into(),
                    address: pair.advertise.unwrap_or(*bound),
                })
                .collect(),
            epoch: epoch(SystemTime::now()),
        };
        Some(registration::start(self.channel.clone(), &registration))
    }
}

async fn data_path_settings(settings: &Settings) -> DataPathSettings {
    DataPathSettings {
        workers: settings.workers,
        outbound: settings.outbound.listen,
        services: settings.outbound.services.clone(),
        inbound: settings.inbound.clone(),
        limits: crate::http::Limits::from(&settings.limits),
        overload: settings.overload,
        never_dialled: control_plane_addresses(&settings.control_plane.address).await,
    }
}

/// The workload has no business with the control plane. What a name stands for later is not looked after: whoever
/// reaches the control plane by another address has to prove who they are all the same.
async fn control_plane_addresses(address: &str) -> Vec<IpAddr> {
    match timeout(RESOLUTION, tokio::net::lookup_host(address)).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Waits for the first configuration, and says meanwhile what is missing; `why` there is no last known good.
async fn configured(mut status: watch::Receiver<Status>, health: &Health, why: String) {
    loop {
        let now = status.borrow_and_update().clone();
        if now.configured {
            return;
        }
        health.set_not_ready(if now.connected {
            "waiting for the configuration".to_owned()
        } else {
            format!("waiting for the control plane: {why}")
        });
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Gives back what only the start needed in memory.
async fn settle(stop: CancellationToken) {
    if stop.run_until_cancelled(sleep_until(Instant::now() + SETTLED)).await.is_none() {
        return;
    }
    // Takes some milliseconds.
    let Ok(released) = spawn_blocking(memory::release_code).await else { return };
    match released {
        Ok(bytes) => tracing::debug!(bytes, "code was given back to the page cache"),
        Err(error) => tracing::debug!(%error, "code stays in memory"),
    }
}

/// Without end: not ready while the credential is expired, since no peer talks to us then.
async fn watch_expiry(identity: &Identity, health: &Health) {
    let mut changed = identity.changed();
    loop {
        let left = identity
            .svid()
            .and_then(|svid| svid.not_after().duration_since(SystemTime::now()).ok())
            .filter(|left| !left.is_zero());
        match left {
            Some(_) => health.set_ready(),
            None => health.set_not_ready("the credential has expired"),
        }
        let look = Instant::now() + left.unwrap_or(LOOK).min(LOOK);
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            () = sleep_until(look) => {}
        }
    }
}

/// Grows from run to run of one instance, as long as its clock does.
fn epoch(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
