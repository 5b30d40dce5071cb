//! The end of a process comes in time, whoever would hold it up, and takes nothing with it that was acknowledged.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};

use super::{PRICE, service};
use crate::support::{Application, Mesh, Proxy, process::eventually, program};

/// `drain.withdrawal` and `drain.timeout` together, as set below.
const DRAIN: Duration = Duration::from_millis(1_500);
/// What a process may take beyond that.
const FAREWELL: Duration = Duration::from_secs(5);

const SETTINGS: &str = "[drain]\nwithdrawal = '500ms'\ntimeout = '1s'\n";

/// A sidecar of `price` with a short drain, in front of `app`.
async fn hasty(mesh: &Mesh, name: &str, app: SocketAddr) -> Proxy {
    let settings = mesh.path("hasty.toml");
    fs::write(&settings, SETTINGS).unwrap();
    let inbound = format!("127.0.0.1:0={app},name=http");
    mesh.join_with(name, "price", &["--settings", &settings.to_string_lossy(), "--inbound", &inbound]).await
}

/// Stops it, and returns its exit code, if it came in time.
async fn in_time(what: &str, proxy: Proxy) -> i32 {
    let began = Instant::now();
    let code = proxy.stop().await;
    let took = began.elapsed();
    assert!(took < DRAIN + FAREWELL, "{what}: {took:?}");
    code
}

