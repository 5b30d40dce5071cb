//! The policy API from a program that is none of ours, with gRPC's own client: the one of docs/operations/api.md, as it
//! stands there.

use std::{fs, path::Path};

use crate::support::{
    Finished, Mesh,
    process::{python_itself, run},
};

/// Where the proto files are, and the page.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The page's program, made ready to run.
async fn prepare(mesh: &Mesh) {
    let directory = mesh.path("program");
    fs::create_dir(&directory).unwrap();
    let page = fs::read_to_string(repository().join("docs/operations/api.md")).unwrap();
    let program = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    fs::write(directory.join("push.py"), program).unwrap();
    let mut protoc = python_itself();
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(repository().join("proto"));
    protoc.args(["--python_out=.", "--grpc_python_out=."]);
    protoc.args(["outrigger/policy/v1alpha1/policy.proto", "outrigger/mesh/v1alpha1/types.proto"]);
    run(protoc.current_dir(&directory), b"").await.ok();
}

async fn push(mesh: &Mesh, host: &str, operator: &str) -> Finished {
    let mut program = python_itself();
    program.args(["push.py", &format!("{host}:{}", mesh.policy.port())]);
    program.arg(mesh.path(&format!("control-plane/{operator}"))).current_dir(mesh.path("program"));
    run(&mut program, b"").await
}

#[tokio::test]
async fn a_stock_client_pushes_policy_before_during_and_after_a_rotation_of_the_root() {
    let mesh = Mesh::start().await;
    prepare(&mesh).await;
    let made = push(&mesh, "localhost", "admin").await.ok();
    assert_eq!(made.stdout, "revision 2: ACTION_CREATED shop/stock\nservice shop/stock\n");
    let found = mesh.outrigger(&["get", "service", "shop/stock", "-o", "json"]).await.json();
    assert_eq!(found["spec"]["ports"][0]["port"], 80, "{found}");
    assert_eq!(found["spec"]["ports"][0]["name"], "http", "{found}");

    let refused = push(&mesh, "localhost", "reader").await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("PERMISSION_DENIED: spiffe://"), "{}", refused.stderr);

    for step in
        [&["prepare", "--root"][..], &["activate", "--root", "--force"], &["revoke", "--root", "--force"]]
    {
        mesh.outrigger(&[&["authority"], step].concat()).await.ok();
        let same = push(&mesh, "127.0.0.1", "admin").await.ok();
        assert!(same.stdout.contains(": ACTION_UNCHANGED shop/stock\n"), "{step:?}: {}", same.stdout);
    }
}
