//! PostgreSQL with its own client, through an address that leads to it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use super::service;
use crate::support::{
    Finished, Mesh,
    process::{Running, eventually, free_address, listening, run, system_program},
};

/// `nobody`, as everywhere: the server refuses to run as root.
const NOBODY: u32 = 65_534;

/// A running server with a certificate of its own.
struct Postgres {
    address: SocketAddr,
    authority: PathBuf,
    running: Running,
    _directory: TempDir,
}

/// One of the server's programs, as whoever owns its files.
fn owned(name: &str) -> Command {
    let mut command = Command::new(system_program(name, "postgresql"));
    command.env_clear();
    if rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Gives a file to the server, and to nobody else.
fn give(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if rustix::process::getuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

impl Postgres {
    async fn start(mesh: &Mesh) -> Self {
        let directory = tempfile::tempdir().unwrap();
        give(directory.path(), 0o700);
        let data = directory.path().join("data");
        let mut initdb = owned("initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8"]);
        run(initdb.arg("--pgdata").arg(&data).current_dir(directory.path()), b"").await.ok();

        let certified = rcgen::generate_simple_self_signed(["db.demo.mesh".to_owned()]).unwrap();
        let authority = mesh.path("db.crt");
        fs::write(&authority, certified.cert.pem()).unwrap();
        for (name, pem) in
            [("server.crt", certified.cert.pem()), ("server.key", certified.signing_key.serialize_pem())]
        {
            fs::write(data.join(name), pem).unwrap();
            give(&data.join(name), 0o600);
        }
        let address = free_address();
        let mut postgres = owned("postgres");
        postgres.arg("-D").arg(&data).current_dir(directory.path());
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
            postgres.args(["-c", setting]);
        }
        postgres.args(["-p", &address.port().to_string()]);
        let mut running = Running::start(&mut postgres, mesh.path("postgres.log"));
        listening(&mut running, address).await;
        Self { address, authority, running, _directory: directory }
    }
}

impl Drop for Postgres {
    /// Killed outright it would leave its shared memory behind; this ends it at once, and with it.
    fn drop(&mut self) {
        self.running.signal(Signal::QUIT);
        self.running.wait();
    }
}

/// Runs one statement through the mesh, with these further words of the connection's description.
async fn psql(address: SocketAddr, connection: &str, statement: &str, input: &[u8]) -> Finished {
    let port = address.port();
    let mut command = Command::new(system_program("psql", "postgresql"));
    command.env_clear().args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--dbname"]);
    command.arg(format!(
        "hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=20 {connection}"
    ));
    run(command.args(["--command", statement]), input).await
}

#[tokio::test]
async fn postgresql_is_used_through_an_address_of_its_own() {
    let mesh = Mesh::start().await;
    let postgres = Postgres::start(&mesh).await;
    let inbound = format!("127.0.0.1:0={},name=postgres", postgres.address);
    let _db = mesh.join_with("db-1", "db", &["--inbound", &inbound]).await;
    let front = mesh.join_with("front-1", "front", &["--outbound-service", "127.0.0.1:0=db.demo"]).await;
    mesh.apply(&service("db", "port: 5432, name: postgres, protocol: TCP")).await.ok();
    let address = front.services[0];

    // The client asks for TLS, the server says no, and both go on without.
    let plain = "sslmode=prefer host=db.demo.mesh";
    let sum = psql(address, plain, "SELECT sum(n) FROM generate_series(1, 100000) n", b"").await.ok();
    assert_eq!(sum.stdout, "5000050000\n");
    let wrong = psql(address, plain, "SELECT 1 / 0", b"").await;
    assert!(wrong.code == 1 && wrong.stderr.contains("division by zero"), "{}", wrong.stderr);
    let demanded = psql(address, "sslmode=require", "SELECT 1", b"").await;
    assert!(demanded.stderr.contains("server does not support SSL"), "{}", demanded.stderr);

    psql(address, plain, "CREATE TABLE prices (number bigint, tea text)", b"").await.ok();
    let rows: String = (0..200_000).map(|n| format!("{n}\ttea number {n:08}\n")).collect();
    psql(address, plain, "COPY prices FROM STDIN", rows.as_bytes()).await.ok();
    let copied =
        psql(address, plain, "COPY (SELECT * FROM prices ORDER BY number) TO STDOUT", b"").await.ok();
    assert!(copied.stdout == rows, "{} of {} bytes came back", copied.stdout.len(), rows.len());

    // Its own TLS, inside the mesh's.
    psql(address, plain, "ALTER SYSTEM SET ssl = on", b"").await.ok();
    psql(address, plain, "SELECT pg_reload_conf()", b"").await.ok();
    let own = format!("host=db.demo.mesh sslmode=verify-full sslrootcert={}", postgres.authority.display());
    let spoken = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let over_tls = eventually("TLS of the server", async || {
        let spoken = psql(address, &own, spoken, b"").await;
        (spoken.code == 0).then_some(spoken.stdout)
    });
    assert_eq!(over_tls.await, "t|TLSv1.3\n");
    let copied = psql(address, &own, "COPY (SELECT * FROM prices ORDER BY number) TO STDOUT", b"").await.ok();
    assert!(copied.stdout == rows, "{} of {} bytes came back", copied.stdout.len(), rows.len());

    // Undeclared it is told from HTTP by its first bytes.
    mesh.apply(&service("db", "port: 5432, name: postgres")).await.ok();
    for connection in [plain, &own] {
        let count = psql(address, connection, "SELECT count(*) FROM prices", b"").await.ok();
        assert_eq!(count.stdout, "200000\n");
    }
    let waited = front.metric("outrigger_detection_timeouts_total{direction=\"outbound\"}").await;
    assert_eq!(waited, 0.0);
}
