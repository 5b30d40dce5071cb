//! The command line: every command, flag and exit code, and the texts of `--help`.

mod authority;
mod objects;
mod operate;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    authority::{AuthorityArgs, AuthorityCommand, RotateArgs, WhichArgs},
    objects::{ApplyArgs, DeleteArgs, GetArgs, SetArgs, WriteArgs},
    operate::{AuditArgs, BackupArgs, DiffArgs, HistoryArgs, RestoreArgs, RollbackArgs},
};
use crate::duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: by the control plane, by a check before it, or a promise of the demo broke
  2  wrong command line
  3  the control plane cannot be reached
  4  stored, but not every proxy applied it in time
  5  no such object
  6  the credential is missing, unreadable, of another root, or not allowed to do this
  130  interrupted";

const RUN_NOTES: &str = "\
Environment of the command:
  http_proxy, HTTP_PROXY, grpc_proxy  lead to the sidecar
  no_proxy, NO_PROXY                  this machine, and what they named before

Signals go to the command. SIGTERM and SIGINT go first to a sidecar with --inbound pairs, which withdraws the workload and \
finishes what is under way, and then to the command; without pairs, to the command, and the sidecar ends after it. A \
second one goes to both at once.

Exit code: the command's, or 128 and the number of the signal that ended it. 127: no such command; 126: it cannot be run; \
1: the sidecar did not become ready, or ended by itself; 2: wrong command line, or flags and settings that the sidecar \
refuses; 130: interrupted before the command ran.

Example:
  outrigger run --join-token-file token --inbound 127.0.0.1:17006=127.0.0.1:80,name=http -- nginx";

/// Operates an Outrigger mesh through its control plane.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Address of the control plane's policy API
    #[arg(
        long,
        global = true,
        env = "OUTRIGGER_SERVER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:17100"
    )]
    pub(crate) server: String,
    /// Directory with tls.crt, tls.key and ca.crt [default: `admin` in the control plane's default state directory]
    #[arg(long, global = true, env = "OUTRIGGER_CREDENTIAL", value_name = "DIR")]
    pub(crate) credential: Option<PathBuf>,
    /// What to print: a table for people, json or yaml for programs
    #[arg(short = 'o', long = "format", global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// How long one call to the control plane may take
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub(crate) call_timeout: Duration,
}

/// Form of what a command prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people; may change between versions.
    #[default]
    Table,
    /// One JSON document; stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a small mesh on this machine and hold it to its promises
    #[command(after_help = EXIT_CODES)]
    Demo(DemoArgs),
    /// Create or change objects from YAML or JSON documents; all of them or none
    #[command(after_help = EXIT_CODES)]
    Apply(ApplyArgs),
    /// Show objects
    #[command(after_help = EXIT_CODES)]
    Get(GetArgs),
    /// Delete objects; all of them or none
    #[command(after_help = EXIT_CODES)]
    Delete(DeleteArgs),
    /// Show what `apply` would change; 0: nothing, 1: something, 2 and above: it cannot be told
    Diff(DiffArgs),
    /// Show who changed what and when: one object's versions, or all revisions
    #[command(after_help = EXIT_CODES)]
    History(HistoryArgs),
    /// Go back to an earlier revision, with one object or with all; a new revision with the old content
    #[command(after_help = EXIT_CODES)]
    Rollback(RollbackArgs),
    /// Show every write and every refused call, or prove that the record of them is whole
    #[command(after_help = EXIT_CODES)]
    Audit(AuditArgs),
    /// Copy everything that must not be lost from the running control plane to a file
    #[command(after_help = EXIT_CODES)]
    Backup(BackupArgs),
    /// Make a control plane's state directory from a backup; the control plane need not run, and must not run on it
    #[command(after_help = EXIT_CODES)]
    Restore(RestoreArgs),
    /// Show which proxy runs which revision, what it waits for, and what it rejected; or how a service's endpoints are
    #[command(after_help = EXIT_CODES)]
    Status(StatusArgs),
    /// Show where the latency of each hop goes
    #[command(after_help = EXIT_CODES)]
    Hops(HopsArgs),
    /// Make join tokens
    Token(TokenArgs),
    /// Run a command beside a sidecar of its own, which its HTTP and gRPC clients use as a proxy
    Run(RunArgs),
    /// Show which root and intermediate sign certificates, and rotate them
    Authority(AuthorityArgs),
    /// Print the version
    Version,
    /// Print a script that completes this command in a shell
    Completion(CompletionArgs),
}

