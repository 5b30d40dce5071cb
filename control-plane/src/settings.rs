//! The control plane's settings: what its operator decides before it starts. Everything else is policy, and comes through
//! its API.

mod check;
mod flags;
mod listed;

#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use outrigger_process::{logging::Logging, settings::duration};
use serde::{Deserialize, Serialize};

pub use flags::Flags;

use crate::{authority::SVID_LIFE, store::Retention};

/// All settings. Each field is also `OUTRIGGER_<FIELD>` in the environment, `__` between the levels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The store, the authority's keys and the operators' credentials; 0700. Default:
    /// `/var/lib/outrigger/control-plane` for root, else `$XDG_STATE_HOME/outrigger/control-plane`, else
    /// `~/.local/state/outrigger/control-plane`.
    pub state_dir: Option<PathBuf>,
    /// The naming root of all identities. Fixed at the first start. Default `outrigger.local`.
    pub trust_domain: String,
    /// The operators' port.
    pub policy: Policy,
    /// The proxies' port. Default 127.0.0.1:17110.
    pub discovery: Port,
    /// `GET /live`, `/ready`, `/metrics`. Default 127.0.0.1:17120.
    pub health: Port,
    /// What is signed.
    pub authority: Authority,
    /// What may be registered.
    pub registry: Registry,
    /// How much of the past is kept, to look at and to go back to.
    pub history: History,
    /// How the control plane stops.
    pub drain: Drain,
    /// What is written to standard error.
    pub log: Logging,
}

/// The operators' port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Where it listens, as in [`Port`]. Default 127.0.0.1:17100.
    pub listen: SocketAddr,
    /// By what DNS names and IP addresses it is dialled: they are in its certificate, for gRPC clients other than ours.
    /// 1 to 64. Default: `localhost`, the machine's name if it is one of DNS, and the address of `listen`, or
    /// 127.0.0.1 and ::1 if that is every address.
    #[serde(deserialize_with = "listed::deserialize")]
    pub names: Option<Vec<String>>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Where it listens; port 0: any free one, which `addresses.json` in the state directory then tells.
    pub listen: SocketAddr,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authority {
    /// How long a workload's certificate lives; it is renewed at half of that. The old root or intermediate of a rotation
    /// is safe to revoke once all that it signed have expired. Default 24 h; 10 s to 7 d (168 h).
    #[serde(with = "duration")]
    pub leaf_ttl: Duration,
}

/// What may be registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Whether workloads may register loopback addresses: only when the whole mesh is on one machine. Default false.
    pub allow_loopback: bool,
}

/// How much of the past is kept: as much as both allow, and always the newest revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Revisions that changed objects. Default 10 000; 1 to 1 000 000.
    pub revisions: u64,
    /// Bytes of what was replaced or deleted. Default 64 MiB.
    pub bytes: u64,
}

/// How the control plane stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// From SIGTERM to the end of calls under way. Default 5 s; at most 10 min.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Port {
    fn local(port: u16) -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, port).into() }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { listen: Port::local(17100).listen, names: None }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self { leaf_ttl: SVID_LIFE }
    }
}

impl Default for History {
    fn default() -> Self {
        let Retention { revisions, bytes } = Retention::default();
        Self { revisions, bytes }
    }
}

impl From<&History> for Retention {
    fn from(history: &History) -> Self {
        Self { revisions: history.revisions, bytes: history.bytes }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: None,
            trust_domain: "outrigger.local".to_owned(),
            policy: Policy::default(),
            discovery: Port::local(17110),
            health: Port::local(17120),
            authority: Authority::default(),
            registry: Registry::default(),
            history: History::default(),
            drain: Drain::default(),
            log: Logging::default(),
        }
    }
}
