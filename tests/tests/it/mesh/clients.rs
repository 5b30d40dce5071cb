//! Stock programs that a user has: curl as a client, nginx as an application.

use std::{fs, process::Stdio};

use tokio::process::Command;

use super::PRICE;
use crate::support::{
    Application, Client, Finished, Mesh,
    process::{eventually, system_program},
};

async fn curl(arguments: &[&str]) -> Finished {
    let output = Command::new(system_program("curl", "curl"))
        .args(["--silent", "--show-error", "--max-time", "10"])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output();
    output.await.unwrap().into()
}

#[tokio::test]
async fn curl_reaches_the_mesh_as_through_any_forward_proxy() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let _price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let proxy = format!("http://{}", front.outbound);
    let host_routed = format!("{proxy}/by-host");

    for arguments in [
        &["--proxy", &proxy, "http://price.demo.mesh/absolute"][..],
        &["--proxy", &proxy, "--proxytunnel", "http://price.demo.mesh/tunnelled"],
        &["--proxy", &proxy, "--proxytunnel", "http://price/first", "http://price/second"],
        &["--header", "Host: price.demo.mesh", &host_routed],
        &["--proxy", &proxy, "--data", "x=1", "http://price/posted"],
        &["--proxy", &proxy, "--http1.0", "http://price/old"],
    ] {
        let answer = curl(arguments).await.ok();
        assert!(answer.stdout.starts_with("a price"), "{arguments:?}: {}", answer.stdout);
    }
    let paths: Vec<_> = app.asked().iter().map(|asked| asked.uri().path().to_owned()).collect();
    assert_eq!(paths, ["/absolute", "/tunnelled", "/first", "/second", "/by-host", "/posted", "/old"]);

    let head = curl(&["--proxy", &proxy, "--head", "http://price/"]).await.ok();
    assert!(head.stdout.starts_with("HTTP/1.1 200"), "{}", head.stdout);
    let outside = curl(&["--proxy", &proxy, "https://example.com/"]).await;
    assert_ne!(outside.code, 0, "the mesh allows no traffic outside by default");
}

#[tokio::test]
async fn nginx_serves_behind_a_sidecar() {
    let mesh = Mesh::start().await;
    let root = mesh.path("www");
    fs::create_dir(&root).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(root.join("large"), &content).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let configuration = mesh.path("nginx.conf");
    let directory = mesh.path("");
    let directory = directory.display();
    fs::write(
        &configuration,
        format!(
            "daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  gzip on; gzip_min_length 1; gzip_types *;
  server {{ listen 127.0.0.1:{port}; root {}; location = /empty {{ return 204; }} }}
}}
",
            root.display()
        ),
    )
    .unwrap();
    let _nginx = Command::new(system_program("nginx", "nginx-light"))
        .arg("-c")
        .arg(&configuration)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let app = format!("127.0.0.1:{port}").parse().unwrap();
    eventually("answer of nginx", async || Client::direct().get(&format!("http://{app}/empty")).await.ok())
        .await;
    let _price = mesh.join("price-1", "price", &[], Some(app)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();

    let large = front.client().get("http://price/large").await.unwrap();
    assert_eq!((large.status, large.body.len()), (200, content.len()));
    assert!(large.body == content, "the body is byte for byte the file");
    let empty = front.client().get("http://price/empty").await.unwrap();
    assert_eq!((empty.status, empty.body.len()), (204, 0));
    let missing = front.client().get("http://price/missing").await.unwrap();
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("nginx"), "the application's own answer");

    let proxy = format!("http://{}", front.outbound);
    let file = mesh.path("fetched");
    let target = file.to_string_lossy().into_owned();
    curl(&["--proxy", &proxy, "--compressed", "--output", &target, "http://price/large"]).await.ok();
    assert!(fs::read(&file).unwrap() == content, "chunked and compressed by nginx, unpacked by curl");
    curl(&["--proxy", &proxy, "--range", "10-19", "--output", &target, "http://price/large"]).await.ok();
    assert_eq!(fs::read(&file).unwrap(), content[10..20]);
}
