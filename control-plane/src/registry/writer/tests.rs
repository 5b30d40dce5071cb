//! The one writer of the registry, under load and in a clock of its own.

use outrigger_proto::registry::v1alpha1 as proto;
use tokio::time::{advance, pause};

use super::*;
use crate::registry::AddressRules;

fn claim(id: u16, epoch: u64) -> Claim {
    let workload = proto::Workload {
        id: format!("price-{id}"),
        epoch,
        ports: vec![proto::WorkloadPort {
            application_port: 8080,
            address: vec![10, 0, 0, 1],
            port: u32::from(17_000 + id),
            ..proto::WorkloadPort::default()
        }],
        ..proto::Workload::default()
    };
    let identity = "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap();
    Claim::new(&identity, &workload, AddressRules::default()).unwrap()
}

async fn registry(dir: &tempfile::TempDir) -> Registry {
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    Registry::start(store, Clock::system(), Limits::default()).await.unwrap()
}

async fn register(session: &Session, claim: Claim) -> Result<Answer, SessionError> {
    session.register(claim, BTreeMap::new(), "192.0.2.1:1".to_owned()).await
}

#[tokio::test]
async fn signs_of_life_that_wait_for_a_busy_writer_count() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(&dir).await;
    let (one, two, three) = (registry.session(), registry.session(), registry.session());
    for (id, session) in [(1, &one), (2, &two), (3, &three)] {
        register(session, claim(id, 1)).await.unwrap();
    }
    pause();
    // All three wait in the queue while the writer stands still, until after the leases.
    let stall = advance(Limits::default().lease + SWEEP_SLACK * 2);
    let (..) = tokio::join!(one.heartbeat(), two.heartbeat(), three.heartbeat(), stall);
    for session in [&one, &two, &three] {
        session.heartbeat().await.expect("its sign of life was in time");
    }
}

#[tokio::test]
async fn who_comes_back_as_it_was_commits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(&dir).await;
    let first = register(&registry.session(), claim(1, 1)).await.unwrap();
    let again = register(&registry.session(), claim(1, 1)).await.unwrap();
    assert_eq!(again.revision, first.revision);
    let newer = register(&registry.session(), claim(1, 2)).await.unwrap();
    assert_eq!(newer.revision, first.revision + 1);
}
