//! A mesh whose control plane is gone: what runs goes on, and what is restarted comes back by itself.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{PRICE, service};
use crate::support::{
    Application, Mesh, Proxy,
    process::{eventually, free_address},
};

/// Whether the sidecar has written down what it knows of `name`.
fn has_kept(proxy: &Proxy, name: &str) -> bool {
    let kept = fs::read(proxy.state().join("last-known-good")).unwrap_or_default();
    kept.windows(name.len()).any(|part| part == name.as_bytes())
}

async fn status(proxy: &Proxy, url: &str) -> Result<u16, String> {
    let answer = proxy.client().get(url).await;
    answer.map(|answer| answer.status).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_sidecar_restarted_without_a_control_plane_serves_at_once_in_both_directions() {
    let mut mesh = Mesh::start().await;
    let price_app = Application::start("a price").await;
    let front_app = Application::start("a front").await;
    // Its peers know it by this address, and have to find it there again.
    let inbound = format!("{}={},name=http", free_address(), price_app.address);
    let flags = ["--inbound", &inbound];
    let price = mesh.join_with("price-1", "price", &flags).await;
    let front = mesh.join("front-1", "front", &[], Some(front_app.address)).await;
    let documents = format!("{PRICE}---{}", service("front", "port: 80, name: http, protocol: HTTP"));
    mesh.apply(&documents).await.ok();
    assert_eq!(status(&front, "http://price/").await, Ok(200));
    assert_eq!(status(&price, "http://front/").await, Ok(200));
    assert_eq!(status(&price, "http://nobody/").await, Ok(503));
    eventually("what the sidecar keeps", async || {
        (has_kept(&price, "demo/front:80") && has_kept(&price, "demo/nobody")).then_some(())
    })
    .await;

    mesh.kill_control_plane().await;
    price.kill().await;
    let price = Proxy::start_with(&mesh, "price-1", None, &flags).await;
    assert_eq!(status(&front, "http://price/").await, Ok(200), "{}", price.log());
    assert_eq!(status(&price, "http://front/").await, Ok(200), "{}", price.log());
    let reason = async |name: &str, reason: &str| {
        let series =
            format!("outrigger_requests_total{{direction=\"outbound\",status=\"5xx\",reason=\"{reason}\"}}");
        let before = price.metric(&series).await;
        assert_eq!(status(&price, &format!("http://{name}/")).await, Ok(503));
        // It is counted when the last byte is out, which the client may see first.
        eventually(reason, async || (price.metric(&series).await > before).then_some(())).await;
    };
    reason("nobody", "unknown_service").await;
    reason("stranger", "control_plane_away").await;
    assert!(price.log().contains("serving from the last known good"), "{}", price.log());
    assert!(price.metric("outrigger_last_known_good_in_force").await > 0.0);

    // Nothing may shrink while the control plane's answers are on their way.
    let stop = Arc::new(AtomicBool::new(false));
    let load = [(front.client(), "http://price/"), (price.client(), "http://front/")].map(|(client, url)| {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut sent = 0;
            while sent < 100 || !stop.load(Ordering::Relaxed) {
                let answer = client.get(url).await;
                assert_eq!(answer.map(|answer| answer.status).map_err(|error| error.to_string()), Ok(200));
                sent += 1;
            }
        })
    });
    let mesh = mesh.start_control_plane().await;
    eventually("confirmation of what the sidecar runs", async || {
        (price.metric("outrigger_last_known_good_in_force").await < 1.0).then_some(())
    })
    .await;
    eventually("reconnection of both proxies", async || {
        let status = mesh.outrigger(&["status", "-o", "json"]).await.json().to_string();
        (status.matches("\"connected\":true").count() == 2).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for load in load {
        load.await.unwrap();
    }
    mesh.apply(&documents.replace("port: 80", "port: 8080")).await.ok();
    assert_eq!(status(&front, "http://price:8080/").await, Ok(200));
    assert_eq!(status(&price, "http://front:8080/").await, Ok(200));
    assert_eq!(price.stop().await, 0);
}