/// A kind, by any of the names that people type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// Named destinations
    #[value(name = "service", aliases = ["services", "svc"])]
    Service,
    /// How requests for services are matched and split
    #[value(name = "route", aliases = ["routes"])]
    Route,
    /// How requests for services are retried, timed and limited
    #[value(name = "trafficpolicy", aliases = ["trafficpolicies", "traffic-policy"])]
    TrafficPolicy,
    /// The mesh's own settings
    #[value(name = "meshconfig", aliases = ["meshconfigs", "mesh-config"])]
    MeshConfig,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Instead, each endpoint of this service as each proxy sees it that calls it: NAMESPACE/NAME, or NAME in `default`
    #[arg(value_parser = service)]
    pub(crate) service: Option<String>,
}

/// `hops`.
#[derive(Debug, Args)]
pub(crate) struct HopsArgs {
    /// Only the hops to this service, and those that its workloads make in turn, and so on: NAMESPACE/NAME, or NAME in
    /// `default`
    #[arg(value_parser = service)]
    pub(crate) service: Option<String>,
    /// Take apart this share of the slowest requests, such as 1% or 0.1%
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = percent)]
    pub(crate) slowest: u32,
    /// Show again and again what happened since the last time, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// `token ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a join token, good for one workload and one use; the token goes to standard output
    #[command(after_help = EXIT_CODES)]
    Create(TokenCreateArgs),
}

/// `token create`.
#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// Namespace of the workload
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// Service account of the workload
    #[arg(long, value_name = "NAME")]
    pub(crate) service_account: String,
    /// Label of the workload, for services to select by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// How long the token may be redeemed, 1s to 24h
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    pub(crate) ttl: Duration,
    /// Write the token to this new file, readable by its owner only, instead
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// The first word of a command line for [`RunArguments`].
pub(crate) const RUN: &str = "run";

/// `run` alone: a grammar without the flags of the other commands, some of which a sidecar has as well.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger run",
    about = "Run a command beside a sidecar of its own, which its HTTP and gRPC clients use as a proxy"
)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    args: RunArgs,
}

impl RunArguments {
    /// Reads a command line; what stands after the first `--` is the command's, whatever it looks like.
    ///
    /// # Errors
    /// clap's.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<RunArgs, clap::Error> {
        let mut words = words.into_iter();
        let mut before = words.by_ref().take_while(|word| word != "--");
        // Behind the first flag of the sidecar the parser would take ours for one of its flags.
        let (mut ours, mut sidecar) = (Vec::from_iter(before.next()), Vec::new());
        while let Some(word) = before.next() {
            let text = word.as_encoded_bytes();
            if text == b"--ready-timeout" {
                ours.extend([Some(word), before.next()].into_iter().flatten());
            } else if text.starts_with(b"--ready-timeout=") || text == b"-h" || text == b"--help" {
                ours.push(word);
            } else {
                sidecar.push(word);
            }
        }
        let args = Self::try_parse_from(ours)?.args;
        Ok(RunArgs { sidecar, command: words.collect(), ..args })
    }
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_NOTES, override_usage = "outrigger run [--ready-timeout DURATION] [SIDECAR FLAGS]... -- COMMAND [ARGUMENTS]...")]
pub(crate) struct RunArgs {
    /// How long the sidecar may take until it is ready
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub(crate) ready_timeout: Duration,
    /// Flags of the sidecar: those of `outrigger-proxy --help`
    #[arg(value_name = "SIDECAR FLAGS", num_args = 0..)]
    pub(crate) sidecar: Vec<OsString>,
    /// The command and its arguments.
    #[arg(skip)]
    pub(crate) command: Vec<OsString>,
}

/// `completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End with a verdict instead of a live table; 1 if a promise broke
    #[arg(long)]
    pub(crate) exit: bool,
}

/// The first word of a command line for [`DemoAppArgs`].
pub(crate) const DEMO_APP: &str = "demo-app";

/// The demo's own processes. Not a command for people: a grammar of its own, so that no help or completion offers it.
#[derive(Debug, Parser)]
#[command(name = DEMO_APP, disable_version_flag = true)]
pub(crate) struct DemoAppArgs {
    #[command(subcommand)]
    pub(crate) role: DemoRole,
}

/// What a process of the demo does.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoRole {
    /// Hands each request on to the next service through its sidecar; reads the sidecar's address from standard input
    Relay {
        /// The service
        #[arg(long)]
        to: String,
        /// Where it logs every request that it saw
        #[arg(long)]
        log: Option<PathBuf>,
    },
    /// Answers, and logs every request it saw; reads the faults that it shall have from standard input
    Price {
        /// Its name, part of every answer
        #[arg(long)]
        name: String,
        /// One in so many requests is slow; 0: none
        #[arg(long, default_value_t = 0)]
        slow_every: u64,
        /// Where it logs
        #[arg(long)]
        log: PathBuf,
    },
    /// Becomes another program that dies with the process that started it
    Guard {
        /// Process id of the one that started it
        #[arg(long)]
        parent: i32,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as version=v2".to_owned()),
    }
}

