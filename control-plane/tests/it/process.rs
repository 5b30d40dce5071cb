//! The binary: starts without a flag, tells its addresses, stops when told, and says what is in its way.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, SystemTime},
};

use outrigger_control_plane::{backup::Snapshot, store::Store};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn command(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-control-plane"));
    command
        .env_clear()
        .env("OUTRIGGER_STATE_DIR", state)
        .env("OUTRIGGER_POLICY__LISTEN", "127.0.0.1:0")
        .env("OUTRIGGER_DISCOVERY__LISTEN", "127.0.0.1:0")
        .env("OUTRIGGER_HEALTH__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts it, and waits until its log says that it is ready.
async fn started(state: &Path) -> (Child, String) {
    let mut child = command(state).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = String::new();
    while let Some(line) = timeout(PATIENCE, lines.next_line()).await.expect("it starts").unwrap() {
        log.push_str(&line);
        log.push('\n');
        if line.contains("the control plane is ready") {
            // The pipe stays read, or the process would block on it.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (child, log);
        }
    }
    panic!("it ended:\n{log}");
}

async fn terminated(mut child: Child) -> ExitStatus {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    timeout(PATIENCE, child.wait()).await.expect("it stops").unwrap()
}

/// Runs it to its end, which must come by itself.
async fn refused(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    let mut stderr = child.stderr.take().unwrap();
    timeout(PATIENCE, stderr.read_to_string(&mut text)).await.expect("it ends").unwrap();
    (child.wait().await.unwrap().code(), text)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn it_starts_without_a_flag_tells_its_addresses_and_stops_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (child, log) = started(&state).await;
    let addresses: serde_json::Value =
        serde_json::from_slice(&fs::read(state.join("addresses.json")).unwrap()).unwrap();
    for port in ["policy", "discovery", "health"] {
        let address: std::net::SocketAddr = addresses[port].as_str().unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() != 0);
        assert!(log.contains(&address.to_string()), "{log}");
    }
    assert_eq!(mode(&state), 0o700);
    for name in ["store.redb", "authority/root.pem", "admin/tls.key", "reader/tls.key"] {
        assert_eq!(mode(&state.join(name)), 0o600, "{name}");
    }
    assert!(!log.contains("PRIVATE KEY"));
    assert_eq!(terminated(child).await.code(), Some(0));
    assert!(!state.join("addresses.json").exists(), "nobody should look for it there");

    let admin = fs::read(state.join("admin/tls.crt")).unwrap();
    let (child, _) = started(&state).await;
    assert_eq!(fs::read(state.join("admin/tls.crt")).unwrap(), admin, "the credential is kept");
    assert_eq!(terminated(child).await.code(), Some(0));
}

#[tokio::test]
async fn wrong_settings_end_it_with_code_2_and_all_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(&directory.path().join("state"));
    command
        .env("OUTRIGGER_TRUST_DOMAIN", "Not a domain")
        .env("OUTRIGGER_POLICY__LISTEN", "here")
        .env("OUTRIGGER_COLOUR", "red");
    let (code, text) = refused(command).await;
    assert_eq!(code, Some(2));
    for key in ["trust_domain", "policy.listen", "colour"] {
        assert!(text.contains(key), "{key} is not in {text}");
    }
    assert!(!directory.path().join("state").exists(), "nothing was made");
}

#[tokio::test]
async fn a_second_one_on_the_same_state_says_so_and_leaves_the_first_alone() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (child, _) = started(&state).await;
    let (code, text) = refused(command(&state)).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("is in use by another process"), "{text}");
    assert!(state.join("addresses.json").exists());
    assert_eq!(terminated(child).await.code(), Some(0));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    let directory = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = command(&directory.path().join("state"));
    command.env("OUTRIGGER_DISCOVERY__LISTEN", taken.local_addr().unwrap().to_string());
    let (code, text) = refused(command).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("discovery.listen = ") && text.contains("cannot be listened on"), "{text}");
}

#[tokio::test]
async fn a_damaged_state_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (child, _) = started(&state).await;
    terminated(child).await;
    let store = fs::read(state.join("store.redb")).unwrap();
    let root = fs::read(state.join("authority/root.pem")).unwrap();

    fs::write(state.join("store.redb"), &store[..store.len() / 2]).unwrap();
    let (code, text) = refused(command(&state)).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("store.redb is damaged") && text.contains("backup"), "{text}");

    fs::write(state.join("store.redb"), &store).unwrap();
    let workload = fs::read(state.join("authority/workload.pem")).unwrap();
    let mut flipped = workload.clone();
    flipped[300] ^= 1;
    fs::write(state.join("authority/workload.pem"), flipped).unwrap();
    let (code, text) = refused(command(&state)).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("workload.pem is damaged") && text.contains("outrigger restore BACKUP"), "{text}");
    fs::write(state.join("authority/workload.pem"), &workload[..300]).unwrap();
    let (code, text) = refused(command(&state)).await;
    assert_eq!(code, Some(1));
    let said = "workload.pem is damaged (no certificate: a section in it does not end)";
    assert!(text.contains(said), "{text}");
    fs::write(state.join("authority/workload.pem"), workload).unwrap();

    fs::remove_file(state.join("authority/root.pem")).unwrap();
    let (code, text) = refused(command(&state)).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("is not the root that this store's proxies joined under"), "{text}");
    assert!(!state.join("authority/root.pem").exists(), "no new root in its place");

    fs::write(state.join("authority/root.pem"), &root).unwrap();
    let mut renamed = command(&state);
    renamed.env("OUTRIGGER_TRUST_DOMAIN", "elsewhere");
    let (code, text) = refused(renamed).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("trust_domain = \"elsewhere\""), "{text}");

    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text) = refused(command(&state)).await;
    assert_eq!(code, Some(1), "{text}");
}

#[tokio::test]
async fn a_backup_on_standard_input_is_restored_and_started_from() {
    let directory = tempfile::tempdir().unwrap();
    let (state, fresh) = (directory.path().join("state"), directory.path().join("fresh"));
    let (child, _) = started(&state).await;
    terminated(child).await;
    let mut backup = Vec::new();
    {
        let store = Store::open(&state.join("store.redb")).unwrap();
        let domain = "outrigger.local".parse().unwrap();
        let snapshot = Snapshot::take(&store, &state.join("authority"), &domain, SystemTime::now()).unwrap();
        snapshot
            .write(|piece| {
                backup.extend(piece);
                true
            })
            .unwrap();
    }
    for (content, outcome, said) in [
        (&backup[..40], Some(1), "the backup on standard input cannot be used: it is cut off; copy it anew"),
        (&backup, Some(0), ""),
    ] {
        let mut restoring = command(&fresh);
        let mut child = restoring.args(["--restore", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(content).await.unwrap();
        drop(input);
        let ended = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == outcome && text.contains(said), "{text}");
    }
    let root = |state: &Path| fs::read(state.join("authority/root.pem")).unwrap();
    assert_eq!(root(&fresh), root(&state));
    let (child, _) = started(&fresh).await;
    assert_eq!(terminated(child).await.code(), Some(0));
}
