//! The commands that read: `get`, `status`, and those that need nobody.

use outrigger_proto::{mesh::v1alpha1 as mesh, policy::v1alpha1 as policy, status::v1alpha1 as status};
use tokio::io::AsyncWriteExt as _;

use crate::fake::Fake;

fn service(name: &str) -> policy::Object {
    policy::Object {
        metadata: Some(policy::Metadata {
            namespace: "demo".to_owned(),
            name: name.to_owned(),
            revision: 3,
            ..policy::Metadata::default()
        }),
        spec: Some(policy::object::Spec::Service(policy::ServiceSpec {
            ports: vec![policy::ServicePort {
                port: 80,
                name: "http".to_owned(),
                protocol: outrigger_proto::mesh::v1alpha1::AppProtocol::Http1.into(),
                target_port: None,
            }],
            ..policy::ServiceSpec::default()
        })),
        status: None,
    }
}

#[tokio::test]
async fn get_lists_every_page() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").objects = vec![service("front"), service("price")];
    let ran = fake.run(&["get", "services"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "PORTS", "SELECTOR", "REVISION", "AGE", "CONDITIONS"]);
    assert_eq!(lines[1][..2], ["demo/front", "80/http"]);
    assert_eq!(lines[2][..2], ["demo/price", "80/http"]);
}

