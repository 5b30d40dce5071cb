//! The command line, and how it goes together with file and environment.

use std::{net::SocketAddr, num::NonZeroU16, path::PathBuf};

use clap::Parser;
use outrigger_process::settings::{Layers, SettingsError, address};

use super::{Command, CredentialStore, Inbound, ServiceListener, Settings, check};

/// Where a join token may be; never among the arguments, which every user of the machine can read.
pub const JOIN_TOKEN_VARIABLE: &str = "OUTRIGGER_JOIN_TOKEN";

/// Variables of ours that are no settings of the proxy: the token, this command line's own, and the operator's command's,
/// which may be set in the shell that starts a proxy.
const NOT_SETTINGS: [&str; 4] =
    [JOIN_TOKEN_VARIABLE, "OUTRIGGER_SETTINGS", "OUTRIGGER_SERVER", "OUTRIGGER_CREDENTIAL"];

const ABOUT: &str =
    "The proxy beside a workload: carries its requests into the mesh and the mesh's requests to it.";

const LONG_ABOUT: &str = "\
The proxy beside a workload: carries its requests into the mesh and the mesh's requests to it.

Outbound, the workload uses it as an HTTP proxy (http_proxy=http://127.0.0.1:17001) and names services of the mesh: \
http://price.demo.mesh/; or it connects to an address that leads to one service (--outbound-service \
127.0.0.1:9000=price.demo:80). Inbound, it listens beside the application (--inbound LISTEN=APP), demands mutual TLS, and \
hands requests on in plain. Everything else it learns from the control plane.";

const AFTER: &str = "\
Joining
  The first start needs a join token ('outrigger token create'): in a file (--join-token-file), on standard input \
(--join-token-file -), or in OUTRIGGER_JOIN_TOKEN. The token says which identity the proxy gets and by what it knows \
the control plane; it is good once. The credential is then kept in the state directory (0600) and renewed, so that \
later starts need no token, and with what was last in force, kept beside it, no control plane. With --credential memory \
it is kept nowhere: a proxy that restarts, or whose credential expires while the control plane is away, stays out of the \
mesh until it gets a new token.

Settings
  Every setting is a key of the settings file (--settings, TOML), a variable OUTRIGGER_<KEY> with '__' between the \
levels (OUTRIGGER_LIMITS__MAX_HEADERS=200), or, for the common ones, a flag; the later wins. Further keys: \
limits.{max_head_bytes, max_headers, head_timeout, idle_timeout, detect_timeout, inbound_idle_timeout, \
peer_timeout, max_connections}, \
overload.{application, max_delay}, drain.{withdrawal, timeout}, log.{format, level, access}. Port 0 takes any free port; the bound addresses are logged and written to \
addresses.json in the state directory.

Stopping
  SIGTERM or SIGINT withdraws the workload from the mesh, waits until its callers know (at most drain.withdrawal, 5s), \
finishes requests under way (at most drain.timeout, 10s) and exits with 0; with 3 if some had to be cut off. A second \
signal cuts them off at once. 'outrigger-proxy drain' asks for the same without a signal, for hooks. Exit code 2: wrong \
settings; 1: anything else.

Example
  outrigger-proxy --join-token-file token --inbound 127.0.0.1:17006=127.0.0.1:8080,name=http";

