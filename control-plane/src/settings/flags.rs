//! The command line, and the layers that it is the strongest of.

use std::{env, net::SocketAddr, path::PathBuf};

use clap::Parser;
use outrigger_process::settings::{Layers, SettingsError, address};

use super::{Settings, check::check};

/// Variables that are other programs' of the mesh, or ours but no settings.
const NOT_SETTINGS: [&str; 4] =
    ["OUTRIGGER_SETTINGS", "OUTRIGGER_SERVER", "OUTRIGGER_CREDENTIAL", "OUTRIGGER_JOIN_TOKEN"];

/// Outrigger's control plane: takes policy from operators, gives each sidecar its configuration and its certificates.
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "outrigger-control-plane",
    version,
    max_term_width = 100,
    after_help = "\
Needs no flag, and listens on loopback only. The first start makes the state directory with
  store.redb       objects, join tokens, roles and the audit log
  authority/       the keys that sign the mesh's certificates: back them up, keep them secret
  admin/           credential for the command `outrigger`: all of the policy API
  reader/          the same, only to look
  addresses.json   where the ports are, while it runs
What runs out of these is renewed by the control plane itself.

Every setting is a key of the settings file and a variable, the frequent ones are flags too.
Flags win over variables, variables over the file:
  trust_domain = \"mesh.example.com\"     OUTRIGGER_TRUST_DOMAIN
  [policy]
  names = [\"mesh.example.com\"]         OUTRIGGER_POLICY__NAMES
  [discovery]
  listen = \"192.0.2.7:17110\"            OUTRIGGER_DISCOVERY__LISTEN
  [authority]
  leaf_ttl = \"24h\"                      OUTRIGGER_AUTHORITY__LEAF_TTL
  [drain]
  timeout = \"5s\"                        OUTRIGGER_DRAIN__TIMEOUT

SIGTERM ends the calls under way. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 3 stopped
with calls cut off."
)]
pub struct Flags {
    /// Settings file, TOML.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_SETTINGS")]
    pub settings: Option<PathBuf>,
    /// Directory of everything that must survive a restart; made if missing, refused if others can read it
    /// [default: /var/lib/outrigger/control-plane for root, else ~/.local/state/outrigger/control-plane].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Naming root of all identities, `spiffe://NAME/...`; fixed at the first start [default: outrigger.local].
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// Restore the backup FILE (-: standard input) into the state directory, which must be empty, and end; start without it
    /// afterwards.
    #[arg(long, value_name = "FILE")]
    pub restore: Option<PathBuf>,
    /// Where operators call: policy, join tokens, status [default: 127.0.0.1:17100].
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub policy_listen: Option<SocketAddr>,
    /// DNS names and IP addresses by which operators call it, in its certificate, for gRPC clients other than `outrigger`
    /// [default: localhost, this machine's name, and the address of --policy-listen, or loopback if that is 0.0.0.0].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub policy_names: Vec<String>,
    /// Where sidecars call: certificates, registration, configuration [default: 127.0.0.1:17110].
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub discovery_listen: Option<SocketAddr>,
    /// Where GET /live, /ready and /metrics are answered [default: 127.0.0.1:17120].
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub health_listen: Option<SocketAddr>,
    /// Let workloads register loopback addresses: for a mesh that is all on this machine.
    #[arg(long)]
    pub allow_loopback: bool,
    /// What to log: error, warn, info, debug, trace, or a list of target=level [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How to log: json or text [default: json].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Flags {
    /// The settings by these flags, `environment` and the settings file. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, SettingsError> {
        let layers = match &self.settings {
            Some(path) => Layers::new().file(path, true),
            None => Layers::new(),
        };
        layers
            .environment(environment, &NOT_SETTINGS)
            .flag("state_dir", "--state-dir", self.state_dir.as_ref())
            .flag("trust_domain", "--trust-domain", self.trust_domain.as_ref())
            .flag("policy.listen", "--policy-listen", self.policy_listen)
            .flag(
                "policy.names",
                "--policy-names",
                Some(&self.policy_names).filter(|names| !names.is_empty()),
            )
            .flag("discovery.listen", "--discovery-listen", self.discovery_listen)
            .flag("health.listen", "--health-listen", self.health_listen)
            .flag("registry.allow_loopback", "--allow-loopback", self.allow_loopback.then_some(true))
            .flag("log.level", "--log-level", self.log_level.as_ref())
            .flag("log.format", "--log-format", self.log_format.as_ref())
            .load(check)
    }
}

impl Settings {
    /// The state directory; `None` without a setting and without a home.
    pub fn state_directory(&self) -> Option<PathBuf> {
        if let Some(path) = &self.state_dir {
            return Some(path.clone());
        }
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/lib/outrigger/control-plane"));
        }
        let directory = |variable| {
            let path = PathBuf::from(env::var_os(variable)?);
            path.is_absolute().then_some(path)
        };
        let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")));
        Some(state?.join("outrigger/control-plane"))
    }
}
