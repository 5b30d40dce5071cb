//! gRPC's own C core, as Python programs have it: a client that knows the mesh as its `grpc_proxy`, and servers.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use serde_json::{Value, json};
use tokio::process::Command;

use super::service;
use crate::support::{
    Mesh, Proxy,
    process::{Dialogue, Running, eventually, python, run},
};

/// A running server; killed when dropped.
struct Server {
    address: SocketAddr,
    running: Running,
}

impl Server {
    async fn start(mesh: &Mesh, name: &str) -> Self {
        let port = mesh.path(&format!("{name}.port"));
        let running = Running::start(
            python("grpc_server.py").arg(name).arg(&port),
            mesh.path(&format!("{name}-server.log")),
        );
        let port = eventually("port of the server", async || fs::read_to_string(&port).ok()).await;
        Self { address: format!("127.0.0.1:{port}").parse().unwrap(), running }
    }

    /// Its sidecar.
    async fn join(&self, mesh: &Mesh, name: &str, account: &str) -> Proxy {
        let inbound = format!("127.0.0.1:0={},name=grpc,protocol=grpc", self.address);
        mesh.join_with(name, account, &["--inbound", &inbound]).await
    }

    /// Waits until it said this line.
    async fn said(&self, line: &str) {
        eventually(line, async || self.running.log().lines().any(|said| said == line).then_some(())).await;
    }
}

/// One instance of `words`, and its client's sidecar.
async fn one(mesh: &Mesh) -> (Server, Proxy, Proxy) {
    let server = Server::start(mesh, "words-1").await;
    let words = server.join(mesh, "words-1", "words").await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(&service("words", "port: 50051, name: grpc, protocol: GRPC")).await.ok();
    (server, words, front)
}

/// A client that finds `words` through `front`.
fn client(front: &Proxy, what: &str) -> Command {
    let mut command = python("grpc_client.py");
    command.args(["words.demo.mesh:50051", what]).env("grpc_proxy", format!("http://{}", front.outbound));
    command
}

async fn ask(front: &Proxy, what: &str) -> Value {
    run(&mut client(front, what), b"").await.json()
}

/// What must have come of `kinds`.
fn are_whole(kinds: &Value) {
    assert_eq!(kinds["unary"], "one");
    let bytes: String = (0..=255).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(kinds["trailers"], json!({"length": "3", "sum-bin": bytes}));
    let count: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
    assert_eq!(kinds["count"], json!(count));
    assert_eq!(kinds["gather"], format!("300:{}", count[..300].concat()));
    assert_eq!(kinds["no messages"], "0:");
}

#[tokio::test]
async fn calls_of_every_kind_arrive_whole_in_both_directions() {
    let mesh = Mesh::start().await;
    let (_server, _words, front) = one(&mesh).await;
    are_whole(&ask(&front, "kinds").await);

    let talk = ask(&front, "converse").await;
    let turns: Vec<_> = (0..20).flat_map(|turn| [format!("0-{turn}"), format!("1-{turn}")]).collect();
    assert_eq!(talk, json!({"heard": turns, "rest": [[], []], "codes": ["OK", "OK"]}));

    let large = ask(&front, "large").await;
    assert_eq!(large, json!({"unary": 4 * 1024 * 1024, "stream": [true, true, true]}));
}

#[tokio::test]
async fn a_client_that_knows_of_no_proxy_calls_an_address_that_leads_to_the_service() {
    let mesh = Mesh::start().await;
    let server = Server::start(&mesh, "words-1").await;
    let _words = server.join(&mesh, "words-1", "words").await;
    let listener = ["--outbound-service", "127.0.0.1:0=words.demo:50051"];
    let front = mesh.join_with("front-1", "front", &listener).await;
    for protocol in [", protocol: GRPC", ""] {
        mesh.apply(&service("words", &format!("port: 50051, name: grpc{protocol}"))).await.ok();
        let mut client = python("grpc_client.py");
        client.args([&front.services[0].to_string(), "kinds"]);
        are_whole(&run(&mut client, b"").await.json());
    }
}

