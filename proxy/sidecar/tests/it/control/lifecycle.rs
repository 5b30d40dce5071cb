//! Joining, coming back, renewing, registering, draining: the whole proxy in this process.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use outrigger_core::join_token::JoinToken;
use outrigger_process::{
    exit::Exit,
    health::{Health, Readiness},
    shutdown::Shutdown,
};
use outrigger_proxy::{
    app::{App, StartError},
    identity::{JoinError, NoIdentity},
    settings::{CredentialStore, Settings},
};
use outrigger_tls::{credential, testing::Authority};
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tonic::Status;

use super::fake::{Event, Fake, PATIENCE};

/// A proxy in this process.
pub(super) struct Proxy {
    pub(super) health: Health,
    pub(super) health_address: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) inbound: Vec<SocketAddr>,
    pub(super) shutdown: Shutdown,
    pub(super) task: JoinHandle<Result<Exit, JoinError>>,
    /// Of a proxy that brought its own.
    _state: Option<TempDir>,
}

pub(super) fn settings(address: SocketAddr, state: &Path) -> Settings {
    let mut settings = Settings::default();
    let any = "127.0.0.1:0".parse().unwrap();
    settings.control_plane.address = address.to_string();
    settings.outbound.listen = any;
    settings.health.listen = any;
    settings.state_dir = Some(state.to_owned());
    settings.instance = Some("price-1".to_owned());
    settings.drain.withdrawal = Duration::from_secs(10);
    settings
}

impl Proxy {
    /// With a token, and a state directory that goes with it.
    pub(super) async fn start(fake: &Fake, inbound: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut settings = settings(fake.address, &state.path().join("proxy"));
        settings.inbound = inbound.iter().map(|pair| pair.parse().unwrap()).collect();
        let mut proxy = Self::run(settings, Some(&fake.token())).await.unwrap();
        proxy._state = Some(state);
        proxy
    }

    pub(super) async fn run(settings: Settings, token: Option<&JoinToken>) -> Result<Self, StartError> {
        let shutdown = Shutdown::new(Duration::from_secs(60));
        let token = token.map(JoinToken::reveal);
        let app = App::start(settings, token.as_deref(), shutdown.clone()).await?;
        Ok(Self {
            health: app.health(),
            health_address: app.addresses().health,
            outbound: app.addresses().outbound,
            inbound: app.addresses().inbound.clone(),
            shutdown,
            task: tokio::spawn(Box::pin(app.run())),
            _state: None,
        })
    }

    pub(super) async fn until(&self, readiness: impl Fn(&Readiness) -> bool) -> Readiness {
        let mut watched = self.health.watch();
        let waited = timeout(PATIENCE, watched.wait_for(|now| readiness(now))).await;
        waited.unwrap_or_else(|_| panic!("stays {:?}", self.health.readiness())).unwrap().clone()
    }

    pub(super) async fn ready(&self) {
        self.until(|now| *now == Readiness::Ready).await;
    }

    pub(super) async fn stop(self) -> Exit {
        self.shutdown.stop();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap()
    }

