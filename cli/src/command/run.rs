//! `run`: a sidecar and the command that it serves, as one process for whoever started it.
//!
//! ```text
//! sidecar -> ready -> command (http_proxy, grpc_proxy, ... lead to the sidecar)
//! SIGTERM -> with inbound pairs: sidecar drained -> command asked to stop -> its exit code
//!            without: command asked to stop -> sidecar drained -> its exit code
//! ```

mod pair;
mod signals;

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use rustix::fs::{Access, access};
use serde::Deserialize;
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout_at},
};

use self::{
    pair::{Pair, Sidecar},
    signals::Signals,
};
use crate::{
    args::RunArgs,
    demo::client::Client,
    failure::{Failure, NOT_RUN},
    output::Output,
    sibling::{guarded, on_path, sibling},
};

/// The environment's join token: the sidecar's, and no business of the command.
const JOIN_TOKEN: &str = "OUTRIGGER_JOIN_TOKEN";
/// Destinations that are never asked of the sidecar.
const DIRECT: &str = "localhost,127.0.0.1,::1";
/// How long one look at the sidecar's readiness may take.
const LOOK: Duration = Duration::from_secs(1);
/// The exit code of a proxy whose flags or settings are wrong.
const REFUSED_SETTINGS: i32 = 2;
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What a sidecar writes about itself.
#[derive(Debug, Deserialize)]
struct Addresses {
    outbound: SocketAddr,
    inbound: Vec<SocketAddr>,
    health: SocketAddr,
}

/// Runs the command beside a sidecar; the outcome is the command's.
pub(crate) async fn run(output: &Output, args: RunArgs) -> Result<(), Failure> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::Usage("there is no command to run: write it after --".to_owned()));
    };
    if let Err((what, code)) = find(program) {
        return Err(Failure::NotRun { what: format!("cannot run {}: {what}", program.display()), code });
    }
    let proxy = sibling("outrigger-proxy").await?;
    let directory = tempfile::Builder::new()
        .prefix("outrigger-run-")
        .tempdir()
        .map_err(|error| Failure::io("cannot make a temporary directory", error))?;
    let mut signals = Signals::new()?;
    let file = directory.path().join("addresses.json");
    let mut sidecar = Sidecar::start(&proxy, &args.sidecar, &file)?;
    let ready = tokio::select! {
        ready = ready(&file, args.ready_timeout) => ready,
        status = sidecar.ended() => Err(not_started(status)),
        () = signals.stop() => Err(Failure::Interrupted),
    };
    let addresses = match ready {
        Ok(addresses) => addresses,
        Err(failure) => {
            sidecar.stop().await;
            return Err(failure);
        }
    };
    let mut command = guarded(program)?;
    command.args(arguments);
    environment(&mut command, addresses.outbound);
    let child = match command.kill_on_drop(true).spawn() {
        Ok(child) => child,
        Err(error) => {
            sidecar.stop().await;
            return Err(Failure::io(format!("cannot run {}", program.display()), error));
        }
    };
    let code = Pair::new(sidecar, child, !addresses.inbound.is_empty()).run(&mut signals, output).await?;
    if code == 0 { Ok(()) } else { Err(Failure::Passed(code)) }
}

/// Why there is no sidecar.
fn not_started(status: ExitStatus) -> Failure {
    const WHERE: &str =
        "its own words are above; its flags stand before --, and are those of outrigger-proxy --help";
    if status.code() == Some(REFUSED_SETTINGS) {
        return Failure::Usage(format!("the sidecar refuses its flags or settings: {WHERE}"));
    }
    Failure::refused(format!("the sidecar ended before it was ready ({status})"), WHERE)
}

/// Looks for the command as a shell does, so that a sidecar is not started for nothing: what is wrong, and the shell's exit
/// code for that.
fn find(program: &OsStr) -> Result<(), (&'static str, u8)> {
    let path = if program.as_encoded_bytes().contains(&b'/') {
        Some(PathBuf::from(program)).filter(|path| path.exists())
    } else {
        on_path(program)
    };
    match path {
        None => Err(("there is no such command", 127)),
        Some(path) if path.is_dir() => Err(("it is a directory", NOT_RUN)),
        Some(path) if access(&path, Access::EXEC_OK).is_err() => {
            Err(("it is not executable; chmod +x it, or run its interpreter", NOT_RUN))
        }
        Some(_) => Ok(()),
    }
}

/// Waits until the sidecar serves; its own words say why it does not.
async fn ready(file: &Path, within: Duration) -> Result<Addresses, Failure> {
    let deadline = Instant::now() + within;
    let mut why = "it does not listen yet".to_owned();
    loop {
        let look = async {
            let text = std::fs::read(file).ok()?;
            let addresses: Addresses = serde_json::from_slice(&text).ok()?;
            let request = Request::get("/ready").header(http::header::HOST, addresses.health.to_string());
            let request = request.body(Full::new(Bytes::new())).ok()?;
            let answer = Client::new(addresses.health, LOOK).send(request).await.ok()?;
            Some((addresses, answer))
        };
        match timeout_at(deadline, look).await {
            Ok(Some((addresses, answer))) if answer.status == StatusCode::OK => return Ok(addresses),
            Ok(Some((_, answer))) => why = String::from_utf8_lossy(&answer.body).trim().to_owned(),
            Ok(None) | Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(Failure::refused(
                format!("the sidecar is not ready after {}: {why}", crate::duration::latency(Some(within))),
                "start the control plane, or give it longer: --ready-timeout",
            ));
        }
        sleep(POLL).await;
    }
}

/// Leads the command's clients to the sidecar, whatever the shell had set. `https_proxy` stays as it is: what is encrypted
/// already is not the mesh's.
fn environment(command: &mut Command, outbound: SocketAddr) {
    command.env_remove(JOIN_TOKEN);
    let proxy = format!("http://{outbound}");
    for name in ["http_proxy", "HTTP_PROXY", "grpc_proxy"] {
        command.env(name, &proxy);
    }
    for name in ["no_proxy", "NO_PROXY"] {
        command.env(name, direct(std::env::var_os(name)));
    }
}

/// What was not asked of a proxy before is not asked of the sidecar either.
fn direct(before: Option<OsString>) -> OsString {
    let mut list = OsString::from(DIRECT);
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        list.push(",");
        list.push(before);
    }
    list
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::fs::PermissionsExt as _};

    use super::{direct, find};

    #[test]
    fn what_is_not_asked_of_a_proxy_stays_so() {
        assert_eq!(direct(None), "localhost,127.0.0.1,::1");
        assert_eq!(direct(Some("".into())), "localhost,127.0.0.1,::1");
        assert_eq!(direct(Some("db.local".into())), "localhost,127.0.0.1,::1,db.local");
    }

    #[test]
    fn a_command_is_looked_for_as_a_shell_does() {
        let directory = tempfile::tempdir().unwrap();
        let (plain, script) = (directory.path().join("plain"), directory.path().join("script"));
        fs::write(&plain, "").unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let code = |program: &OsStr| find(program).err().map(|(_, code)| code);
        assert_eq!(
            (code("sh".as_ref()), code("/bin/sh".as_ref()), code(script.as_ref())),
            (None, None, None)
        );
        assert_eq!((code("no-such-command".as_ref()), code("./sh".as_ref())), (Some(127), Some(127)));
        assert_eq!((code(plain.as_ref()), code(directory.path().as_ref())), (Some(126), Some(126)));
    }
}
