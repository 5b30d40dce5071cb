//! The proxy's settings: what its operator decides before it starts. Read once, from defaults, a TOML file, the
//! environment and flags, in this order; everything else comes from the control plane.

mod check;
mod command;
mod flags;
mod inbound;
mod listed;
mod service;
mod workers;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

use outrigger_process::{
    logging::{Format, Logging},
    settings::duration,
};
use serde::{Deserialize, Serialize};

pub use check::check;
pub use command::{Command, DrainFlags};
pub use flags::{Flags, JOIN_TOKEN_VARIABLE};
pub use inbound::{Inbound, InboundProtocol, InvalidInbound};
pub use service::{InvalidServiceListener, ServiceListener, ServiceTarget};

/// Port of the control plane that serves workloads.
const CONTROL_PLANE_PORT: u16 = 17110;
const OUTBOUND_PORT: u16 = 17001;
const HEALTH_PORT: u16 = 17020;

/// All settings. Each field is also `OUTRIGGER_<FIELD>` in the environment, `__` between the levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the control plane is.
    pub control_plane: ControlPlane,
    /// How to join when there is no kept credential.
    pub join: Join,
    /// The proxy's own directory, 0700; its path has at most 96 bytes. Default: `/var/lib/outrigger/proxy` for root, else
    /// `$XDG_STATE_HOME/outrigger/proxy`, else `~/.local/state/outrigger/proxy`.
    pub state_dir: Option<PathBuf>,
    /// Where the bound addresses are written as well, as JSON. Default: only to `addresses.json` in the state directory.
    pub addresses_file: Option<PathBuf>,
    /// From the own workload into the mesh.
    pub outbound: Outbound,
    /// From the mesh to the own workload: `listen = application` pairs.
    #[serde(deserialize_with = "listed::one_or_many")]
    pub inbound: Vec<Inbound>,
    /// `GET /live`, `/ready`, `/metrics`.
    pub health: Health,
    /// Threads that carry traffic, each a runtime of its own. Default 1: a sidecar seldom has more to do.
    #[serde(deserialize_with = "workers::deserialize")]
    pub workers: NonZeroU16,
    /// Name of this instance, unique in its namespace: a DNS label. Default: made from the host's name at the first
    /// start, and kept in the state directory.
    pub instance: Option<String>,
    /// What a client may ask of the proxy.
    pub limits: Limits,
    /// What becomes of requests that are too many.
    pub overload: Overload,
    /// How the proxy stops.
    pub drain: Drain,
    /// What is written to standard error, and how.
    pub log: Log,
}

/// Where the control plane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlane {
    /// `host:port` of its discovery port. Whoever answers there must prove to be the mesh's control plane.
    pub address: String,
}

/// How to join. The token itself may be in the environment (`OUTRIGGER_JOIN_TOKEN`), never among the arguments, which
/// every user of the machine can read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Join {
    /// File that holds a join token; `-`: standard input.
    pub token_file: Option<PathBuf>,
    /// Where the credential that comes of it lives between two starts.
    pub credential: CredentialStore,
}

/// Where the credential lives between two starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CredentialStore {
    /// In the state directory, 0600: a restarted proxy comes back without a token.
    #[default]
    Disk,
    /// Nowhere: every start needs a join token of its own.
    Memory,
}

/// From the own workload into the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// Where the forward proxy for mesh names listens; loopback only, since whoever reaches it speaks with this
    /// workload's identity.
    pub listen: SocketAddr,
    /// `listen = service` pairs: addresses on loopback that lead to one service each, for clients that know nothing of
    /// proxies. Default: none; at most 256.
    #[serde(deserialize_with = "listed::one_or_many")]
    pub services: Vec<ServiceListener>,
}

/// The endpoint for probes and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// What a client may ask of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's head, request line included. Default 64 KiB; 8 KiB to 1 MiB.
    pub max_head_bytes: usize,
    /// Header fields of a request. Default 100; 1 to 1 000.
    pub max_headers: usize,
    /// From the first byte of a connection or request to the end of its head. Default 10 s.
    #[serde(with = "duration")]
    pub head_timeout: Duration,
    /// How long a connection may lie idle. Default 60 s.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long the first bytes of a connection are waited for, where what is spoken has to be found out from them; one
    /// whose client says too little is opaque after that. Default 1 s; 100 ms to 1 s.
    #[serde(with = "duration")]
    pub detect_timeout: Duration,
    /// The longest that a request and its response, a TCP connection or an upgraded one may be without a byte in either
    /// direction on its way to the own application, whatever policies of its callers say. Default 24 h, the longest that
    /// one can; 100 ms to 24 h.
    #[serde(with = "duration")]
    pub inbound_idle_timeout: Duration,
    /// How long a peer of the mesh may take to acknowledge what it was sent on a connection that many requests share: a
    /// machine that vanished holds them for no longer. Default 20 s; 1 s to 10 min.
    #[serde(with = "duration")]
    pub peer_timeout: Duration,
    /// Open connections of each listener; one more waits in the kernel's queue. Default 10 000.
    pub max_connections: usize,
}

/// What becomes of requests that are too many: they are refused at once with a reason, and never wait without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overload {
    /// Whether the application is given no more at a time than it can do, once it is seen to have too much: `on` (default),
    /// `off`, or `shadow`, which only counts what would be refused.
    pub application: Limiting,
    /// How long what is ready to run may wait for the proxy's own processor before part of the new requests is refused.
    /// Default 1 s; 10 ms to 10 s, 0 for never.
    #[serde(with = "duration")]
    pub max_delay: Duration,
}

/// Whether what is too much is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limiting {
    /// It is.
    #[default]
    On,
    /// It is counted, and let in.
    Shadow,
    /// It is not looked at.
    Off,
}

/// How the proxy stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long callers are given to learn that this workload goes away, before it stops taking new work.
    /// Default 5 s.
    #[serde(with = "duration")]
    pub withdrawal: Duration,
    /// How long requests in flight may take after that. Default 10 s.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

/// What is written to standard error, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `json` (default) or `text`.
    pub format: Format,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`; default `info`), or levels by target.
    pub level: String,
    /// One line per request, with a stable reason for every answer that the proxy itself makes. Default true.
    pub access: bool,
}

impl From<&Log> for Logging {
    fn from(log: &Log) -> Self {
        Self { format: log.format, level: log.level.clone() }
    }
}

impl Default for Log {
    fn default() -> Self {
        let Logging { format, level } = Logging::default();
        Self { format, level, access: true }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            control_plane: ControlPlane::default(),
            join: Join::default(),
            state_dir: None,
            addresses_file: None,
            outbound: Outbound::default(),
            inbound: Vec::new(),
            health: Health::default(),
            workers: NonZeroU16::MIN,
            instance: None,
            limits: Limits::default(),
            overload: Overload::default(),
            drain: Drain::default(),
            log: Log::default(),
        }
    }
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self { address: format!("127.0.0.1:{CONTROL_PLANE_PORT}") }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), OUTBOUND_PORT), services: Vec::new() }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), HEALTH_PORT) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            detect_timeout: Duration::from_secs(1),
            inbound_idle_timeout: Duration::from_secs(24 * 3600),
            peer_timeout: Duration::from_secs(20),
            max_connections: 10_000,
        }
    }
}

impl Default for Overload {
    fn default() -> Self {
        Self { application: Limiting::default(), max_delay: Duration::from_secs(1) }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { withdrawal: Duration::from_secs(5), timeout: Duration::from_secs(10) }
    }
}
