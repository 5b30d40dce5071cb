//! Proxies that only call, and are not registered, across a restart of the control plane.

use outrigger_proto::{
    status::v1alpha1::{ListProxiesRequest, ProxyState},
    type_url::TRUST_BUNDLE,
};

use crate::{
    mesh::converged,
    running::ControlPlane,
    support::{Discovery, applied, apply, proxy, soon, status},
};

const PRICE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP, targetPort: 8080}]}
";
const FRONT: &str = "spiffe://outrigger.local/ns/demo/sa/front#front-1";

/// Connects, and reports everything that there is.
async fn connect(control: &ControlPlane) -> Discovery {
    let client = proxy(control, "front");
    let mut front = client.discover("front-1").await;
    front.subscribe(TRUST_BUNDLE, &["*"]).await;
    let bundle = front.accept().await;
    client.reports().await.send(applied(&[&bundle])).await.unwrap();
    front
}

async fn proxies(control: &ControlPlane) -> Vec<ProxyState> {
    status(control).list_proxies(ListProxiesRequest {}).await.unwrap().into_inner().proxies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_connected_when_the_control_plane_was_killed_is_waited_for() {
    let control = ControlPlane::start().await;
    let _front = connect(&control).await;
    control.knows(FRONT, true).await;

    let control = control.killed().await;
    let revision = apply(&control, PRICE).await;
    let state = converged(&control, revision, 200).await;
    assert_eq!((state.converged, state.targeted, state.current), (false, 1, 0));
    assert_eq!((state.behind[0].node_id.as_str(), state.behind[0].connected), (FRONT, false));
    let seen = proxies(&control).await;
    assert_eq!((seen.len(), seen[0].node_id.as_str(), seen[0].connected), (1, FRONT, false));

    // A second one, before anybody came back, remembers no less.
    let control = control.killed().await;
    let wait = converged(&control, revision, 20_000);
    let (state, _front) = soon(Box::pin(async { tokio::join!(wait, connect(&control)) })).await;
    assert_eq!((state.converged, state.targeted), (true, 1));
    assert!(proxies(&control).await[0].connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_remembers_who_was_connected_and_not_who_had_said_good_bye() {
    let control = ControlPlane::start().await;
    let _front = connect(&control).await;
    control.knows(FRONT, true).await;
    let control = control.restart(async |_| ()).await;
    assert_eq!(converged(&control, 0, 200).await.behind[0].node_id, FRONT);

    let front = connect(&control).await;
    front.good_bye().await;
    control.knows(FRONT, false).await;
    let control = control.killed().await;
    let state = converged(&control, 0, 10_000).await;
    assert_eq!((state.converged, state.targeted), (true, 0));
}
