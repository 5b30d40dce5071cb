//! Stock HTTP clients that a user has: curl and h2load.

use std::{fs, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::process::Command;

use super::{PRICE, nginx::Nginx};
use crate::support::{
    Application, Finished, Mesh,
    process::{run, system_program},
};

/// Runs curl with these arguments.
pub(super) async fn curl(arguments: &[&str]) -> Finished {
    let mut command = Command::new(system_program("curl", "curl"));
    command.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments).env_clear();
    run(&mut command, b"").await
}

/// Flags for an application that speaks HTTP/1.1, whatever its callers do.
fn http1(app: SocketAddr) -> [String; 2] {
    ["--inbound".to_owned(), format!("127.0.0.1:0={app},name=http,protocol=http1")]
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
async fn curl_speaks_http2_to_the_port_of_the_forward_proxy() {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let _price = mesh.join_with("price-1", "price", &http1(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let leads = format!("::{}", front.outbound);
    let http2 =
        ["--http2-prior-knowledge", "--connect-to", &leads, "--write-out", " %{http_version} %{http_code}"];

    let answer = curl(&[&http2[..], &["http://price.demo.mesh/second?version"]].concat()).await.ok();
    assert_eq!(answer.stdout, "a price 2 200");
    let unknown = curl(&[&http2[..], &["http://nobody.demo.mesh/"]].concat()).await.ok();
    assert!(
        unknown.stdout.contains("unknown_service") && unknown.stdout.ends_with(" 2 503"),
        "{}",
        unknown.stdout
    );

    let asked = app.asked();
    let paths: Vec<_> = asked.iter().map(|asked| asked.uri().to_string()).collect();
    assert_eq!(paths, ["/second?version"]);
    assert_eq!(
        asked[0].headers()["host"],
        "price.demo.mesh",
        "the authority, for an application of HTTP/1.1"
    );
}

#[tokio::test]
async fn what_curl_uploads_arrives_byte_for_byte() {
    let mesh = Mesh::start().await;
    let app = Application::start("taken").await;
    let _price = mesh.join_with("price-1", "price", &http1(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let content: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = mesh.path("content");
    fs::write(&file, &content).unwrap();
    let (name, proxy) = (file.to_string_lossy().into_owned(), format!("http://{}", front.outbound));
    let (data, leads) = (format!("@{name}"), format!("::{}", front.outbound));

    // Known length with and without `Expect`, chunked, and both kinds of HTTP/2.
    for arguments in [
        &["--proxy", &proxy, "--data-binary", &data][..],
        &["--proxy", &proxy, "--data-binary", &data, "--header", "Expect:"],
        &["--proxy", &proxy, "--upload-file", &name, "--header", "Transfer-Encoding: chunked"],
        &["--http2-prior-knowledge", "--connect-to", &leads, "--data-binary", &data],
        &[
            "--http2-prior-knowledge",
            "--connect-to",
            &leads,
            "--upload-file",
            &name,
            "--header",
            "content-length:",
        ],
    ] {
        let answer = curl(&[arguments, &["http://price/upload"]].concat()).await.ok();
        assert_eq!(answer.stdout, "taken", "{arguments:?}");
        let asked = app.asked().pop().unwrap();
        assert!(asked.body() == &content, "{arguments:?}: {} bytes arrived", asked.body().len());
    }
}

#[tokio::test]
async fn curl_is_given_the_trailers_of_an_answer() {
    let mesh = Mesh::start().await;
    let app = Application::answering(|_| {
        let (name, value) = (HeaderName::from_static("x-sum"), HeaderValue::from_static("a3f5"));
        let frames = [
            Frame::data(Bytes::from_static(b"summed ")),
            Frame::data(Bytes::from_static(b"up")),
            Frame::trailers(HeaderMap::from_iter([(name, value)])),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed();
        Response::builder().header("trailer", "x-sum").body(body).unwrap()
    })
    .await;
    let _price = mesh.join_with("price-1", "price", &http1(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let (proxy, leads) = (format!("http://{}", front.outbound), format!("::{}", front.outbound));
    for way in [
        &["--proxy", &proxy][..],
        &["--proxy", &proxy, "--proxytunnel", "--suppress-connect-headers"],
        &["--http2-prior-knowledge", "--connect-to", &leads],
    ] {
        let wants = ["--include", "--header", "TE: trailers", "http://price.demo.mesh/"];
        let answer = curl(&[way, &wants].concat()).await.ok();
        let (head, rest) = answer.stdout.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("x-sum: "), "{way:?}: {head}");
        assert_eq!(rest, "summed upx-sum: a3f5\r\n", "{way:?}");
    }
}

#[tokio::test]
async fn h2load_gets_every_answer_of_four_connections_with_many_streams() {
    let mesh = Mesh::start().await;
    let content = "priced".repeat(1_000);
    let nginx = Nginx::start(&mesh, "", &[("price", content.as_bytes())]).await;
    let _price = mesh.join_with("price-1", "price", &http1(nginx.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let leads = format!("--connect-to={}", front.outbound);
    let mut command = Command::new(system_program("h2load", "nghttp2-client"));
    command.args(["--requests=1000", "--clients=4", "--max-concurrent-streams=25", &leads]);
    let report = run(command.arg("http://price.demo.mesh/price").env_clear(), b"").await.ok().stdout;
    assert!(report.contains("Application protocol: h2c"), "{report}");
    let requests =
        "requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(report.contains(requests) && report.contains("status codes: 1000 2xx"), "{report}");
    let carried = format!("({}) data", 1_000 * content.len());
    assert!(report.contains(&carried), "{carried}: {report}");
}