    async fn failed(self) -> JoinError {
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

fn public_key(csr_der: &[u8]) -> Vec<u8> {
    let request = CertificateSigningRequestParams::from_der(&csr_der.into()).unwrap();
    request.public_key.der_bytes().to_vec()
}

pub(super) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_proxy_joins_is_ready_and_registers_what_it_listens_on() {
    let fake = Fake::start();
    let proxy = Proxy::start(&fake, &["127.0.0.1:0=127.0.0.1:8080,name=http"]).await;
    proxy.ready().await;
    assert!(get(proxy.health_address, "/ready").await.starts_with("HTTP/1.1 200"));
    assert!(get(proxy.health_address, "/live").await.starts_with("HTTP/1.1 200"));
    let metrics = get(proxy.health_address, "/metrics").await;
    for metric in ["outrigger_svid_not_after_seconds", "outrigger_discovery_connected 1"] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    fake.until("a heartbeat", |seen| seen.registry.contains(&Event::Heartbeat)).await;
    fake.look(|seen| {
        let workload = seen.registrations()[0];
        assert_eq!(workload.id, "price-1");
        assert_eq!((workload.namespace.as_str(), workload.service_account.as_str()), ("", ""));
        let port = &workload.ports[0];
        assert_eq!(port.name, "http");
        assert_eq!(port.application_port, 8080);
        assert_eq!(
            (port.address.as_slice(), port.port),
            (&[127, 0, 0, 1][..], u32::from(proxy.inbound[0].port()))
        );
    });
    assert_eq!(proxy.stop().await, Exit::Success);
}

#[tokio::test]
async fn each_pair_registers_what_its_application_speaks() {
    let fake = Fake::start();
    let words = ["http1", "http2", "grpc", "tcp", "detect"];
    let pairs = words.map(|word| format!("127.0.0.1:0=127.0.0.1:8080,protocol={word}"));
    let proxy = Proxy::start(&fake, &pairs.each_ref().map(String::as_str)).await;
    proxy.ready().await;
    fake.until("registered", |seen| seen.registrations().len() == 1).await;
    fake.look(|seen| {
        let found: Vec<_> = seen.registrations()[0].ports.iter().map(|port| port.protocol()).collect();
        use outrigger_proto::mesh::v1alpha1::AppProtocol as Wire;
        assert_eq!(found, [Wire::Http1, Wire::Http2, Wire::Grpc, Wire::Tcp, Wire::Unspecified]);
    });
    proxy.stop().await;
}

#[tokio::test]
async fn the_addresses_that_were_bound_are_written_down() {
    let fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let mut settings = settings(fake.address, &dir);
    settings.outbound.services =
        ["127.0.0.1:0=price", "[::1]:0=db.shop:5432"].map(|pair| pair.parse().unwrap()).into();
    let proxy = Proxy::run(settings, Some(&fake.token())).await.unwrap();
    let text = fs::read(dir.join("addresses.json")).unwrap();
    // They are the last to be there: whoever waits for them may ask for a drain next.
    let made = |name: &str| fs::metadata(dir.join(name)).unwrap().modified().unwrap();
    assert!(made("admin.sock") <= made("addresses.json"));
    let written: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let services: Vec<SocketAddr> = serde_json::from_value(written["services"].clone()).unwrap();
    assert!(services[0].is_ipv4() && services[1].is_ipv6(), "{written}");
    for address in services {
        let taken = TcpListener::bind(address).await.unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_restart_comes_back_with_the_kept_credential_and_a_higher_epoch() {
    let fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let mut settings = settings(fake.address, &dir);
    settings.inbound = vec!["127.0.0.1:0=127.0.0.1:8080".parse().unwrap()];
    let proxy = Proxy::run(settings.clone(), Some(&fake.token())).await.unwrap();
    proxy.ready().await;
    fake.until("registered", |seen| seen.registrations().len() == 1).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("credential")), 0o700);
    assert_eq!(mode(&dir.join("credential/tls.key")), 0o600);
    assert!(!dir.join("credential/join.key").exists());
    proxy.stop().await;

    let proxy = Proxy::run(settings, None).await.unwrap();
    proxy.ready().await;
    fake.until("registered again", |seen| seen.registrations().len() == 2).await;
    fake.look(|seen| {
        assert_eq!(seen.issued.len(), 1, "no second certificate");
        let registrations = seen.registrations();
        assert_eq!(registrations[0].id, registrations[1].id);
        assert!(registrations[0].epoch < registrations[1].epoch);
    });
    proxy.stop().await;
}

#[tokio::test]
async fn a_credential_in_memory_is_never_on_disk() {
    let fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let mut settings = settings(fake.address, &dir);
    settings.join.credential = CredentialStore::Memory;
    let proxy = Proxy::run(settings.clone(), Some(&fake.token())).await.unwrap();
    proxy.ready().await;
    proxy.stop().await;
    // Configuration may be kept, and holds no secret.
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.is_file(), "{}", path.display());
        let content = fs::read(&path).unwrap();
        assert!(!content.windows(11).any(|part| part == b"PRIVATE KEY"), "{}", path.display());
    }
    let error = Proxy::run(settings, None).await.err().unwrap();
    assert!(matches!(error, StartError::Identity(NoIdentity::NotKept)), "{error}");
}

#[tokio::test]
async fn whoever_is_not_the_control_plane_of_the_token_gets_no_token() {
    let fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let elsewhere = Authority::new("outrigger.local");
    let root_spki_sha256 = outrigger_tls::spki_sha256(&elsewhere.root_der()).unwrap();
    let token = JoinToken { root_spki_sha256, ..fake.token() };
    let proxy = Proxy::run(settings(fake.address, &state.path().join("proxy")), Some(&token)).await.unwrap();
    let error = proxy.failed().await;
    assert!(matches!(error, JoinError::Impostor { .. }), "{error}");
    assert!(fake.look(|seen| seen.issued.is_empty()));
}

#[tokio::test]
async fn a_refused_token_ends_the_proxy_and_its_key_stays_the_same_while_it_may_work() {
    let fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let settings = settings(fake.address, &state.path().join("proxy"));
    // The answer is lost twice, and the process is restarted in between.
    fake.change(|seen| seen.join = Err(Status::unavailable("try again")));
    let proxy = Proxy::run(settings.clone(), Some(&fake.token())).await.unwrap();
    fake.until("two attempts", |seen| seen.issued.len() >= 2).await;
    proxy.stop().await;
    fake.change(|seen| seen.join = Err(Status::unauthenticated("the join token has expired")));
    let proxy = Proxy::run(settings, Some(&fake.token())).await.unwrap();
    let error = proxy.failed().await;
    assert!(matches!(error, JoinError::Refused(_)), "{error}");
    fake.look(|seen| {
        let keys: std::collections::BTreeSet<_> =
            seen.issued.iter().map(|issue| public_key(&issue.csr_der)).collect();
        assert_eq!(keys.len(), 1, "the token is bound to one key");
    });
}

