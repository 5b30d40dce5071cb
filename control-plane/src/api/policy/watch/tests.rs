//! How a watch begins and ends, without a server around it.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use futures_util::StreamExt;
use outrigger_core::policy;
use prometheus_client::registry::Registry;
use tokio::{sync::Semaphore, time::advance};

use super::*;
use crate::{
    access::{Grant, Role},
    api::refusals::Refusals,
    audit::Draft,
    clock::Clock,
    store::objects::{Change, ObjectStore},
};

struct Bench {
    parts: Parts,
    /// How often the proxies were asked.
    asked: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.redb")).unwrap();
        let clock = Clock::from_fn(|| SystemTime::UNIX_EPOCH);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let parts = Parts {
            objects: ObjectStore::load(store.clone()).await.unwrap(),
            refusals: Refusals::new(store.clone(), clock.clone(), &mut Registry::default()),
            store,
            progress: Arc::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
                Applied::default()
            }),
            clock,
            stop: CancellationToken::new(),
        };
        Self { parts, asked, _directory: directory }
    }

    async fn put(&self, name: &str) -> Revision {
        let document = format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
             spec: {{ports: [{{port: 80, protocol: HTTP}}]}}\n"
        );
        let object = policy::parse(&document).unwrap().remove(0).object;
        let draft = Draft::own(SystemTime::UNIX_EPOCH, "ann", "test.Write", "");
        let edit = self.parts.objects.edit().await;
        edit.commit(vec![Change::Put(Box::new(object))], draft, None).await.unwrap()
    }

    fn watch(&self, from: Revision) -> impl Stream<Item = Result<proto::WatchEvent, Status>> + use<> {
        let id = "spiffe://outrigger.local/outrigger/operator/ann".parse().unwrap();
        let caller = Caller::Operator { id, grant: Some(Grant::mesh(Role::Reader)) };
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Watch::new(&self.parts, caller, Wanted::new(&[], "").unwrap(), from, permit).into_stream()
    }
}

/// `+name`, or the revision of a bookmark.
fn said(event: Option<Result<proto::WatchEvent, Status>>) -> String {
    let event = event.unwrap().unwrap();
    match event.event.unwrap() {
        Event::Put(object) => format!("+{}", object.metadata.unwrap().name),
        Event::Deleted(reference) => format!("-{}", reference.name),
        Event::Bookmark(_) => event.revision.to_string(),
    }
}

#[tokio::test]
async fn the_proxies_are_asked_once_for_all_that_there_is_at_the_beginning() {
    let bench = Bench::new().await;
    for name in ["a", "b", "c"] {
        bench.put(name).await;
    }
    let mut watch = pin!(bench.watch(0));
    for expected in ["+a", "+b", "+c", "3"] {
        assert_eq!(said(watch.next().await), expected);
    }
    assert_eq!(bench.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_after_its_hour_although_there_is_always_something_new() {
    let bench = Bench::new().await;
    bench.put("a").await;
    let mut watch = pin!(bench.watch(0));
    assert_eq!(said(watch.next().await), "+a");
    assert_eq!(said(watch.next().await), "1");
    bench.put("b").await;
    advance(LIFE).await;
    assert_eq!(said(watch.next().await), "1", "where to go on");
    assert!(watch.next().await.is_none());
    let mut next = pin!(bench.watch(1));
    assert_eq!(said(next.next().await), "+b");
}