/// A service with its namespace: `NAMESPACE/NAME`, or `NAME.NAMESPACE` as it is called in the mesh.
fn service(text: &str) -> Result<String, String> {
    let name = match (text.contains('/'), text.split_once('.')) {
        (true, _) => text.to_owned(),
        (false, Some((name, namespace))) => format!("{namespace}/{name}"),
        (false, None) => format!("default/{text}"),
    };
    let valid = name.parse::<outrigger_core::model::ServiceName>();
    valid.map(|_| name).map_err(|error| error.to_string())
}

/// Percent, with or without the sign, as parts per million.
fn percent(text: &str) -> Result<u32, String> {
    const REMEDY: &str = "write a percentage from 0.0001% to 100%, such as 1% or 0.1%";
    let text = text.strip_suffix('%').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() > 4 || whole.len() > 3 || !digits(whole) || !digits(fraction) {
        return Err(REMEDY.to_owned());
    }
    let parts: u32 = format!("{whole}{fraction:0<4}").parse().map_err(|_not_a_number| REMEDY.to_owned())?;
    if (1..=1_000_000).contains(&parts) { Ok(parts) } else { Err(REMEDY.to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Arguments, Command, RunArguments, percent, service};

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_stands_after_the_first_dashes_is_the_command_that_is_run() {
        let read = |words: &[&str]| RunArguments::read(words.iter().map(Into::into));
        let args = read(&["run", "--credential", "memory", "--ready-timeout", "1s", "--", "cmd", "--", "-x"])
            .unwrap();
        assert_eq!(args.sidecar, ["--credential", "memory"]);
        assert_eq!(args.command, ["cmd", "--", "-x"]);
        assert_eq!(args.ready_timeout.as_secs(), 1);
        assert!(read(&["run", "cmd"]).unwrap().command.is_empty(), "that is a flag of the sidecar");
    }

    #[test]
    fn a_step_of_a_rotation_says_of_what() {
        let parse = |rest: &[&str]| Arguments::try_parse_from([&["outrigger", "authority"], rest].concat());
        for good in [&["status"][..], &["rotate"], &["rotate", "--root", "--force"], &["prepare", "--root"]] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["prepare"][..],
            &["activate", "--root", "--intermediate"],
            &["rotate", "--root", "--intermediate"],
            &["taint", "--root", "--force"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_percentage_is_parts_per_million() {
        assert_eq!(percent("1"), Ok(10_000));
        assert_eq!(percent("0.1"), Ok(1_000));
        assert_eq!(percent("100"), Ok(1_000_000));
        assert_eq!((percent("1%"), percent("0.1%")), (Ok(10_000), Ok(1_000)));
        for bad in ["", "%", "1%%", "1 %", "0", "-1", "101", "1.00001", "x", "1.x", "+5", "."] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_without_a_namespace_is_in_default() {
        assert_eq!(service("price"), Ok("default/price".to_owned()));
        assert_eq!(service("demo/price"), Ok("demo/price".to_owned()));
        assert_eq!(service("price.demo"), Ok("demo/price".to_owned()));
        for bad in ["", "a/b/c", "Price", "demo/", "price.", ".demo", "a.b.c", "a/b.c"] {
            assert!(service(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_go_by_the_names_that_people_type() {
        for kind in [
            "service",
            "Service",
            "services",
            "svc",
            "Route",
            "trafficpolicy",
            "TrafficPolicy",
            "trafficpolicies",
            "traffic-policy",
            "meshconfig",
            "MeshConfig",
        ] {
            assert!(Arguments::try_parse_from(["outrigger", "get", kind]).is_ok(), "{kind}");
        }
        assert!(Arguments::try_parse_from(["outrigger", "get", "gateway"]).is_err());
    }

    #[test]
    fn delete_takes_names_or_files_but_not_both() {
        let parse = |rest: &[&str]| Arguments::try_parse_from([&["outrigger", "delete"], rest].concat());
        assert!(parse(&["route", "price"]).is_ok());
        assert!(parse(&["-f", "mesh.yaml"]).is_ok());
        for bad in [&[][..], &["route", "price", "-f", "x"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn wait_and_dry_run_exclude_each_other() {
        let parse =
            |rest: &[&str]| Arguments::try_parse_from([&["outrigger", "apply", "-f", "-"], rest].concat());
        assert!(matches!(
            parse(&["--wait", "--timeout", "1m"]).map(|arguments| arguments.command),
            Ok(Command::Apply(args)) if args.write.wait && args.write.timeout.as_secs() == 60
        ));
        assert!(parse(&["--wait", "--dry-run"]).is_err());
        assert!(parse(&["--timeout", "1m"]).is_err());
    }
}
