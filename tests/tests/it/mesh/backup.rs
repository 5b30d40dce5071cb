//! A control plane that is lost with all that it had, and comes back from a backup that is older than the mesh.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

use super::{PRICE, service};
use crate::support::{Application, Mesh, process::eventually};

/// The endpoints of `demo/price` that the proxy `front` sees.
async fn endpoints(mesh: &Mesh) -> usize {
    let shown = mesh.outrigger(&["status", "demo/price", "-o", "json"]).await;
    let count = |shown: &Value| shown["endpoints"].as_array().map_or(0, Vec::len);
    serde_json::from_str(&shown.stdout).as_ref().map_or(0, count)
}

/// The backup knows an instance that is gone, and not the one that took its place: had the restored control plane said
/// so, no request would have been answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_control_plane_takes_over_a_mesh_that_lives_and_no_request_fails() {
    let mesh = Mesh::start().await;
    let (first, second) = (Application::start("first").await, Application::start("second").await);
    let first_proxy = mesh.join("price-1", "price", &[], Some(first.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "first");

    let stop = Arc::new(AtomicBool::new(false));
    let client = front.client();
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut answers: BTreeMap<String, u64> = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = client.get("http://price/").await;
                let key =
                    answer.map_or_else(|error| error.to_string(), |a| format!("{} {}", a.status, a.text()));
                *answers.entry(key).or_default() += 1;
            }
            answers
        }
    });

    let backup = mesh.path("mesh.backup");
    let path = backup.to_string_lossy().into_owned();
    mesh.outrigger(&["backup", &path]).await.ok();
    let proved = mesh.outrigger(&["audit", "--verify", "-o", "json"]).await.json();
    let head = proved["head"].as_str().unwrap().to_owned();

    // What the backup does not know: an object, and who backs the service now.
    mesh.apply(&service("late", "port: 80, name: http, protocol: HTTP")).await.ok();
    let _second_proxy = mesh.join("price-2", "price", &[], Some(second.address)).await;
    eventually("both instances", async || (endpoints(&mesh).await == 2).then_some(())).await;
    assert_eq!(first_proxy.stop().await, 0);
    eventually("one instance", async || (endpoints(&mesh).await == 1).then_some(())).await;
    let lost = mesh.outrigger(&["status", "-o", "json"]).await.json()["revision"].as_u64().unwrap();

    let mesh = mesh.restore_control_plane(&backup).await;
    assert_eq!(
        mesh.outrigger(&["get", "service", "demo/late"]).await.code,
        5,
        "it was written after the backup"
    );
    eventually("reconnection of both proxies", async || {
        let status = mesh.outrigger(&["status", "-o", "json"]).await.json().to_string();
        (status.matches("\"connected\":true").count() >= 2).then_some(())
    })
    .await;
    let file = mesh.path("again.yaml");
    std::fs::write(&file, service("again", "port: 80, name: http, protocol: HTTP")).unwrap();
    let file = file.to_string_lossy().into_owned();
    let applied =
        mesh.outrigger(&["apply", "--wait", "--timeout", "38s", "-f", &file, "-o", "json"]).await.json();
    assert!(applied["revision"].as_u64().unwrap() > 1_000_000, "{applied}");
    eventually("the one instance", async || (endpoints(&mesh).await == 1).then_some(())).await;
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "second");

    stop.store(true, Ordering::Relaxed);
    let answers = load.await.unwrap();
    assert!(answers.keys().all(|answer| answer == "200 first" || answer == "200 second"), "{answers:?}");
    assert!(answers.values().sum::<u64>() > 500, "{answers:?}");

    // The record goes on where the backup had it; a revision of the time that is lost is nobody's.
    mesh.outrigger(&["audit", "--verify", "--head", &head]).await.ok();
    let refused = mesh.outrigger(&["rollback", "--to", &lost.to_string()]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("restored from a backup"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_backup_is_not_restored_over_anything_nor_from_anything_else() {
    let mesh = Mesh::start().await;
    let backup = mesh.path("mesh.backup").to_string_lossy().into_owned();
    mesh.outrigger(&["backup", &backup]).await.ok();
    let state = mesh.path("control-plane").to_string_lossy().into_owned();
    let over = mesh.outrigger(&["restore", &backup, "--state-dir", &state]).await;
    assert_eq!(over.code, 1);
    assert!(over.stderr.contains("is not empty"), "{}", over.stderr);

    let fresh = mesh.path("fresh").to_string_lossy().into_owned();
    let notes = mesh.path("notes").to_string_lossy().into_owned();
    std::fs::write(&notes, "these are my notes, all of them").unwrap();
    let other = mesh.outrigger(&["restore", &notes, "--state-dir", &fresh]).await;
    assert_eq!(other.code, 1);
    assert!(other.stderr.contains("it is no backup"), "{}", other.stderr);
    let reader = mesh.path("control-plane/reader").to_string_lossy().into_owned();
    let file = mesh.path("stolen").to_string_lossy().into_owned();
    assert_eq!(mesh.outrigger(&["backup", &file, "--credential", &reader]).await.code, 6);
    assert!(!mesh.path("stolen").exists(), "what could not be had leaves no file");
}
