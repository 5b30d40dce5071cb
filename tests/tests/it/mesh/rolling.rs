//! Instances that go and come back under load: sidecar and application are told to stop at the same moment, and nothing is lost.

use std::{ffi::OsString, time::Duration};

use super::PRICE;
use crate::support::{
    Mesh,
    load::{Books, Load},
    pod::{Ending, Pod},
    process::eventually,
};

/// Restarts `restarts` times one of three instances after the other at `rate` requests per second.
async fn roll(rate: u32, restarts: usize) -> (Books, f64) {
    let mesh = Mesh::start().await;
    mesh.apply(PRICE).await.ok();
    let mut pods = Vec::new();
    for (number, ending) in [Ending::AtOnce, Ending::WhenIdle, Ending::AtOnce].into_iter().enumerate() {
        pods.push(Pod::start(&mesh, &format!("price-{number}"), ending).await);
    }
    let front = mesh.join("front-1", "front", &[], None).await;
    let client = front.client();
    eventually("answer", async || (client.get("http://price/0").await.ok()?.status == 200).then_some(()))
        .await;

    let load = Load::start(front.outbound, rate);
    for number in 0..restarts {
        // The oldest one goes; the next one only when it is asked again.
        let pod = Box::pin(pods.remove(0).restart(&mesh)).await;
        let before = pod.asked().len();
        eventually(&format!("request to the instance of restart {number}"), async || {
            (pod.asked().len() > before).then_some(())
        })
        .await;
        pods.push(pod);
    }
    let books = load.finish(Duration::ZERO).await;
    assert!(books.failed().is_empty(), "{:?}\n{}", books.failed(), front.log());
    let asked: Vec<_> = pods.iter().flat_map(Pod::asked).collect();
    books.agree_with(&asked);
    let retries = front.metric("outrigger_retries_total").await;
    (books, retries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_restart_one_after_the_other_and_nothing_is_lost() {
    Box::pin(roll(100, 3)).await;
}

/// A number of the environment, for a run that is asked for by hand.
fn asked_for(name: &str, otherwise: u32) -> u32 {
    let text = std::env::var_os(name).map(OsString::into_string);
    text.map_or(otherwise, |text| text.unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and a release build: `make soak`"]
async fn soak_of_rolling_restarts() {
    let (rate, restarts) = (asked_for("SOAK_RATE", 2_000), asked_for("SOAK_RESTARTS", 100));
    let (books, retries) = Box::pin(roll(rate, usize::try_from(restarts).unwrap())).await;
    println!(
        "{restarts} restarts in {:.0?} at {rate} requests/s: {} requests, 0 failed, 0 missing, no POST twice, {retries} \
         sent again since nobody had processed them",
        books.length,
        books.sent.len()
    );
}

const RETRY: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: price, namespace: demo}
spec:
  targetRefs: [{name: price}]
  retry: {}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_killed_loses_at_most_the_posts_that_it_had_read() {
    let mesh = Mesh::start().await;
    mesh.apply(PRICE).await.ok();
    // Only for methods that may be repeated: a POST has no more than without it.
    mesh.apply(RETRY).await.ok();
    let first = Pod::start(&mesh, "price-0", Ending::AtOnce).await;
    let second = Pod::start(&mesh, "price-1", Ending::AtOnce).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    let load = Load::start(front.outbound, 200);
    eventually("load on both", async || {
        (first.asked().len() > 200 && second.asked().len() > 200).then_some(())
    })
    .await;
    let (_sidecar, read) = first.kill_application().await;
    let before = second.asked().len();
    eventually("load on the one that is left", async || {
        (second.asked().len() > before + 1_000).then_some(())
    })
    .await;
    let books = load.finish(Duration::from_secs(5)).await;
    let failed = books.failed();
    assert!(failed.iter().all(|sent| sent.post), "{failed:?}");
    // What it has read, it has logged.
    let unread: Vec<_> = failed.iter().filter(|sent| !read.iter().any(|read| read.id == sent.id)).collect();
    assert!(unread.is_empty(), "nobody had seen them: {unread:?}\n{}", front.log());
    let all: Vec<_> = read.into_iter().chain(second.asked()).collect();
    books.agree_with(&all);
}
