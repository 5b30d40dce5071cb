//! The commands that write: `apply`, `delete`, `token`.

use std::os::unix::fs::PermissionsExt;

use outrigger_proto::{policy::v1alpha1 as policy, status::v1alpha1 as status, type_url};

use crate::fake::{Fake, SERVICE, refusal, route, run};

const ROUTE: &str = "\
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata:
  name: price
  namespace: demo
spec:
  parentRefs:
    - name: price
  rules:
    - backendRefs:
        - name: price
          port: 80
";

#[tokio::test]
async fn apply_sends_all_documents_in_one_call_and_tells_each() {
    let fake = Fake::start().await;
    let file = fake.file("mesh.yaml", &format!("{SERVICE}---\n{ROUTE}"));
    let ran = fake.run(&["apply", "-f", &file.display().to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "Service demo/price created\nRoute demo/price created\nrevision 7\n");
    let script = fake.script.lock().expect("the script");
    let [request] = &script.applied[..] else { panic!("one call, not {:?}", script.applied) };
    let sources: Vec<&str> = request.items.iter().map(|item| item.source.as_str()).collect();
    assert_eq!(sources.len(), 2);
    assert!(sources[1].ends_with("mesh.yaml:10: document 2"), "{sources:?}");
}

#[tokio::test]
async fn apply_reads_standard_input_and_prints_json_for_programs() {
    let fake = Fake::start().await;
    let ran = fake.run_with(&["apply", "-f", "-", "--dry-run", "-o", "json"], ROUTE).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let printed: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(printed["results"][0]["object"], "Route demo/price");
    assert_eq!(printed["dryRun"], true);
    assert!(fake.script.lock().expect("the script").applied[0].dry_run);
}

#[tokio::test]
async fn a_defect_in_a_file_is_told_with_its_place_and_nothing_is_sent() {
    let fake = Fake::start().await;
    let file = fake.file("mesh.yaml", &format!("{SERVICE}---\n{}", ROUTE.replace("rules", "ruels")));
    let ran = fake.run(&["apply", "-f", &file.display().to_string()]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("mesh.yaml:"), "{}", ran.stderr);
    assert!(ran.stderr.contains("document 2") && ran.stderr.contains("ruels"), "{}", ran.stderr);
    assert!(fake.script.lock().expect("the script").applied.is_empty());
}

#[tokio::test]
async fn a_refusal_is_told_with_the_place_where_the_object_was_written() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").apply = Some(refusal(policy::Diagnostic {
        severity: policy::diagnostic::Severity::Error.into(),
        r#ref: Some(route("demo", "price")),
        field: "spec.rules[0].backendRefs[0].name".to_owned(),
        code: "dangling_reference".to_owned(),
        message: "there is no Service demo/price".to_owned(),
        remedy: "apply the Service with it".to_owned(),
    }));
    let file = fake.file("mesh.yaml", &format!("{SERVICE}---\n{ROUTE}"));
    let ran = fake.run(&["apply", "-f", &file.display().to_string()]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let expected = "mesh.yaml:10: document 2: Route demo/price: spec.rules[0].backendRefs[0].name: there is no Service \
                    demo/price [dangling_reference]\n    apply the Service with it";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
}

#[tokio::test]
async fn apply_wait_tells_how_the_revision_spread() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").convergence = status::Convergence {
        revision: 7,
        targeted: 3,
        current: 3,
        done: true,
        converged: true,
        behind: Vec::new(),
        elapsed: Some(prost_types::Duration { seconds: 0, nanos: 12_000_000 }),
    };
    let ran = fake.run_with(&["apply", "-f", "-", "--wait"], ROUTE).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.ends_with("revision 7: applied by 3 proxies in 12.0ms\n"), "{}", ran.stdout);
}

#[tokio::test]
async fn apply_wait_names_the_proxy_that_is_behind_and_why() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").convergence = status::Convergence {
        revision: 7,
        targeted: 3,
        current: 2,
        done: true,
        converged: false,
        behind: vec![status::ProxyState {
            node_id: "spiffe://outrigger.local/ns/demo/sa/front#front-1".to_owned(),
            connected: true,
            applied_revision: 6,
            target_revision: 7,
            pending: vec![status::PendingName {
                type_url: type_url::SERVICE.to_owned(),
                name: "demo/price".to_owned(),
                cause: "waiting for EndpointSet demo/price:80".to_owned(),
            }],
            ..status::ProxyState::default()
        }],
        elapsed: None,
    };
    let ran = fake.run_with(&["apply", "-f", "-", "--wait", "--timeout", "1s"], ROUTE).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stdout.contains("Route demo/price created"), "what was stored is told: {}", ran.stdout);
    for part in ["demo/front#front-1: applied 6 of 7", "waiting for EndpointSet demo/price:80"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn delete_takes_names_and_documents() {
    let fake = Fake::start().await;
    let ran = fake.run(&["delete", "route", "price", "-n", "demo"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Route demo/price deleted\nrevision 7\n"));
    let ran = fake.run_with(&["delete", "-f", "-"], ROUTE).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for request in &fake.script.lock().expect("the script").deleted {
        assert_eq!(request.items[0].r#ref, Some(route("demo", "price")));
    }
}

#[tokio::test]
async fn a_token_is_all_that_is_on_standard_output() {
    let fake = Fake::start().await;
    let arguments =
        ["token", "create", "--namespace", "demo", "--service-account", "price", "--label", "version=v1"];
    let ran = fake.run(&arguments).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "otr1.id.secret.hash\n"));
    let script = fake.script.lock().expect("the script");
    assert_eq!(script.tokens[0].labels["version"], "v1");
    assert_eq!(script.tokens[0].ttl.map(|ttl| ttl.seconds), Some(600));
}

#[tokio::test]
async fn a_token_in_a_file_is_its_owners_alone_and_is_never_overwritten() {
    let fake = Fake::start().await;
    let file = fake.directory.path().join("token");
    let path = file.display().to_string();
    let arguments = ["token", "create", "--service-account", "price", "--output", &path];
    let ran = fake.run(&arguments).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&file).expect("the token"), "otr1.id.secret.hash\n");
    let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ran = fake.run(&arguments).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("exists already; name another file"), "{}", ran.stderr);
    let nowhere = fake.directory.path().join("no/such/directory").display().to_string();
    let ran = fake.run(&["token", "create", "--service-account", "price", "--output", &nowhere]).await;
    assert!(ran.code == Some(1) && ran.stderr.contains(&nowhere), "{ran:?}");
    assert_eq!(fake.script.lock().expect("the script").tokens.len(), 1, "no second token was made");
}

#[tokio::test]
async fn without_a_control_plane_the_code_is_3_and_the_address_is_named() {
    let fake = Fake::start().await;
    let admin = fake.directory.path().join("admin");
    // Port 1 is nobody's.
    let ran = run(&["status"], "127.0.0.1:1", &admin, "").await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("127.0.0.1:1: Connection refused"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--server"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_control_plane_of_another_mesh_is_not_believed() {
    let (ours, other) = (Fake::start().await, Fake::start().await);
    let credential = other.directory.path().join("admin");
    let ran = ours.run(&["status", "--credential", &credential.display().to_string()]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stderr.contains("no authority in the credential's ca.crt vouches for"), "{}", ran.stderr);
}

#[tokio::test]
async fn without_a_credential_the_code_is_6() {
    let fake = Fake::start().await;
    let ran = fake.run(&["status", "--credential", "/nonexistent"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(
        ran.stderr.contains("/nonexistent") && ran.stderr.contains("OUTRIGGER_CREDENTIAL"),
        "{}",
        ran.stderr
    );
}
