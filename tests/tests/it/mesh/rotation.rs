//! Everything that vouches for anybody is replaced under load: leaves, the intermediate, the root. No request is lost,
//! and nothing is left that hangs on what was there before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::Request;
use outrigger_tls::{credential, spki_sha256};
use tokio::{task::JoinSet, time::Instant};

use super::PRICE;
use crate::support::{Application, Client, Mesh, Proxy, process::eventually};

/// In the second half of it a busy machine renews in time. A rotation that waits for leaves to expire takes as long.
const LEAF_TTL: &str = "12s";
/// A rotation waits up to a minute, as its command is told, and says what for.
const ROTATION: Duration = Duration::from_secs(75);
/// How long connections may outlive what they hang on: a minute's jitter, and what is in flight.
const LEAVING: Duration = Duration::from_secs(90);

/// A hundred requests a second, every third one a POST, none of them sent twice by anybody.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<BTreeMap<String, u64>>,
}

impl Load {
    fn start(client: Client) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                let mut under_way = JoinSet::new();
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let id = sent.fetch_add(1, Ordering::Relaxed);
                    under_way.spawn(ask(client, id));
                }
                let mut answers = BTreeMap::new();
                while let Some(answer) = under_way.join_next().await {
                    *answers.entry(answer.unwrap()).or_default() += 1;
                }
                answers
            }
        });
        Self { stop, sent, task }
    }

    /// Ends it; how many of which answer there were.
    async fn end(self) -> (u64, BTreeMap<String, u64>) {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.task.await.unwrap();
        (self.sent.load(Ordering::Relaxed), answers)
    }
}

async fn ask(client: Client, id: u64) -> String {
    let uri = format!("http://price.demo.mesh/{id}");
    let request = match id % 3 {
        0 => Request::post(uri).body(Full::from("an order")),
        _ => Request::get(uri).body(Full::default()),
    };
    match client.send(request.unwrap()).await {
        Ok(answer) => answer.status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Those who signed the certificate that a sidecar keeps: the intermediate's and the root's key.
fn signers(proxy: &Proxy) -> Option<(Vec<u8>, [[u8; 32]; 2])> {
    let kept = credential::load(&proxy.state().join("credential")).ok()?;
    let leaf = kept.svid.chain().first()?.to_vec();
    let signers = kept.svid.authorities(&kept.bundle).try_into().ok()?;
    Some((leaf, signers))
}

/// The roots that a sidecar trusts.
fn trusted(proxy: &Proxy) -> Vec<[u8; 32]> {
    let kept = credential::load(&proxy.state().join("credential")).unwrap();
    kept.bundle.authorities().iter().map(|root| spki_sha256(root).unwrap()).collect()
}

/// The callers' ports of all connections to `address` that are established.
fn callers(address: SocketAddr) -> BTreeSet<u16> {
    let table = fs::read_to_string(Path::new("/proc/net/tcp")).unwrap();
    let port = |column: &str| u16::from_str_radix(column.rsplit_once(':').unwrap().1, 16).unwrap();
    let established = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns[3] == "01" && port(columns[1]) == address.port()).then(|| port(columns[2]))
    });
    established.collect()
}

