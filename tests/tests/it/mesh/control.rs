//! The control plane from outside: what it refuses, what it proves, what survives it.

use std::fs;

use super::PRICE;
use crate::support::{Application, Mesh, Proxy, process::eventually};

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_place_and_nothing_is_stored() {
    let mesh = Mesh::start().await;
    let documents = format!(
        "{PRICE}---
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {{name: price, namespace: demo}}
spec:
  parentRefs: [{{name: price}}]
  rules:
  - backendRefs: [{{name: nobody, port: 80}}]
"
    );
    let refused = mesh.apply(&documents).await;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("spec.rules[0].backendRefs[0]"), "{}", refused.stderr);
    let stored = mesh.outrigger(&["get", "service", "-o", "json"]).await;
    assert!(!stored.stdout.contains("price"), "all or nothing: {}", stored.stdout);

    let misspelt = mesh.apply(&PRICE.replace("ports:", "prots:")).await;
    assert_eq!(misspelt.code, 1);
    assert!(misspelt.stderr.contains("prots") && misspelt.stderr.contains("ports"), "{}", misspelt.stderr);
    let unsupported =
        mesh.apply("apiVersion: outrigger.dev/v1alpha1\nkind: Fault\nmetadata: {name: x}\nspec: {}\n").await;
    assert_eq!(unsupported.code, 1);
    assert!(unsupported.stderr.contains("not supported by this version"), "{}", unsupported.stderr);
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_a_get_is_an_apply() {
    let mesh = Mesh::start().await;
    let file = mesh.path("price.yaml");
    fs::write(&file, PRICE).unwrap();
    let path = file.to_string_lossy().into_owned();
    mesh.outrigger(&["apply", "--dry-run", "-f", &path]).await.ok();
    assert!(!mesh.outrigger(&["get", "service", "-o", "json"]).await.ok().stdout.contains("price"));

    mesh.outrigger(&["apply", "-f", &path]).await.ok();
    let yaml = mesh.outrigger(&["get", "service", "price", "-n", "demo", "-o", "yaml"]).await.ok().stdout;
    let again = mesh.path("again.yaml");
    fs::write(&again, &yaml).unwrap();
    let unchanged = mesh.outrigger(&["apply", "-f", &again.to_string_lossy()]).await.ok();
    assert!(unchanged.stdout.contains("unchanged"), "{}", unchanged.stdout);

    // Somebody else changes it; what was read before must not overwrite that.
    mesh.apply(&PRICE.replace("port: 80", "port: 8080")).await.ok();
    fs::write(&again, yaml.replace("port: 80", "port: 8081")).unwrap();
    let stale = mesh.outrigger(&["apply", "-f", &again.to_string_lossy()]).await;
    assert_eq!(stale.code, 1, "{}", stale.stdout);
    assert!(stale.stderr.contains("metadata.revision"), "{}", stale.stderr);
    mesh.outrigger(&["delete", "service", "price", "-n", "demo"]).await.ok();
    assert_eq!(mesh.outrigger(&["get", "service", "price", "-n", "demo"]).await.code, 5);
}

#[tokio::test]
async fn traffic_goes_on_without_a_control_plane_and_a_new_one_knows_everybody() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let _price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    assert_eq!(front.client().get("http://price/").await.unwrap().status, 200);

    let client = front.client();
    let load = tokio::spawn(async move {
        for _ in 0..500 {
            let answer = client.get("http://price/").await;
            assert_eq!(answer.map(|answer| answer.status).map_err(|error| error.to_string()), Ok(200));
        }
    });
    let mesh = mesh.restart_control_plane().await;
    load.await.unwrap();

    eventually("reconnection of both proxies", async || {
        let status = mesh.outrigger(&["status", "-o", "json"]).await.json().to_string();
        (status.matches("\"connected\":true").count() >= 2).then_some(())
    })
    .await;
    let changed = PRICE.replace("port: 80", "port: 8080");
    mesh.apply(&changed).await.ok();
    assert_eq!(front.client().get("http://price:8080/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_restarted_sidecar_comes_back_without_a_token() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let kept = price.state().to_owned();
    price.kill().await;
    assert!(kept.is_dir());

    let price = Proxy::start(&mesh, "price-1", None, Some(app.address)).await;
    eventually("an answer of the restarted instance", async || {
        let answer = front.client().get("http://price/").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(price.stop().await, 0);
}

#[tokio::test]
async fn a_token_joins_one_key_only() {
    let mesh = Mesh::start().await;
    let token = mesh.path("front.token");
    let path = token.to_string_lossy().into_owned();
    mesh.outrigger(&[
        "token",
        "create",
        "--namespace",
        "demo",
        "--service-account",
        "front",
        "--output",
        &path,
    ])
    .await
    .ok();
    let _first = Proxy::start(&mesh, "front-1", Some(&token), None).await;

    let second = tokio::process::Command::new(crate::support::program("outrigger-proxy"))
        .args(["--instance", "front-2", "--control-plane", &mesh.discovery.to_string()])
        .args(["--outbound-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(mesh.path("front-2"))
        .arg("--join-token-file")
        .arg(&token)
        .kill_on_drop(true)
        .output();
    let second =
        tokio::time::timeout(std::time::Duration::from_secs(20), second).await.expect("it gives up").unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("token"), "{said}");
    assert!(mesh.control_plane_log().contains("token"), "the alarm is in the log");
}