#[tokio::test]
async fn a_proxy_waits_for_a_control_plane_that_is_away_and_says_so() {
    let mut fake = Fake::start();
    fake.kill();
    let state = tempfile::tempdir().unwrap();
    let settings = settings(fake.address, &state.path().join("proxy"));
    let proxy = Proxy::run(settings, Some(&fake.token())).await.unwrap();
    let why = |now: &Readiness| matches!(now, Readiness::NotReady(why) if why.contains("cannot be reached"));
    proxy.until(why).await;
    let answer = get(proxy.health_address, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("cannot be reached"), "{answer}");
    fake.resume();
    proxy.ready().await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_credential_is_renewed_with_a_new_key_and_kept() {
    let fake = Fake::start();
    fake.change(|seen| seen.life = (Duration::from_secs(3600), Duration::from_millis(200)));
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let proxy = Proxy::run(settings(fake.address, &dir), Some(&fake.token())).await.unwrap();
    proxy.ready().await;
    let hour = Duration::from_secs(3600);
    fake.change(|seen| seen.life = (hour * 2, hour));
    let later = SystemTime::now() + hour + hour / 2;
    fake.until("a renewed certificate in force", |seen| {
        seen.applied
            .last()
            .and_then(|report| report.svid_not_after)
            .is_some_and(|at| SystemTime::try_from(at).unwrap() > later)
    })
    .await;
    fake.look(|seen| {
        let renewal = seen.issued.last().unwrap();
        assert!(renewal.join_token.is_empty());
        assert_eq!(renewal.spiffe_id, "spiffe://outrigger.local/ns/demo/sa/price");
        assert_ne!(public_key(&renewal.csr_der), public_key(&seen.issued[0].csr_der));
    });
    proxy.stop().await;
    let kept = credential::load(&dir.join("credential")).unwrap();
    assert!(kept.svid.not_after() > later);
}

#[tokio::test]
async fn a_broken_session_is_opened_again_with_the_same_id_and_epoch() {
    let mut fake = Fake::start();
    let proxy = Proxy::start(&fake, &["127.0.0.1:0=127.0.0.1:8080"]).await;
    proxy.ready().await;
    fake.until("registered", |seen| seen.registrations().len() == 1).await;
    fake.kill();
    fake.resume();
    fake.until("registered again", |seen| seen.registrations().len() == 2).await;
    fake.look(|seen| {
        assert_eq!(seen.registrations()[0], seen.registrations()[1]);
        assert!(!seen.registry.contains(&Event::HalfClosed), "a break is not a withdrawal");
    });
    assert_eq!(proxy.health.readiness(), Readiness::Ready, "the mesh outlives its control plane");
    proxy.stop().await;
}

#[tokio::test]
async fn a_drain_withdraws_first_and_stays_ready_until_that_is_confirmed() {
    let fake = Fake::start();
    fake.change(|seen| seen.confirm = false);
    let proxy = Proxy::start(&fake, &["127.0.0.1:0=127.0.0.1:8080"]).await;
    proxy.ready().await;
    fake.until("registered", |seen| seen.registry.contains(&Event::Heartbeat)).await;
    proxy.shutdown.stop();
    fake.until("half-closed", |seen| seen.registry.contains(&Event::HalfClosed)).await;
    assert_eq!(proxy.health.readiness(), Readiness::Ready);
    TcpStream::connect(proxy.inbound[0]).await.unwrap();
    fake.change(|seen| seen.confirm = true);
    let exit = timeout(PATIENCE, proxy.task).await.unwrap().unwrap().unwrap();
    assert_eq!(exit, Exit::Success);
    assert_eq!(proxy.health.readiness(), Readiness::NotReady("draining".to_owned()));
    assert!(TcpStream::connect(proxy.inbound[0]).await.is_err(), "the listeners went last");
}

#[tokio::test]
async fn a_proxy_that_stops_says_good_bye_on_its_configuration_stream() {
    let fake = Fake::start();
    let proxy = Proxy::start(&fake, &[]).await;
    proxy.ready().await;
    assert_eq!(proxy.stop().await, Exit::Success);
    assert_eq!(fake.look(|seen| seen.good_byes), 1, "heard of before the proxy is gone");
}

#[tokio::test]
async fn a_proxy_that_is_asked_to_stop_before_it_joined_stops() {
    let mut fake = Fake::start();
    fake.kill();
    let state = tempfile::tempdir().unwrap();
    let settings = settings(fake.address, &state.path().join("proxy"));
    let proxy = Proxy::run(settings, Some(&fake.token())).await.unwrap();
    assert_eq!(proxy.stop().await, Exit::Success);
}
