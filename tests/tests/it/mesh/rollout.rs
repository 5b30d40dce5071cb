//! A route pushed under load: it is in force when the command returns, and no request is lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::versions;
use crate::support::{Application, Mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_split_is_in_force_when_apply_returns_and_loses_nothing() {
    let mesh = Mesh::start().await;
    let (old, new) = (Application::start("v1").await, Application::start("v2").await);
    let _v1 = mesh.join("price-1", "price", &["version=v1"], Some(old.address)).await;
    let _v2 = mesh.join("price-2", "price", &["version=v2"], Some(new.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(&versions(1, 0)).await.ok();

    let stop = Arc::new(AtomicBool::new(false));
    let client = front.client();
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut answers: BTreeMap<String, u64> = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = client.get("http://price.demo.mesh/").await;
                let key =
                    answer.map_or_else(|error| error.to_string(), |a| format!("{} {}", a.status, a.text()));
                *answers.entry(key).or_default() += 1;
            }
            answers
        }
    });

    for _ in 0..5 {
        mesh.apply(&versions(0, 1)).await.ok();
        for _ in 0..10 {
            assert_eq!(client.get("http://price/").await.unwrap().text(), "v2");
        }
        mesh.apply(&versions(1, 0)).await.ok();
        for _ in 0..10 {
            assert_eq!(client.get("http://price/").await.unwrap().text(), "v1");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let answers = load.await.unwrap();
    assert!(answers.keys().all(|answer| answer == "200 v1" || answer == "200 v2"), "{answers:?}");
    assert!(answers.values().sum::<u64>() > 20, "{answers:?}");
}

#[tokio::test]
async fn a_split_is_as_the_weights_say() {
    let mesh = Mesh::start().await;
    let (old, new) = (Application::start("v1").await, Application::start("v2").await);
    let _v1 = mesh.join("price-1", "price", &["version=v1"], Some(old.address)).await;
    let _v2 = mesh.join("price-2", "price", &["version=v2"], Some(new.address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(&versions(90, 10)).await.ok();

    let total = 1_000_u32;
    for _ in 0..total {
        assert_eq!(front.client().get("http://price/").await.unwrap().status, 200);
    }
    let canary = f64::from(u32::try_from(new.asked().len()).unwrap());
    // Five standard deviations of a binomial of 1 000 at 0.1: a fair split fails once in a million runs.
    let (mean, deviation) = (f64::from(total) * 0.1, (f64::from(total) * 0.1 * 0.9).sqrt());
    assert!((canary - mean).abs() < 5.0 * deviation, "{canary} of {total}");
    assert_eq!(old.asked().len() + new.asked().len(), 1_000);
}
