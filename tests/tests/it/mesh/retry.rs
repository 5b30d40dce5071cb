//! A TrafficPolicy, from the operator's document to what a client sees.

use std::sync::atomic::{AtomicU32, Ordering};

use http::Response;
use http_body_util::Full;
use hyper::Request;

use super::PRICE;
use crate::support::{Application, Mesh, application::body};

const POLICY: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: price, namespace: demo}
spec:
  targetRefs: [{name: price}]
  retry: {attempts: 2, statuses: [503]}
";

/// Answers 503 to every first request of two.
async fn moody() -> Application {
    let asked = AtomicU32::new(0);
    Application::answering(move |_| {
        if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Response::builder().status(503).body(body("not now")).unwrap();
        }
        Response::new(body("a price"))
    })
    .await
}

#[tokio::test]
async fn a_client_does_not_see_the_failure_that_a_policy_retries() {
    let mesh = Mesh::start().await;
    let app = moody().await;
    let _price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let get = async || {
        let answer = front.client().get("http://price/").await.unwrap();
        (answer.status, answer.text())
    };
    assert_eq!(get().await, (503, "not now".to_owned()), "statuses are not retried by default");
    assert_eq!(get().await, (200, "a price".to_owned()));
    assert_eq!(front.metric("outrigger_retries_total").await, 0.0);

    mesh.apply(POLICY).await.ok();
    for retried in [1.0, 2.0, 3.0] {
        assert_eq!(get().await, (200, "a price".to_owned()));
        assert_eq!(front.metric("outrigger_retries_total").await, retried);
    }
    assert_eq!(app.asked().len(), 2 + 3 * 2);

    let post = Request::post("http://price/").body(Full::from("once")).unwrap();
    let answer = front.client().send(post).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (503, "not now"), "a POST may have been acted on");

    mesh.outrigger(&["delete", "trafficpolicy", "price", "-n", "demo", "--wait"]).await.ok();
    assert_eq!(get().await.0, 200);
    assert_eq!(get().await, (503, "not now".to_owned()), "without the policy it is as before");
    assert_eq!(front.metric("outrigger_retries_total").await, 3.0);
}
