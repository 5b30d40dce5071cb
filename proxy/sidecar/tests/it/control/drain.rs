//! A stop that is asked for on the admin socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use outrigger_process::{exit::Exit, health::Readiness};
use outrigger_proto::type_url;
use outrigger_proxy::{
    admin::{self, ClientError, Phase, Report},
    settings::Settings,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};

use super::{
    discovery::{endpoint_set, service},
    fake::{Event, Fake, PATIENCE},
    lifecycle::{Proxy, settings},
};

/// A proxy that is registered, with a directory that outlives it.
async fn registered(fake: &Fake) -> (Proxy, TempDir, PathBuf) {
    registered_with(fake, |_| {}).await
}

async fn registered_with(fake: &Fake, change: impl FnOnce(&mut Settings)) -> (Proxy, TempDir, PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let mut settings = settings(fake.address, &dir);
    change(&mut settings);
    settings.inbound = vec!["127.0.0.1:0=127.0.0.1:8080".parse().unwrap()];
    let proxy = Proxy::run(settings, Some(&fake.token())).await.unwrap();
    proxy.ready().await;
    fake.until("registered", |seen| seen.registry.contains(&Event::Heartbeat)).await;
    (proxy, state, dir)
}

async fn drain(dir: &Path, wait: bool) -> Result<Report, ClientError> {
    timeout(PATIENCE, admin::drain(dir, wait, None)).await.unwrap()
}

async fn ended(proxy: Proxy) -> Exit {
    timeout(PATIENCE, proxy.task).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn a_hook_begins_the_drain_and_hears_of_its_end() {
    let fake = Fake::start();
    fake.change(|seen| seen.confirm = false);
    // Long enough for all that is looked at before it is over.
    let withdrawal = Duration::from_secs(30);
    let (proxy, _state, dir) =
        registered_with(&fake, |settings| settings.drain.withdrawal = withdrawal).await;
    let socket = dir.join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let report = drain(&dir, false).await.unwrap();
    assert!(matches!(report.phase, Phase::Running | Phase::Withdrawing), "it has just begun: {report:?}");
    fake.until("half-closed", |seen| seen.registry.contains(&Event::HalfClosed)).await;
    assert_eq!(drain(&dir, false).await.unwrap().phase, Phase::Withdrawing, "asking again changes nothing");
    assert_eq!(proxy.health.readiness(), Readiness::Ready);
    TcpStream::connect(proxy.inbound[0]).await.unwrap();

    // It waits at the socket before the next one asks there, which is answered while the drain still goes on: a proxy that has
    // nothing to do is gone in a moment after that.
    let waiting = tokio::spawn({
        let dir = dir.clone();
        async move { drain(&dir, true).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(drain(&dir, false).await.unwrap().phase, Phase::Withdrawing);
    fake.change(|seen| seen.confirm = true);
    let report = waiting.await.unwrap().unwrap();
    assert_eq!((report.phase, report.cut), (Phase::Drained, 0));
    assert_eq!(proxy.health.readiness(), Readiness::NotReady("draining".to_owned()));
    assert!(TcpStream::connect(proxy.inbound[0]).await.is_err(), "drained means without listeners");
    assert_eq!(ended(proxy).await, Exit::Success);
    assert!(!socket.exists());
    let absent = drain(&dir, true).await.unwrap_err();
    assert!(
        matches!(absent, ClientError::Absent(_)) && absent.to_string().contains("--state-dir"),
        "{absent}"
    );
}

#[tokio::test]
async fn a_drain_that_nobody_confirms_goes_on_after_its_time() {
    let fake = Fake::start();
    fake.change(|seen| seen.confirm = false);
    let withdrawal = Duration::from_millis(100);
    let (proxy, _state, dir) =
        registered_with(&fake, |settings| settings.drain.withdrawal = withdrawal).await;
    let report = drain(&dir, true).await.unwrap();
    assert_eq!((report.phase, report.cut), (Phase::Drained, 0));
    assert_eq!(ended(proxy).await, Exit::Success);
}

#[tokio::test]
async fn a_signal_goes_on_with_the_drain_of_a_hook_and_a_second_one_cuts_it_short() {
    let fake = Fake::start();
    fake.change(|seen| seen.confirm = false);
    let (proxy, _state, dir) = registered(&fake).await;
    drain(&dir, false).await.unwrap();
    fake.until("half-closed", |seen| seen.registry.contains(&Event::HalfClosed)).await;
    proxy.shutdown.stop();
    assert!(!proxy.shutdown.forced().is_cancelled());
    assert_eq!(drain(&dir, false).await.unwrap().phase, Phase::Withdrawing);
    proxy.shutdown.stop();
    assert_eq!(ended(proxy).await, Exit::Forced);
}

#[tokio::test]
async fn what_is_cut_short_is_in_the_last_figures() {
    let fake = Fake::start();
    let (proxy, _state, _dir) = registered(&fake).await;
    // Connections to it are made, and nobody says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut set = endpoint_set("demo/late");
    set.endpoints[0].port = silent.local_addr().unwrap().port().into();
    fake.change(|seen| {
        seen.put(type_url::SERVICE, "demo/late", &service("demo/late"));
        seen.put(type_url::ENDPOINT_SET, "demo/late:80", &set);
    });
    let mut client = TcpStream::connect(proxy.outbound).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: late.demo.mesh\r\n\r\n").await.unwrap();
    let _under_way = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    proxy.shutdown.stop();
    proxy.shutdown.stop();
    assert_eq!(ended(proxy).await, Exit::Forced);
    let told = fake.look(|seen| {
        let edges = seen.reports.iter().flat_map(|report| &report.edges);
        edges.map(|edge| edge.requests).sum::<u64>()
    });
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_socket_that_a_killed_proxy_left_behind_is_nobody_s_and_is_replaced() {
    let fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    outrigger_process::files::private_dir(&dir).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("admin.sock")).unwrap());
    assert!(matches!(drain(&dir, false).await, Err(ClientError::Absent(_))));
    let proxy = Proxy::run(settings(fake.address, &dir), Some(&fake.token())).await.unwrap();
    assert_eq!(drain(&dir, true).await.unwrap().phase, Phase::Drained);
    assert_eq!(ended(proxy).await, Exit::Success);
}

#[tokio::test]
async fn a_wait_that_is_too_short_says_that_the_drain_goes_on() {
    let fake = Fake::start();
    fake.change(|seen| seen.confirm = false);
    let (proxy, _state, dir) = registered(&fake).await;
    let error = admin::drain(&dir, true, Some(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLong(_)), "{error}");
    fake.change(|seen| seen.confirm = true);
    assert_eq!(ended(proxy).await, Exit::Success);
}

#[tokio::test]
async fn the_socket_knows_nothing_else() {
    let fake = Fake::start();
    let (proxy, _state, dir) = registered(&fake).await;
    let ask = async |request: &str| -> io::Result<String> {
        let mut stream = UnixStream::connect(dir.join("admin.sock")).await?;
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    for (request, status) in
        [("GET /drain", "200"), ("GET /drained", "405"), ("DELETE /drain", "405"), ("GET /metrics", "404")]
    {
        let answer = ask(request).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert!(ask("GET /drain").await.unwrap().contains(r#""phase":"running""#));
    assert!(!proxy.shutdown.is_draining(), "a question begins nothing");
    assert_eq!(proxy.stop().await, Exit::Success);
}