/// Talks to `address` and keeps the connection open.
async fn say(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_ends_in_time_whatever_its_peers_its_application_and_its_control_plane_do() {
    let mesh = Mesh::start().await;
    mesh.apply(PRICE).await.ok();
    // Accepts in the kernel, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = silent.local_addr().unwrap();
    let names = ["idle", "shakes", "head", "waits", "tunnel"];
    let proxies = join_all(names.map(|name| hasty(&mesh, name, mute))).await;
    for proxy in &proxies {
        eventually("registration", async || {
            proxy.log().contains("this workload backs services").then_some(())
        })
        .await;
    }
    let [idle, shakes, head, waits, tunnel] = <[Proxy; 5]>::try_from(proxies).unwrap();

    let inbound = shakes.inbound.unwrap();
    let held = [
        say(inbound, b"").await,
        // The begin of a ClientHello.
        say(inbound, &[22, 3, 1, 2, 0, 1]).await,
        say(head.outbound, b"GET / HT").await,
        say(waits.outbound, b"GET / HTTP/1.1\r\nhost: price\r\n\r\n").await,
    ];
    let mut connected = say(tunnel.outbound, b"CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n\r\n").await;
    let mut answer = [0; 12];
    connected.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // Somebody has the request that waits by now.
    let (_asked, _) = timeout(Duration::from_secs(10), silent.accept()).await.unwrap().unwrap();

    // Neither confirms withdrawals, nor takes figures, nor closes a connection.
    mesh.freeze();
    let stopped = [("idle", idle), ("shakes", shakes), ("head", head), ("waits", waits), ("tunnel", tunnel)];
    let codes = join_all(stopped.map(|(what, proxy)| in_time(what, proxy))).await;
    assert_eq!(codes[0], 0, "nothing was under way");
    assert_eq!((codes[3], codes[4]), (3, 3), "a request that waits and a tunnel are cut off");
    drop((held, connected));
}

#[tokio::test]
async fn a_process_whose_log_nobody_reads_serves_and_ends_in_time() {
    let mesh = Mesh::start().await;
    let settings = mesh.path("hasty.toml");
    fs::write(&settings, SETTINGS).unwrap();
    let state = mesh.path("unread");
    let mut child = Command::new(program("outrigger-proxy"))
        .args([
            "--control-plane",
            &mesh.discovery.to_string(),
            "--log-level",
            "trace",
            "--instance",
            "unread",
        ])
        .args(["--outbound-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--inbound"])
        .arg("127.0.0.1:0=127.0.0.1:9,name=http")
        .arg("--settings")
        .arg(&settings)
        .arg("--state-dir")
        .arg(&state)
        .arg("--join-token-file")
        .arg(mesh.token("unread", "price", &[]).await)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let process = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    // Whoever writes into a pipe that is full waits there for ever.
    let log = child.stderr.take().unwrap();
    let held = || rustix::io::ioctl_fionread(&log).unwrap();
    eventually("a log", async || (held() > 16 * 1024).then_some(())).await;
    let addresses: Value = serde_json::from_slice(&fs::read(state.join("addresses.json")).unwrap()).unwrap();
    let outbound = addresses["outbound"].as_str().unwrap().parse().unwrap();
    let (mut before, mut full) = (held(), 0);
    while full < 20 {
        // Its worker has much to say of each, at this level.
        let mut client = say(outbound, b"GET / HTTP/1.1\r\nhost: nobody\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));
        let now = held();
        full = if now == before { full + 1 } else { 0 };
        before = now;
    }
    let began = Instant::now();
    kill_process(process, Signal::TERM).unwrap();
    let status = timeout(Duration::from_secs(20), child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0), "nothing was under way");
    assert!(began.elapsed() < DRAIN + FAREWELL, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_hook_waits_for_the_drain() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let proxy = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let drain = async |arguments: &[&str]| {
        let output = Command::new(program("outrigger-proxy")).arg("drain").args(arguments).output();
        let output = timeout(Duration::from_secs(20), output).await.expect("it ends").unwrap();
        crate::support::Finished::from(output)
    };
    let state = proxy.state().to_string_lossy().into_owned();
    let drained = drain(&["--state-dir", &state, "--wait"]).await;
    assert_eq!((drained.code, drained.stdout.as_str()), (0, "drained\n"), "{}", drained.stderr);
    assert!(TcpStream::connect(proxy.inbound.unwrap()).await.is_err());
    assert_eq!(proxy.ended().await, 0);
    let absent = drain(&["--state-dir", &state]).await;
    assert_eq!(absent.code, 1);
    assert!(absent.stderr.contains("it is not running, or it has another state_dir"), "{}", absent.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_stops_has_what_it_acknowledged_and_waits_for_nobody() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let proxy = mesh.join("price-1", "price", &[], Some(app.address)).await;
    // Holds its streams open, and reads nothing of what it is told.
    proxy.signal(Signal::STOP);
    let _silent = say(mesh.discovery, b"").await;
    let _half = say(mesh.policy, &[22, 3, 1, 2, 0, 1]).await;

    let asked = Mutex::new(None);
    let writing = (0..4).map(|writer| {
        let (mesh, asked) = (&mesh, &asked);
        async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let name = format!("svc-{writer}-{number}");
                let file = mesh.path(&format!("{name}.yaml"));
                fs::write(&file, service(&name, "port: 80")).unwrap();
                let done = mesh.outrigger(&["apply", "-f", &file.to_string_lossy()]).await;
                if done.code != 0 {
                    // The control plane is away: not refused, and worth another try.
                    assert_eq!(done.code, 3, "{}", done.stderr);
                    break;
                }
                acknowledged.push(name);
                if writer == 0 && number == 2 {
                    *asked.lock().unwrap() = Some(Instant::now());
                    mesh.terminate();
                }
            }
            acknowledged
        }
    });
    let acknowledged: Vec<String> = join_all(writing).await.into_iter().flatten().collect();
    let (mesh, ended) = mesh.start_again().await;
    let took = ended - asked.into_inner().unwrap().unwrap();
    assert!(took < Duration::from_secs(1) + FAREWELL, "{took:?}");
    assert!(acknowledged.len() >= 3);
    let stored = mesh.outrigger(&["get", "service", "-n", "demo", "-o", "json"]).await.ok().stdout;
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains(&format!("\"{name}\""))).collect();
    assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());

    // The proxy comes back by itself.
    proxy.signal(Signal::CONT);
    eventually("the proxy's new stream", async || {
        let status = mesh.outrigger(&["status", "-o", "json"]).await;
        status.stdout.contains("\"connected\": true").then_some(())
    })
    .await;
}