#[tokio::test]
async fn statuses_and_trailers_are_the_servers_own() {
    let mesh = Mesh::start().await;
    let (_server, _words, front) = one(&mesh).await;
    let statuses = ask(&front, "statuses").await;
    let codes = statuses["codes"].as_object().unwrap();
    assert_eq!(codes.len(), 16);
    let names: Vec<_> = (1..=16).map(|number| codes[&number.to_string()]["code"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ]
    );
    for (number, status) in codes {
        assert_eq!(status["details"], format!("no: {number} % ü"), "{status}");
        // The head of such an answer is its trailers; a date that is missing there is added (RFC 9110 §6.6.1).
        let mut trailers = status["trailers"].as_object().unwrap().clone();
        trailers.remove("date");
        assert_eq!(Value::from(trailers), json!({"why": "asked to"}), "{status}");
    }
    assert_eq!(statuses["unknown"]["code"], "UNIMPLEMENTED");
}

#[tokio::test]
async fn deadlines_and_cancellations_reach_the_server() {
    let mesh = Mesh::start().await;
    let (server, _words, front) = one(&mesh).await;
    let left = |answer: &Value| answer["answer"].as_str().unwrap().parse::<f64>().unwrap();

    let deadlines = ask(&front, "deadlines").await;
    let seen = left(&deadlines["seen"]);
    assert!(seen > 1.0 && seen < 5.0, "what is left of 5 s: {seen}");
    assert!(left(&deadlines["unlimited"]) > 1e6, "{deadlines}");
    assert_eq!(deadlines["passed"]["code"], "DEADLINE_EXCEEDED");
    server.said("over deadline").await;

    let mut client = Dialogue::start(&mut client(&front, "cancel"));
    server.said("begun cancel").await;
    client.tell("").await;
    assert_eq!(client.hear().await, r#"{"code": "CANCELLED"}"#);
    server.said("over cancel").await;

    // The mesh's own limit is a deadline too; it shortens what the client asked for.
    mesh.apply(
        "
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: words, namespace: demo}
spec:
  parentRefs: [{name: words}]
  rules:
  - timeouts: {request: 1s}
",
    )
    .await
    .ok();
    let deadlines = ask(&front, "deadlines").await;
    for seen in ["seen", "unlimited"].map(|of| left(&deadlines[of])) {
        assert!(seen > 0.0 && seen < 1.0, "what is left of 1 s: {seen}");
    }
}

/// Makes so many calls at once and so often; returns what came of them: who answered, or why nobody did.
async fn call(client: &mut Dialogue, groups: u32, size: u32) -> BTreeMap<String, u32> {
    client.tell(&format!("{groups} {size}")).await;
    serde_json::from_str(&client.hear().await).unwrap()
}

/// Waits until nobody has a connection to `address` any more. The kernel knows at once that a process died; whoever was
/// connected to it has to notice.
async fn is_noticed(address: SocketAddr) {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let [ip, port] = [u32::from_le_bytes(address.ip().octets()), address.port().into()];
    let peer = format!("{ip:08X}:{port:04X}");
    // Established, and closed by the other side only.
    let connected = |socket: &str| {
        let fields: Vec<_> = socket.split_whitespace().collect();
        fields[2] == peer && ["01", "08"].contains(&fields[3])
    };
    eventually("end of the connections to the dead one", async || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        (!sockets.lines().skip(1).any(connected)).then_some(())
    })
    .await;
}

/// Two instances of `words`, each with its sidecar, and the client's.
async fn two(mesh: &Mesh) -> ([(Server, Proxy); 2], Proxy) {
    let (first, second) = (Server::start(mesh, "words-1").await, Server::start(mesh, "words-2").await);
    let beside_first = first.join(mesh, "words-1", "words").await;
    let beside_second = second.join(mesh, "words-2", "words").await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(&service("words", "port: 50051, name: grpc, protocol: GRPC")).await.ok();
    ([(first, beside_first), (second, beside_second)], front)
}

