//! Looking back and going back: diff, history, rollback, sets.

use std::fs;

use super::{PRICE, service, versions};
use crate::support::{Application, Mesh};

async fn revision(mesh: &Mesh, documents: &str, flags: &[&str]) -> u64 {
    let file = mesh.path("documents.yaml");
    fs::write(&file, documents).unwrap();
    let path = file.to_string_lossy().into_owned();
    let apply = [&["apply", "-f", &path, "-o", "json"], flags].concat();
    mesh.outrigger(&apply).await.json()["revision"].as_u64().unwrap()
}

#[tokio::test]
async fn a_rollback_is_in_force_when_it_returns() {
    let mesh = Mesh::start().await;
    let (old, new) = (Application::start("v1").await, Application::start("v2").await);
    let _v1 = mesh.join("price-1", "price", &["version=v1"], Some(old.address)).await;
    let _v2 = mesh.join("price-2", "price", &["version=v2"], Some(new.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    let good = revision(&mesh, &versions(1, 0), &["--wait", "-m", "all to v1"]).await;
    let bad = revision(&mesh, &versions(0, 1), &["--wait", "-m", "all to v2"]).await;
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "v2");

    let (good, bad) = (good.to_string(), bad.to_string());
    let preview = mesh.outrigger(&["rollback", "route/demo/price", "--to", &good, "--dry-run"]).await.ok();
    assert!(
        preview.stdout.contains("-      weight: 0\n") || preview.stdout.contains("weight: 0"),
        "{}",
        preview.stdout
    );
    mesh.outrigger(&["rollback", "route/demo/price", "--to", &good, "--wait", "-m", "v2 is slow"]).await.ok();
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "v1");

    let history = mesh.outrigger(&["history", "route", "demo/price", "-o", "json"]).await.json();
    let said: Vec<&str> = history["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["message"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["v2 is slow", "all to v2", "all to v1"]);

    // Everything, forth and back.
    mesh.outrigger(&["rollback", "--to", &bad, "--wait"]).await.ok();
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "v2");
    mesh.outrigger(&["rollback", "--to", &good, "--wait"]).await.ok();
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "v1");
}

#[tokio::test]
async fn a_diff_tells_before_what_a_set_will_prune() {
    let mesh = Mesh::start().await;
    let both = format!("{PRICE}---{}", service("old", "port: 80, name: http, protocol: HTTP"));
    revision(&mesh, &both, &["--set", "shop"]).await;
    let file = mesh.path("price.yaml");
    fs::write(&file, PRICE).unwrap();
    let path = file.to_string_lossy().into_owned();
    let same = mesh.outrigger(&["diff", "-f", &path, "--set", "shop"]).await;
    assert_eq!((same.code, same.stdout.as_str()), (0, ""), "{}", same.stderr);
    let pruned = mesh.outrigger(&["diff", "-f", &path, "--set", "shop", "--prune"]).await;
    assert_eq!(pruned.code, 1);
    assert!(pruned.stdout.contains("--- live/Service demo/old"), "{}", pruned.stdout);
    let dry = mesh.outrigger(&["apply", "-f", &path, "--set", "shop", "--prune", "--dry-run"]).await.ok();
    assert!(dry.stdout.contains("Service demo/old deleted"), "{}", dry.stdout);
    mesh.outrigger(&["apply", "-f", &path, "--set", "shop", "--prune"]).await.ok();
    assert_eq!(mesh.outrigger(&["get", "service", "demo/old"]).await.code, 5);
    fs::write(&file, PRICE.replace("prots", "ports").replace("ports:", "prots:")).unwrap();
    assert_eq!(mesh.outrigger(&["diff", "-f", &path]).await.code, 2, "what cannot be told is more than 1");
}
