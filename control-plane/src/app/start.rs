//! The start, in its order: state, authority, store, ports.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outrigger_core::{
    model::{InvalidName, Name, TrustDomain},
    rotation::LeafLife,
};
use outrigger_process::{
    files::{self, DirectoryError},
    health::Health,
    logging,
    shutdown::Shutdown,
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Addresses, Running, serve};
use crate::{
    access::Grant,
    api::guard::Grants,
    audit::Draft,
    authority::{
        Authority, AuthorityError, InvalidPortName, Known, OPERATORS, PortNames, SVID_LIFE, Upkeep,
        UpkeepError,
    },
    backup::INCOMPLETE,
    clock::Clock,
    mesh::{Mesh, Parts},
    registry,
    rotation::{self, Rotation},
    settings::{Policy, Settings},
    status::KNOWN_PROXIES,
    store::{
        Commit, CommitError, Expect, Key, Keyspace, Op, OpenError, Retention, Store, StoreError,
        objects::{LoadError, ObjectStore},
    },
};

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nowhere to keep anything.
    #[error("there is no state directory: set state_dir, or HOME")]
    NoDirectory,
    /// The state directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A backup was restored to it, but not to the end.
    #[error("{0} holds a backup that was not restored to its end; empty it, and restore again")]
    Incomplete(PathBuf),
    /// The trust domain.
    #[error("trust_domain cannot be used")]
    TrustDomain(#[from] InvalidName),
    /// The names of the policy port.
    #[error("policy.names cannot be used")]
    Names(#[from] InvalidPortName),
    /// The store's file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The first write.
    #[error("the first write failed")]
    Commit(#[from] CommitError),
    /// The objects in it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A role in it.
    #[error("the stored '{0}' is not a role; use the version that wrote it, or restore a backup")]
    Role(Key),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// What it makes for us and for the operators.
    #[error(transparent)]
    Upkeep(#[from] UpkeepError),
    /// A port.
    #[error(
        "{setting} = {address} cannot be listened on{}; write port 0 for any free one",
        if source.kind() == io::ErrorKind::AddrInUse { " (is another control plane running?)" } else { "" }
    )]
    Bind {
        /// Which.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file that tells the ports.
    #[error("{path} cannot be written")]
    Addresses {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The registrations in it.
    #[error(transparent)]
    Registry(#[from] registry::LoadError),
    /// The process itself.
    #[error("the start was cut off")]
    Interrupted,
}

/// The authority's directory in the state directory.
pub(super) const AUTHORITY: &str = "authority";
/// The fact about the authority that says how long certificates live.
const LEAVES: &str = "leaves";

/// What the services share.
#[derive(Debug, Clone)]
pub struct State {
    /// The state directory.
    pub directory: PathBuf,
    /// Where everything is kept.
    pub store: Store,
    /// The operators' objects.
    pub objects: ObjectStore,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// What runs out, and is renewed.
    pub upkeep: Upkeep,
    /// How what signs is replaced.
    pub rotation: Rotation,
    /// The operators' roles.
    pub grants: Grants,
    /// What proxies are told, and what they tell.
    pub mesh: Mesh,
    /// The time.
    pub clock: Clock,
}

/// Starts a control plane by `settings`; it stops with `shutdown`.
///
/// # Errors
/// What is in the way; nothing runs then.
pub async fn start(settings: &Settings, clock: Clock, shutdown: Shutdown) -> Result<Running, StartError> {
    let directory = settings.state_directory().ok_or(StartError::NoDirectory)?;
    let addresses_file = directory.join("addresses.json");
    let mut registry = Registry::with_prefix("outrigger");
    logging::register(&mut registry);
    let stop = shutdown.draining().clone();
    let state = Arc::new(open(&directory, &addresses_file, settings, clock, &mut registry, stop).await?);
    let policy = bind("policy.listen", settings.policy.listen).await?;
    let discovery = bind("discovery.listen", settings.discovery.listen).await?;
    let health_port = bind("health.listen", settings.health.listen).await?;
    let addresses = Addresses {
        policy: address(&policy, "policy.listen", settings.policy.listen)?,
        discovery: address(&discovery, "discovery.listen", settings.discovery.listen)?,
        health: address(&health_port, "health.listen", settings.health.listen)?,
    };

    let health = Health::new("the control plane is starting");
    let mut servers = JoinSet::new();
    let mut upkeep = JoinSet::new();
    upkeep.spawn(state.upkeep.clone().run(shutdown.draining().clone()));
    let ports = serve::Ports { policy, discovery };
    serve::spawn(&state, ports, &shutdown, &mut registry, &mut servers);
    let registry = Arc::new(registry);
    let metrics =
        Arc::new(move |text: &mut String| prometheus_client::encoding::text::encode(text, &registry));
    // Answers while the drain lasts, and stops with the process.
    upkeep.spawn(outrigger_process::health::serve(
        health_port,
        health.clone(),
        metrics,
        shutdown.forced().clone(),
    ));

    let text = serde_json::to_vec_pretty(&addresses).unwrap_or_default();
    files::write_atomic(&addresses_file, &text, 0o600)
        .map_err(|source| StartError::Addresses { path: addresses_file.clone(), source })?;
    health.set_ready();
    tracing::info!(
        policy = %addresses.policy,
        discovery = %addresses.discovery,
        health = %addresses.health,
        state = %directory.display(),
        trust_domain = settings.trust_domain,
        revision = state.store.revision(),
        "the control plane is ready"
    );
    Ok(Running { addresses, addresses_file, health, shutdown, servers, upkeep, state })
}

/// Opens or makes everything that is kept.
async fn open(
    directory: &Path,
    addresses_file: &Path,
    settings: &Settings,
    clock: Clock,
    registry: &mut Registry,
    stop: CancellationToken,
) -> Result<State, StartError> {
    let trust_domain: TrustDomain = settings.trust_domain.parse()?;
    files::private_dir(directory)?;
    let authority_directory = directory.join(AUTHORITY);
    files::private_dir(&authority_directory)?;
    if directory.join(INCOMPLETE).exists() {
        return Err(StartError::Incomplete(directory.to_owned()));
    }
    let store = blocking({
        let path = directory.join("store.redb");
        let retention = Retention::from(&settings.history);
        move || Store::open_with(&path, retention)
    })
    .await??;
    // Of a control plane that was killed: nobody should find the way by it. The store is ours by now, so nobody else
    // runs on this directory.
    match fs::remove_file(addresses_file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(StartError::Addresses { path: addresses_file.to_owned(), source });
        }
        _ => {}
    }
    let root = store.get(&Key::authority("root")).await?;
    let state = store.get(&Key::authority("rotation")).await?;
    let leaf_life = leaf_life(&store, settings.authority.leaf_ttl, root.is_some(), &clock).await?;
    let known = Known {
        root: root.as_ref().map(|entry| entry.value.as_slice()),
        state: state.as_ref().map(|entry| entry.value.as_slice()),
        leaf_life,
    };
    let authority = Arc::new(Authority::open(&authority_directory, &trust_domain, &known, clock.clone())?);
    // Before anything is issued by it.
    if root.is_none() {
        store.commit(first(&authority, &clock)?).await?;
    } else {
        keep_leaf_life(&store, &authority, &clock).await?;
    }
    let grants = grants(&store).await?;
    let objects = ObjectStore::load(store.clone()).await?;
    let names = port_names(&settings.policy)?;
    tracing::info!(%names, "the control plane's certificate has these names");
    let upkeep = Upkeep::start(Arc::clone(&authority), names, directory, clock.clone(), registry)?;
    let (trust, told) = watch::channel(rotation::trust(&authority, store.revision()));
    let mesh = Mesh::start(Parts {
        store: store.clone(),
        objects: objects.watch(),
        trust: told,
        trust_domain,
        known: directory.join(KNOWN_PROXIES),
        clock: clock.clone(),
        allow_loopback: settings.registry.allow_loopback,
        stop,
    })
    .await?;
    mesh.metrics().register(registry);
    let rotation = Rotation::new(rotation::Parts {
        authority: Arc::clone(&authority),
        upkeep: upkeep.clone(),
        store: store.clone(),
        mesh: mesh.clone(),
        trust,
        clock: clock.clone(),
        resumed: root.is_some(),
    });
    let directory = directory.to_owned();
    Ok(State { directory, store, objects, authority, upkeep, rotation, grants, mesh, clock })
}

/// What the settings say, or what can be known: the names in the certificate.
fn port_names(policy: &Policy) -> Result<PortNames, InvalidPortName> {
    match &policy.names {
        Some(names) => PortNames::given(names),
        None => {
            let host = rustix::system::uname();
            Ok(PortNames::known(policy.listen.ip(), &host.nodename().to_string_lossy()))
        }
    }
}

/// The first write: the root that everybody will trust, and the roles of the first operators.
fn first(authority: &Authority, clock: &Clock) -> Result<Commit, StartError> {
    let key = Key::authority("root");
    let mut commit = Commit {
        expect: vec![(key.clone(), Expect::Absent)],
        ops: vec![Op::Put { key, value: authority.root_hash().to_vec() }, put_leaf_life(authority)],
        audit: own(authority, clock, "first start"),
    };
    for (name, role) in OPERATORS {
        let name: Name = name.parse()?;
        // Serialising plain data to memory cannot fail.
        let value = serde_json::to_vec(&Grant::mesh(role)).unwrap_or_default();
        commit.ops.push(Op::Put { key: Key::role(&name), value });
    }
    Ok(commit)
}

fn own(authority: &Authority, clock: &Clock, message: &str) -> Draft {
    let id = format!("spiffe://{}/outrigger/control-plane", authority.trust_domain());
    Draft::own(clock.now(), &id, "control_plane.Start", message)
}

/// How long certificates live by the settings of this start, and by those of the starts before.
async fn leaf_life(
    store: &Store,
    leaf_ttl: Duration,
    resumed: bool,
    clock: &Clock,
) -> Result<LeafLife, StartError> {
    let before = match store.get(&Key::authority(LEAVES)).await? {
        Some(entry) => serde_json::from_slice(&entry.value).map_err(AuthorityError::State)?,
        // Of a version whose certificates lived for a day, whatever the settings said.
        None if resumed => LeafLife::first(SVID_LIFE),
        None => LeafLife::first(leaf_ttl),
    };
    Ok(before.started(leaf_ttl, clock.now()))
}

/// Writes it down, if it is another than at the start before.
async fn keep_leaf_life(store: &Store, authority: &Authority, clock: &Clock) -> Result<(), StartError> {
    let op = put_leaf_life(authority);
    let kept = store.get(&Key::authority(LEAVES)).await?;
    let same = matches!(&op, Op::Put { value, .. } if kept.is_some_and(|kept| kept.value == *value));
    if !same {
        let message = "certificates live for another time than at the start before";
        let audit = own(authority, clock, message);
        store.commit(Commit { expect: Vec::new(), ops: vec![op], audit }).await?;
    }
    Ok(())
}

fn put_leaf_life(authority: &Authority) -> Op {
    // Serialising plain data to memory cannot fail.
    let value = serde_json::to_vec(&authority.leaf_life()).unwrap_or_default();
    Op::Put { key: Key::authority(LEAVES), value }
}

async fn grants(store: &Store) -> Result<Grants, StartError> {
    let (_, entries) = store.list(Keyspace::Roles).await?;
    let mut grants = BTreeMap::new();
    for entry in entries {
        let name =
            entry.key.as_str().strip_prefix(Keyspace::Roles.prefix()).and_then(|name| name.parse().ok());
        match (name, serde_json::from_slice(&entry.value)) {
            (Some(name), Ok(grant)) => grants.insert(name, grant),
            _ => return Err(StartError::Role(entry.key)),
        };
    }
    Ok(Arc::new(grants))
}

async fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { setting, address, source })
}

fn address(
    listener: &TcpListener,
    setting: &'static str,
    address: SocketAddr,
) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Bind { setting, address, source })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work).await.map_err(|_cut_off| StartError::Interrupted)
}