#[tokio::test]
async fn the_calls_of_one_channel_are_spread_over_the_instances() {
    let mesh = Mesh::start().await;
    let (_instances, front) = Box::pin(two(&mesh)).await;
    let together = ask(&front, "together").await;
    assert_eq!(together["rest"], json!([]));
    let who: BTreeMap<String, u32> = serde_json::from_value(together["who"].clone()).unwrap();
    assert_eq!(who.keys().collect::<Vec<_>>(), ["words-1", "words-2"], "{who:?}");
    assert_eq!(who.values().sum::<u32>(), 64, "{who:?}");
}

/// What of an instance is killed.
#[derive(Debug, Clone, Copy)]
enum Killed {
    Application,
    Sidecar,
}

/// Kills something of the instance that most calls go to: from when that is noticed none may fail. (Those before are in
/// flight there: a call is not repeated when its server may have seen it.)
async fn go_on_without(killed: Killed) {
    let mesh = Mesh::start().await;
    let ([first, second], front) = Box::pin(two(&mesh)).await;
    let mut client = Dialogue::start(&mut client(&front, "rounds"));
    let before = call(&mut client, 12, 8).await;
    let times = |name| before.get(name).copied().unwrap_or_default();
    assert_eq!(times("words-1") + times("words-2"), 96, "{before:?}");
    let (favourite, _other, left) = match times("words-1") > times("words-2") {
        true => (first, second, "words-2"),
        false => (second, first, "words-1"),
    };
    let retries = front.metric("outrigger_retries_total").await;

    let (server, sidecar) = favourite;
    let dead = match killed {
        Killed::Application => {
            server.running.kill().await;
            server.address
        }
        Killed::Sidecar => {
            let inbound = sidecar.inbound.unwrap();
            sidecar.kill().await;
            inbound
        }
    };
    is_noticed(dead).await;
    // Many at once: whoever is busy is avoided, and some meet the dead one.
    eventually("call that was on its way to the dead one, and sent elsewhere", async || {
        assert_eq!(call(&mut client, 1, 8).await, BTreeMap::from([(left.to_owned(), 8)]));
        (front.metric("outrigger_retries_total").await > retries).then_some(())
    })
    .await;
    assert_eq!(call(&mut client, 96, 1).await, BTreeMap::from([(left.to_owned(), 96)]));
}

#[tokio::test]
async fn calls_go_on_when_an_application_dies() {
    Box::pin(go_on_without(Killed::Application)).await;
}

#[tokio::test]
async fn calls_go_on_when_a_sidecar_dies() {
    Box::pin(go_on_without(Killed::Sidecar)).await;
}

#[tokio::test]
async fn the_calls_of_one_channel_are_split_by_weight() {
    let mesh = Mesh::start().await;
    let (old, new) = (Server::start(&mesh, "v1").await, Server::start(&mesh, "v2").await);
    let _old = old.join(&mesh, "words-1", "words-v1").await;
    let _new = new.join(&mesh, "words-2", "words-v2").await;
    let front = mesh.join("front-1", "front", &[], None).await;
    let port = "port: 50051, name: grpc, protocol: GRPC";
    let services = ["words", "words-v1", "words-v2"].map(|name| service(name, port)).join("---");
    let route = "---
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: words, namespace: demo}
spec:
  parentRefs: [{name: words}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /test.Words}}]
    backendRefs: [{name: words-v1, port: 50051, weight: 75}, {name: words-v2, port: 50051, weight: 25}]
";
    mesh.apply(&(services + route)).await.ok();

    let who: BTreeMap<String, u32> = serde_json::from_value(ask(&front, "split").await).unwrap();
    assert_eq!(who.values().sum::<u32>(), 200, "{who:?}");
    // Five standard deviations of a binomial of 200 at 0.25: a fair split fails once in a million runs.
    let (mean, deviation) = (200.0 * 0.25, (200.0_f64 * 0.25 * 0.75).sqrt());
    assert!((f64::from(who["v2"]) - mean).abs() < 5.0 * deviation, "{who:?}");
}