#[tokio::test]
async fn what_get_prints_as_yaml_apply_takes_back() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").objects = vec![service("front"), service("price")];
    let got = fake.run(&["get", "service", "-o", "yaml"]).await;
    assert_eq!(got.code, Some(0), "{got:?}");
    let applied = fake.run_with(&["apply", "-f", "-"], &got.stdout).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert_eq!(fake.script.lock().expect("the script").applied[0].items.len(), 2);
    let got = fake.run(&["get", "service", "demo/price", "-o", "json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&got.stdout).expect("JSON");
    assert_eq!(printed["metadata"]["name"], "price");
}

#[tokio::test]
async fn a_traffic_policy_is_shown_taken_back_and_deleted_like_any_other() {
    let policy = policy::Object {
        metadata: Some(policy::Metadata {
            namespace: "demo".to_owned(),
            name: "patient".to_owned(),
            revision: 3,
            ..policy::Metadata::default()
        }),
        spec: Some(policy::object::Spec::TrafficPolicy(policy::TrafficPolicySpec {
            targets: vec![
                policy::TargetRef { name: "price".to_owned(), port: 80 },
                policy::TargetRef { name: "stock".to_owned(), port: 0 },
            ],
            resilience: Some(mesh::Resilience {
                retry: Some(mesh::Retry::default()),
                limits: Some(mesh::TrafficLimits::default()),
                ..mesh::Resilience::default()
            }),
        })),
        status: None,
    };
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").objects = vec![policy];
    let ran = fake.run(&["get", "trafficpolicies"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "TARGETS", "SAYS", "REVISION", "AGE", "CONDITIONS"]);
    assert_eq!(lines[1][..3], ["demo/patient", "demo/price:80,demo/stock", "retry,limits"]);

    let got = fake.run(&["get", "TrafficPolicy", "demo/patient", "-o", "yaml"]).await;
    assert!(got.stdout.contains("kind: TrafficPolicy"), "{got:?}");
    let applied = fake.run_with(&["apply", "-f", "-"], &got.stdout).await;
    assert_eq!(applied.stdout, "TrafficPolicy demo/patient created\nrevision 7\n", "{applied:?}");
    let deleted = fake.run(&["delete", "traffic-policy", "demo/patient"]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let script = fake.script.lock().expect("the script");
    let reference = script.deleted[0].items[0].r#ref.clone().expect("a reference");
    assert_eq!((reference.kind(), reference.name.as_str()), (policy::Kind::TrafficPolicy, "patient"));
}

#[tokio::test]
async fn an_object_that_is_not_there_is_5() {
    let fake = Fake::start().await;
    let ran = fake.run(&["get", "route", "price"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), ""), "{ran:?}");
    for arguments in [&["get", "route", "price"][..], &["status", "price"]] {
        let ran = fake.run(arguments).await;
        assert_eq!(ran.code, Some(5), "{ran:?}");
        assert!(
            ran.stderr.contains("looked for in `default`: write NAMESPACE/NAME, or -n"),
            "{}",
            ran.stderr
        );
    }
    let ran = fake.run(&["get", "route", "shop/price"]).await;
    assert!(ran.code == Some(5) && !ran.stderr.contains("help:"), "{ran:?}");
}

#[tokio::test]
async fn status_shows_each_proxy_and_what_it_rejected() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").proxies = vec![status::ProxyState {
        node_id: "spiffe://outrigger.local/ns/demo/sa/front#front-1".to_owned(),
        version: "0.1.0".to_owned(),
        connected: true,
        applied_revision: 6,
        target_revision: 7,
        rejections: vec![status::Rejection {
            causes: vec![crate::fake::route("demo", "price")],
            ..status::Rejection::default()
        }],
        ..status::ProxyState::default()
    }];
    let ran = fake.run(&["status"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in
        ["revision 7: 0 of 1 proxies are current", "demo/front#front-1", "6 of 7", "(from Route demo/price)"]
    {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let ran = fake.run(&["status", "-o", "yaml"]).await;
    assert!(ran.stdout.contains("appliedRevision: 6"), "{}", ran.stdout);
}

#[tokio::test]
async fn status_names_whoever_runs_without_the_control_plane() {
    let fake = Fake::start().await;
    let node = |name: &str| format!("spiffe://outrigger.local/ns/demo/sa/front#{name}");
    let written = Some(prost_types::Timestamp { seconds: 1_767_323_045, nanos: 0 });
    fake.script.lock().expect("the script").proxies = vec![
        status::ProxyState {
            node_id: node("front-1"),
            connected: true,
            last_known_good: Some(status::LastKnownGood { revision: 6, written }),
            ..status::ProxyState::default()
        },
        status::ProxyState { node_id: node("front-2"), ..status::ProxyState::default() },
    ];
    let ran = fake.run(&["status"]).await;
    for part in [
        "0 of 2 proxies are current",
        "front-1: runs on its last known good: revision 6, written 2026-01-02T03:04:05Z",
        "front-2: is not connected, and runs on what it applied last",
    ] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let ran = fake.run(&["status", "-o", "yaml"]).await;
    assert!(ran.stdout.contains("lastKnownGood:"), "{}", ran.stdout);
}

#[tokio::test]
async fn a_port_that_answers_in_plain_is_none_of_the_control_planes() {
    let fake = Fake::start().await;
    let health = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = health.local_addr().expect("an address").to_string();
    let answering = tokio::spawn(async move {
        loop {
            let (mut socket, _) = health.accept().await.expect("a connection");
            drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await);
        }
    });
    let ran = fake.run(&["get", "service", "--server", &address]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    for part in
        ["what listens there does not speak TLS", "policy port (17100 by default)", "--server HOST:PORT"]
    {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    answering.abort();
}

#[tokio::test]
async fn a_call_that_took_too_long_is_told_how_to_give_it_longer() {
    let fake = Fake::start().await;
    // The kernel accepts, and nobody ever answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let ran = fake.run(&["get", "service", "--server", &address, "--call-timeout", "1ms"]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("help: give it longer: --call-timeout"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_credential_of_before_a_rotation_or_in_part_is_copied_anew() {
    let fake = Fake::start().await;
    let admin = fake.directory.path().join("admin");
    std::fs::rename(admin.join("tls.key"), admin.join("tls.old")).expect("gone");
    let ran = fake.run(&["get", "service"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    for part in ["/admin has no tls.key\n", "copy the credential anew"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    let other = outrigger_tls::testing::Authority::new("outrigger.local");
    let saved = outrigger_tls::credential::save(&admin, &other.operator("admin"), &other.bundle());
    saved.expect("another root's");
    let ran = fake.run(&["get", "service"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    for part in ["no authority in the credential's ca.crt vouches for", "copy the credential anew"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_damaged_root_of_the_credential_is_told_with_its_file_and_the_remedy() {
    let fake = Fake::start().await;
    let path = fake.directory.path().join("admin/ca.crt");
    let mut text = std::fs::read(&path).expect("the roots");
    // In the signature, near the end: it still parses.
    let at = text.len() - 60;
    text[at] = if text[at] == b'A' { b'B' } else { b'A' };
    std::fs::write(&path, text).expect("written");
    let ran = fake.run(&["get", "service"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    for part in ["certificate 1 in ", "ca.crt is damaged", "copy the credential anew"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_told_with_a_shells_exit_code() {
    let fake = Fake::start().await;
    let plain = fake.file("plain", "").display().to_string();
    let script = fake.file("script", "#!/no/such/interpreter\n");
    // By another process: one that is forked here meanwhile would keep it open for writing, and it could not be run.
    let mode = tokio::process::Command::new("chmod").arg("755").arg(&script).status().await.expect("chmod");
    assert!(mode.success());
    let (script, parent) = (script.display().to_string(), std::process::id().to_string());
    for (arguments, code, said) in [
        (&["run", "--", "no-such-command"][..], 127, "cannot run no-such-command: there is no such command"),
        (&["run", "--", "./no-such-command"], 127, "there is no such command"),
        (&["run", "--", "/"], 126, "cannot run /: it is a directory"),
        (&["run", "--", &plain], 126, "it is not executable; chmod +x it"),
        // As `run` starts it, once the sidecar is ready.
        (&["demo-app", "guard", "--parent", &parent, "--", &script], 126, "is its interpreter there?"),
    ] {
        let ran = fake.run(arguments).await;
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn an_object_is_named_as_kubectl_does_it_or_in_two_words() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").objects = vec![service("price")];
    for arguments in [
        &["get", "service/demo/price"][..],
        &["get", "svc/price", "-n", "demo"],
        &["get", "service", "demo/price"],
    ] {
        let ran = fake.run(arguments).await;
        assert!(ran.code == Some(0) && ran.stdout.contains("demo/price"), "{arguments:?}: {ran:?}");
    }
    for arguments in [&["delete", "service/demo/price"][..], &["delete", "service", "demo/price"]] {
        let ran = fake.run(arguments).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    }
    let ran = fake.run(&["delete", "service"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("write KIND/NAME, such as route/demo/price, or KIND NAME"), "{}", ran.stderr);
    let script = fake.script.lock().expect("the script");
    let [one, other] = &script.deleted[..] else { panic!("{:?}", script.deleted) };
    assert_eq!(one.items, other.items);
}

#[tokio::test]
async fn a_wrong_command_line_is_2_and_help_names_the_codes() {
    let fake = Fake::start().await;
    assert_eq!(fake.run(&["aply"]).await.code, Some(2));
    let ran = fake.run(&["apply", "--help"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("not every proxy applied it in time"), "{}", ran.stdout);
}

#[tokio::test]
async fn version_and_completion_need_nobody() {
    let fake = Fake::start().await;
    let ran = fake.run(&["version"]).await;
    assert_eq!(ran.stdout, format!("outrigger {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let ran = fake.run(&["completion", shell]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains("outrigger"), "{shell}");
        // The script for fish offers the values of flags only.
        assert!(shell == "fish" || ran.stdout.contains("trafficpolicy"), "{shell}");
        assert!(!ran.stdout.contains("demo-app"), "what is hidden is not offered: {shell}");
    }
}
