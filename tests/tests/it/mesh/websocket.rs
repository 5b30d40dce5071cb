//! WebSockets of a stock library, by every way into the mesh.

use std::{fs, net::SocketAddr};

use serde_json::json;

use super::service;
use crate::support::{
    Mesh,
    process::{Running, eventually, python, run},
};

/// A running server; killed when dropped.
async fn server(mesh: &Mesh) -> (SocketAddr, Running) {
    let port = mesh.path("server.port");
    let running = Running::start(python("websocket_server.py").arg(&port), mesh.path("websocket-server.log"));
    let port = eventually("port of the server", async || fs::read_to_string(&port).ok()).await;
    (format!("127.0.0.1:{port}").parse().unwrap(), running)
}

#[tokio::test]
async fn websockets_cross_the_mesh_by_every_way_into_it() {
    let mesh = Mesh::start().await;
    let (address, server) = server(&mesh).await;
    let _chat = mesh.join("chat-1", "chat", &[], Some(address)).await;
    let front = mesh.join_with("front-1", "front", &["--outbound-service", "127.0.0.1:0=chat.demo"]).await;
    mesh.apply(&service("chat", "port: 80, name: http, protocol: HTTP")).await.ok();

    let proxy = front.outbound.to_string();
    let listener = front.services[0].to_string();
    for (count, (address, way, authority)) in [
        (&proxy, "connect", "chat.demo.mesh"),
        (&proxy, "absolute", "chat.demo.mesh"),
        (&proxy, "direct", "chat.demo.mesh"),
        (&listener, "direct", listener.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        let said = run(python("websocket_client.py").args([address, way, authority]), b"").await.json();
        let exchange = &said["exchange"];
        let peer = exchange["heard"][4].as_str().unwrap();
        assert!(peer.contains("spiffe://outrigger.local/ns/demo/sa/front"), "{way}: {peer}");
        assert_eq!(exchange["heard"], json!(["text: ü", "", "00ff", "pong", peer]), "{way}");
        assert_eq!(exchange["large"], true, "{way}");
        let fragments: String = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(exchange["fragments"], fragments, "{way}");
        assert_eq!(exchange["ponged"], true, "{way}");
        assert_eq!(said["closed"], json!({"code": 4001, "reason": "why"}), "{way}");
        assert_eq!(said["refused"], json!({"status": 403, "body": "not for you\n"}), "{way}");
        for line in ["/chat closed 4002 enough", "/closed closed 4001 why"] {
            eventually(line, async || {
                (server.log().lines().filter(|said| *said == line).count() == count + 1).then_some(())
            })
            .await;
        }
    }
}