/// Waits until none of the connections is left that there are now.
async fn replaced(address: SocketAddr) {
    let before = callers(address);
    let deadline = Instant::now() + LEAVING;
    while !callers(address).is_disjoint(&before) {
        assert!(Instant::now() < deadline, "connections are left that hang on what is gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_intermediate_and_root_are_replaced_under_load_and_nothing_is_lost() {
    let mesh = Mesh::start_with(&[("OUTRIGGER_AUTHORITY__LEAF_TTL", LEAF_TTL)]).await;
    let app = Application::start("a price").await;
    let price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let inbound = price.inbound.unwrap();
    let (first_leaf, [first_intermediate, first_root]) = signers(&front).unwrap();
    let load = Load::start(front.client());

    eventually("renewal of the leaves", async || (signers(&front)?.0 != first_leaf).then_some(())).await;
    assert_eq!(signers(&front).unwrap().1, [first_intermediate, first_root]);

    // In haste: tainted, and revoked as soon as nobody shows it. Then as it should be.
    let mut gone = BTreeSet::from([first_intermediate, first_root]);
    for arguments in [&["--force"][..], &["--root", "--force"], &["--root"]] {
        let rotate = [&["authority", "rotate", "--timeout", "1m"], arguments].concat();
        mesh.outrigger_within(ROTATION, &rotate).await.ok();
        let mut next = BTreeSet::new();
        for proxy in [&price, &front] {
            let (intermediate, root) = eventually("a certificate of the new on disk", async || {
                let (_, [intermediate, root]) = signers(proxy)?;
                (!gone.contains(&intermediate)).then_some((intermediate, root))
            })
            .await;
            assert_eq!(gone.contains(&root), arguments == ["--force"], "{arguments:?}");
            next.extend([intermediate, root]);
        }
        gone.extend(next);
    }
    let status = mesh.outrigger(&["authority", "status", "-o", "json"]).await.json();
    let root = status["root"]["keySha256"].as_str().unwrap().to_owned();
    for proxy in [&price, &front] {
        let (_, [_, signed]) = signers(proxy).unwrap();
        assert_eq!(hex(&signed), root);
        eventually("the end of the old root in the bundle", async || {
            (trusted(proxy) == [signed]).then_some(())
        })
        .await;
    }
    // Whatever is open now may be older. What is opened from here on was verified under the new root alone, both ways.
    replaced(inbound).await;
    let (sent, answers) = load.end().await;
    assert_eq!(answers, BTreeMap::from([("200".to_owned(), sent)]));
    assert!(sent > 2_000, "{sent} requests are no load for so long");
    let orders: Vec<String> = app.asked().iter().map(|asked| asked.uri().path().to_owned()).collect();
    let distinct: BTreeSet<&String> = orders.iter().collect();
    assert_eq!(
        (distinct.len(), orders.len()),
        (usize::try_from(sent).unwrap(), usize::try_from(sent).unwrap())
    );

    // Who joins now is of the new root, and everybody talks to it.
    let late = mesh.join("late-1", "front", &[], None).await;
    assert_eq!(hex(&signers(&late).unwrap().1[1]), root);
    assert_eq!(late.client().get("http://price/").await.unwrap().status, 200);
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_control_plane_killed_between_any_two_steps_goes_on_with_the_next() {
    let mut mesh = Mesh::start().await;
    let status = async |mesh: &Mesh| mesh.outrigger(&["authority", "status", "-o", "json"]).await.json();
    let first = status(&mesh).await["root"]["keySha256"].clone();
    for (step, stage) in [("prepare", "prepared"), ("activate", "retiring"), ("taint", "tainted")] {
        // Nobody can be known to be missing so soon after a start; there is nobody.
        let force: &[&str] = if step == "activate" { &["--force"] } else { &[] };
        mesh.outrigger(&[&["authority", step, "--root"], force].concat()).await.ok();
        mesh = mesh.restart_control_plane().await;
        let state = status(&mesh).await;
        assert_eq!((&state["rotation"]["of"], &state["rotation"]["stage"]), (&"root".into(), &stage.into()));
        assert_eq!(state["root"]["keySha256"] == first, step == "prepare", "{state}");
    }
    let refused = mesh.outrigger(&["authority", "revoke", "--root"]).await;
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(refused.stderr.contains("expires in"), "{}", refused.stderr);
    mesh.outrigger(&["authority", "revoke", "--root", "--force"]).await.ok();
    mesh = mesh.restart_control_plane().await;
    let state = status(&mesh).await;
    assert!(state["rotation"].is_null() && state["root"]["keySha256"] != first, "{state}");
    let keys = fs::read_dir(mesh.path("control-plane/authority")).unwrap();
    let mut keys: Vec<_> = keys.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    keys.sort();
    assert_eq!(keys, ["operator-1.pem", "root-1.pem", "workload-1.pem"]);
}
