//! nginx as an application, as its users run it.

use std::{fs, net::SocketAddr};

use tokio::process::Command;

use super::{PRICE, clients::curl, service};
use crate::support::{
    Mesh,
    process::{Running, free_address, listening, system_program},
};

/// A running nginx that serves files; killed when dropped.
pub(super) struct Nginx {
    pub(super) address: SocketAddr,
    _running: Running,
}

impl Nginx {
    /// Starts one that listens with these further parameters (and settings, after a semicolon) and serves `files` (name
    /// and content).
    pub(super) async fn start(mesh: &Mesh, listen: &str, files: &[(&str, &[u8])]) -> Self {
        let root = mesh.path("www");
        fs::create_dir(&root).unwrap();
        for (name, content) in files {
            fs::write(root.join(name), content).unwrap();
        }
        let address = free_address();
        let directory = mesh.path("");
        let (root, directory) = (root.display(), directory.display());
        let configuration = mesh.path("nginx.conf");
        fs::write(
            &configuration,
            format!(
                "daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  sendfile on; gzip on; gzip_min_length 1; gzip_types *;
  server {{
    listen {address} {listen}; root {root};
    location = /empty {{ return 204; }}
    location = /seen {{ gzip off; return 200 \"$server_protocol $http_host $request_method $http_x_forwarded_client_cert\"; }}
  }}
}}
"
            ),
        )
        .unwrap();
        let mut command = Command::new(system_program("nginx", "nginx-light"));
        command.arg("-c").arg(&configuration);
        let mut running = Running::start(&mut command, mesh.path("nginx.log"));
        listening(&mut running, address).await;
        Self { address, _running: running }
    }
}

#[tokio::test]
async fn nginx_serves_behind_a_sidecar() {
    let mesh = Mesh::start().await;
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let nginx = Nginx::start(&mesh, "", &[("large", &content)]).await;
    let _price = mesh.join("price-1", "price", &[], Some(nginx.address)).await;
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
    let seen = front.client().get("http://price/seen").await.unwrap().text();
    assert!(seen.starts_with("HTTP/1.1 price GET ") && seen.contains("ns/demo/sa/front"), "{seen}");

    let proxy = format!("http://{}", front.outbound);
    let file = mesh.path("fetched");
    let target = file.to_string_lossy().into_owned();
    curl(&["--proxy", &proxy, "--compressed", "--output", &target, "http://price/large"]).await.ok();
    assert!(fs::read(&file).unwrap() == content, "chunked and compressed by nginx, unpacked by curl");
    curl(&["--proxy", &proxy, "--range", "10-19", "--output", &target, "http://price/large"]).await.ok();
    assert_eq!(fs::read(&file).unwrap(), content[10..20]);
}

#[tokio::test]
async fn nginx_serves_http2_to_clients_of_either_version() {
    let mesh = Mesh::start().await;
    let content: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let nginx = Nginx::start(&mesh, "http2", &[("large", &content)]).await;
    let inbound = format!("127.0.0.1:0={},name=http,protocol=http2", nginx.address);
    let _price = mesh.join_with("price-1", "price", &["--inbound", &inbound]).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(&service("price", "port: 80, name: http, protocol: HTTP2")).await.ok();

    let (proxy, leads) = (format!("http://{}", front.outbound), format!("::{}", front.outbound));
    let file = mesh.path("fetched");
    let target = file.to_string_lossy().into_owned();
    for way in [&["--proxy", &proxy][..], &["--http2-prior-knowledge", "--connect-to", &leads]] {
        let seen = curl(&[way, &["http://price.demo.mesh/seen"]].concat()).await.ok().stdout;
        assert!(seen.starts_with("HTTP/2.0 price.demo.mesh GET "), "{way:?}: {seen}");
        curl(&[way, &["--output", &target, "http://price/large"]].concat()).await.ok();
        assert!(fs::read(&file).unwrap() == content, "{way:?}: byte for byte the file");
        let head = curl(&[way, &["--head", "http://price/large"]].concat()).await.ok().stdout;
        let length = format!("content-length: {}\r\n", content.len());
        assert!(head.to_ascii_lowercase().contains(&length), "{way:?}: {head}");
        let missing =
            curl(&[way, &["--write-out", "%{http_code}", "http://price/missing"]].concat()).await.ok();
        assert!(missing.stdout.contains("nginx") && missing.stdout.ends_with("404"), "{}", missing.stdout);
    }
}

#[tokio::test]
async fn an_applications_own_tls_is_carried_as_it_is() {
    let mesh = Mesh::start().await;
    let content: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let certified = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let (certificate, key) = (mesh.path("shop.crt"), mesh.path("shop.key"));
    fs::write(&certificate, certified.cert.pem()).unwrap();
    fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let tls =
        format!("ssl; ssl_certificate {}; ssl_certificate_key {}", certificate.display(), key.display());
    let nginx = Nginx::start(&mesh, &tls, &[("large", &content)]).await;
    let inbound = format!("127.0.0.1:0={},name=https", nginx.address);
    let _shop = mesh.join_with("shop-1", "shop", &["--inbound", &inbound]).await;
    let front = mesh.join_with("front-1", "front", &["--outbound-service", "127.0.0.1:0=shop.demo"]).await;

    let (file, leads) = (mesh.path("fetched"), format!("::{}", front.services[0]));
    let (target, authority) =
        (file.to_string_lossy().into_owned(), certificate.to_string_lossy().into_owned());
    // Declared, and found out from its first bytes.
    for protocol in [", protocol: TLS", ""] {
        mesh.apply(&service("shop", &format!("port: 443, name: https{protocol}"))).await.ok();
        let own = ["--connect-to", &leads, "--cacert", &authority, "--output", &target];
        curl(&[&own[..], &["https://shop.example/large"]].concat()).await.ok();
        assert!(fs::read(&file).unwrap() == content, "byte for byte the file");
        let seen = curl(&[&own[..4], &["https://shop.example/seen"]].concat()).await.ok().stdout;
        assert_eq!(seen, "HTTP/1.1 shop.example GET ", "nobody looked into it or added to it");
    }
    let waited = front.metric("outrigger_detection_timeouts_total{direction=\"outbound\"}").await;
    assert_eq!(waited, 0.0);
}