/// The command line of `outrigger-proxy`.
#[derive(Debug, Default, Parser)]
#[command(name = "outrigger-proxy", version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER, max_term_width = 100, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Flags {
    /// Instead of being a proxy.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings file (TOML).
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_SETTINGS")]
    pub settings: Option<PathBuf>,
    /// Where the control plane serves workloads [default: 127.0.0.1:17110].
    #[arg(long, value_name = "HOST:PORT")]
    pub control_plane: Option<String>,
    /// File with a join token; '-' reads standard input.
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Where the credential lives between two starts [default: disk]. 'memory': every start needs a new join token.
    #[arg(long, value_name = "STORE")]
    pub credential: Option<CredentialStore>,
    /// The proxy's own directory (0700), one for each proxy [default: /var/lib/outrigger/proxy for root, else
    /// ~/.local/state/outrigger/proxy].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Write the bound addresses to this file, too (JSON).
    #[arg(long, value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,
    /// Where the own workload reaches the mesh; loopback only [default: 127.0.0.1:17001].
    #[arg(long, value_name = "IP:PORT", value_parser = address::parse)]
    pub outbound_listen: Option<SocketAddr>,
    /// Where the own workload reaches one service without knowing of a proxy; loopback only
    /// (127.0.0.1:9000=price.shop:80). May be given several times.
    #[arg(long, value_name = "LISTEN=SERVICE[:PORT]")]
    pub outbound_service: Vec<ServiceListener>,
    /// Where the mesh reaches the own workload; PROTOCOL: http1, http2, grpc, tcp or detect (the default: what the
    /// caller's proxy says). May be given several times.
    #[arg(long, value_name = "LISTEN=APP[,name=NAME][,protocol=PROTOCOL][,advertise=IP:PORT]")]
    pub inbound: Vec<Inbound>,
    /// Where /live, /ready and /metrics are served [default: 127.0.0.1:17020].
    #[arg(long, value_name = "IP:PORT", value_parser = address::parse)]
    pub health_listen: Option<SocketAddr>,
    /// Threads that carry traffic [default: 1].
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<NonZeroU16>,
    /// Name of this instance, unique in its namespace [default: from the host's name].
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or levels by module [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How it is logged: json or text [default: json].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Flags {
    /// The settings: defaults, file, `environment`, and these flags on top.
    ///
    /// # Errors
    /// With everything that is wrong, where it comes from and what to write instead.
    pub fn load(
        self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, SettingsError> {
        let mut layers = Layers::new();
        if let Some(path) = &self.settings {
            layers = layers.file(path, true);
        }
        layers
            .environment(environment, &NOT_SETTINGS)
            .flag("control_plane.address", "--control-plane", self.control_plane)
            .flag("join.token_file", "--join-token-file", self.join_token_file)
            .flag("join.credential", "--credential", self.credential)
            .flag("state_dir", "--state-dir", self.state_dir)
            .flag("addresses_file", "--addresses-file", self.addresses_file)
            .flag("outbound.listen", "--outbound-listen", self.outbound_listen)
            .flag(
                "outbound.services",
                "--outbound-service",
                (!self.outbound_service.is_empty()).then_some(self.outbound_service),
            )
            .flag("inbound", "--inbound", (!self.inbound.is_empty()).then_some(self.inbound))
            .flag("health.listen", "--health-listen", self.health_listen)
            .flag("workers", "--workers", self.workers)
            .flag("instance", "--instance", self.instance)
            .flag("log.level", "--log-level", self.log_level)
            .flag("log.format", "--log-format", self.log_format)
            .load(check)
    }
}

/// As `check` says it of the other places.
fn workers(text: &str) -> Result<NonZeroU16, &'static str> {
    text.parse().map_err(|_no_number| "write a whole number from 1 to 64")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;

    use super::*;

    fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let flags = Flags::parse_from([&["outrigger-proxy"], arguments].concat());
        flags.load(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.toml");
        let text = "workers = 2\ninstance = 'file'\ninbound = ['127.0.0.1:1=127.0.0.1:2']\n[drain]\ntimeout = '1m'\n";
        fs::write(&path, text).unwrap();
        let settings = load(
            &["--settings", path.to_str().unwrap(), "--instance", "flag"],
            &[
                ("OUTRIGGER_INSTANCE", "environment"),
                ("OUTRIGGER_WORKERS", "3"),
                ("OUTRIGGER_JOIN_TOKEN", "not a setting"),
                ("OUTRIGGER_CREDENTIAL", "the operator's"),
                ("OUTRIGGER_JOIN__CREDENTIAL", "memory"),
            ],
        )
        .unwrap();
        assert_eq!(settings.instance.as_deref(), Some("flag"));
        assert_eq!(settings.workers.get(), 3);
        assert_eq!(settings.join.credential, CredentialStore::Memory);
        assert_eq!(settings.drain.timeout.as_secs(), 60);
        assert_eq!(settings.inbound.len(), 1);
    }

    #[test]
    fn inbound_pairs_come_from_flags_and_from_the_environment() {
        let pairs = "127.0.0.1:1=127.0.0.1:2,name=a 127.0.0.1:3=127.0.0.1:4";
        let settings = load(&[], &[("OUTRIGGER_INBOUND", pairs)]).unwrap();
        assert_eq!(settings.inbound.len(), 2);
        let settings =
            load(&["--inbound", "127.0.0.1:5=127.0.0.1:6"], &[("OUTRIGGER_INBOUND", pairs)]).unwrap();
        assert_eq!(settings.inbound[0].listen.port(), 5);
    }

    #[test]
    fn service_listeners_come_from_file_environment_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.toml");
        let text = "[outbound]\nservices = ['127.0.0.1:1=price', { listen = '[::1]:2', service = 'db.shop', port = 5432 }]\n";
        fs::write(&path, text).unwrap();
        let written = |settings: Settings| {
            settings.outbound.services.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let file = ["--settings", path.to_str().unwrap()];
        assert_eq!(
            written(load(&file, &[]).unwrap()),
            ["127.0.0.1:1=price", "[::1]:2=db.shop:5432"],
            "from the file"
        );
        let environment = [("OUTRIGGER_OUTBOUND__SERVICES", "127.0.0.1:3=a.b:1  127.0.0.1:4=c")];
        assert_eq!(written(load(&file, &environment).unwrap()), ["127.0.0.1:3=a.b:1", "127.0.0.1:4=c"]);
        let flags = ["--outbound-service", "127.0.0.1:5=d", "--outbound-service", "127.0.0.1:6=e.f.mesh:80"];
        assert_eq!(
            written(load(&flags, &environment).unwrap()),
            ["127.0.0.1:5=d", "127.0.0.1:6=e.f.mesh:80"]
        );
    }

    #[test]
    fn a_wrong_service_listener_is_refused_with_field_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.toml");
        for (services, expected) in [
            ("['127.0.0.1:1']", "write it like 127.0.0.1:9000=price.shop:80"),
            ("[{ listen = '127.0.0.1:1', service = 'a:1', port = 2 }]", "leave one out"),
            ("[{ listen = '127.0.0.1:1', service = 'a', prot = 2 }]", "prot"),
            ("[{ listen = '127.0.0.1:1', service = 'a', port = 70000 }]", "1 to 65535"),
            ("[{ listen = '127.0.0.1:1', service = 'a', port = 0 }]", "1 to 65535"),
            ("[{ listen = '127.0.0.1:1' }]", "service"),
            ("['0.0.0.0:1=a']", "127.0.0.1 or [::1]"),
            ("7", "LISTEN=SERVICE[:PORT]"),
        ] {
            fs::write(&path, format!("[outbound]\nservices = {services}\n")).unwrap();
            let error = load(&["--settings", path.to_str().unwrap()], &[]).unwrap_err().to_string();
            assert!(error.contains("outbound.services") && error.contains(expected), "{services}: {error}");
        }
    }

    #[test]
    fn wrong_settings_are_refused_with_field_origin_and_remedy() {
        let error = load(
            &["--outbound-listen", "0.0.0.0:1"],
            &[("OUTRIGGER_WORKRES", "2"), ("OUTRIGGER_DRAIN__TIMEOUT", "soon")],
        )
        .unwrap_err()
        .to_string();
        for part in [
            "outbound.listen: 0.0.0.0:1 is not a loopback address",
            "(flag --outbound-listen)",
            "did you mean 'workers'?",
            "(environment OUTRIGGER_DRAIN__TIMEOUT)",
            "'soon' is not a duration",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_flag_that_cannot_be_read_says_what_to_write() {
        for (flag, value, said) in [
            ("--workers", "0", "write a whole number from 1 to 64"),
            ("--workers", "many", "write a whole number from 1 to 64"),
            (
                "--outbound-listen",
                "localhost:15001",
                "'localhost' is a name, and names are not looked up here",
            ),
            ("--health-listen", "17020", "write it before the port, such as 127.0.0.1:17020"),
        ] {
            let error = Flags::try_parse_from(["outrigger-proxy", flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(said), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn a_setting_of_the_wrong_type_says_what_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.toml");
        for (text, said) in [
            ("limits.max_head_bytes = 'many'", "limits.max_head_bytes: found 'many' (file "),
            ("limits.max_head_bytes = 'many'", "; write a whole number, without quotes"),
            ("limits.max_headers = 1.5", "limits.max_headers: found 1.5 "),
            ("limits.max_connections = -1", "limits.max_connections: found -1 "),
            ("limits.head_timeout = 10", "limits.head_timeout: found 10 "),
            (
                "limits.head_timeout = 10",
                "; write a duration, in quotes, such as \"10s\", \"1m30s\" or \"250ms\"",
            ),
            ("limits = 5", "; write a section [limits]: this line, and its settings below it"),
            ("limits = []", "limits: found a list (file "),
            ("join = []", "; write a section [join]"),
            ("control_plane = []", "; write a section [control_plane]"),
            ("workers = 0", "workers: found 0 "),
            ("workers = 0", "; write a whole number from 1 to 64"),
            ("workers = 70000", "; write a whole number from 1 to 64"),
            ("workers = 65", "; write 1 to 64"),
            ("workers = -1", "workers: found -1 "),
            ("overload.application = []", "overload.application: found a list (file "),
            ("overload.application = []", "; known: on, shadow, off"),
            ("overload.application = 'x'", "known: on, shadow, off"),
            ("log.format = []", "; known: json, text"),
            ("join.credential = []", "; known: disk, memory"),
            ("log.level = 'loud'", "log.level: 'loud' is not a level (file "),
            ("instance = 7", "; write a text, in quotes"),
            ("state_dir = 3", "; write a path, in quotes"),
            ("log.access = 'yes'", "; write true or false, without quotes"),
            ("overload.application = true", "overload.application: 'true' is not one of its values"),
            ("overload.application = true", "; known: "),
            ("health.listen = 17020", "; write an IP address and a port in quotes"),
            (
                "outbound.listen = 'localhost:15001'",
                "outbound.listen: 'localhost' is a name, and names are not looked up here (file ",
            ),
            ("outbound.listen = 'localhost:15001'", "; write its IP address, such as 127.0.0.1:15001"),
            ("inbound = 'localhost:1=127.0.0.1:2'", "'localhost' is a name"),
            ("outbound.services = ['localhost:1=price']", "'localhost' is a name"),
        ] {
            fs::write(&path, text).unwrap();
            let error = load(&["--settings", path.to_str().unwrap()], &[]).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {said}\n{error}");
        }
        let error = load(&[], &[("OUTRIGGER_LIMITS__MAX_HEAD_BYTES", "many")]).unwrap_err().to_string();
        assert!(
            error.contains("found 'many' (environment OUTRIGGER_LIMITS__MAX_HEAD_BYTES); write a whole"),
            "{error}"
        );
    }

    #[test]
    fn a_drain_is_asked_of_the_proxy_that_the_same_settings_mean() {
        let flags = Flags::parse_from(["outrigger-proxy", "drain", "--wait", "--timeout", "1m30s"]);
        let Some(Command::Drain(drain)) = flags.command else { panic!("no drain: {flags:?}") };
        assert_eq!((drain.wait, drain.timeout), (true, Some(std::time::Duration::from_secs(90))));
        let set = |name: &str| [("OUTRIGGER_STATE_DIR".to_owned(), name.to_owned())];
        assert_eq!(drain.load(set("/a")).unwrap().state_dir, Some(PathBuf::from("/a")));
        let asked = super::super::DrainFlags { state_dir: Some(PathBuf::from("/b")), ..drain };
        assert_eq!(asked.load(set("/a")).unwrap().state_dir, Some(PathBuf::from("/b")));
        assert!(Flags::try_parse_from(["outrigger-proxy", "--workers", "2", "drain"]).is_err());
    }

    #[test]
    fn help_says_what_memory_costs() {
        let help = Flags::command().render_long_help().to_string();
        // Wherever its lines break.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("stays out of the mesh until it gets a new token"), "{help}");
    }
}
