//! The history against a model that forgets nothing, and what is forgotten.

use std::{collections::BTreeMap, time::SystemTime};

use outrigger_core::model::{Kind, ObjectRef};
use proptest::prelude::*;

use super::HistoryError;
use crate::{
    audit::Draft,
    store::{Commit, Key, Op, Retention, Revision, Store},
};

/// What the objects are, by key.
type Picture = BTreeMap<Key, Vec<u8>>;

fn key(number: u8) -> Key {
    let name = format!("o-{number}").parse().unwrap();
    Key::object(&ObjectRef { kind: Kind::Service, namespace: Some("demo".parse().unwrap()), name })
}

fn put(number: u8, value: &[u8]) -> Op {
    Op::Put { key: key(number), value: value.to_vec() }
}

fn delete(number: u8) -> Op {
    Op::Delete { key: key(number) }
}

fn commit(ops: Vec<Op>) -> Commit {
    Commit { expect: Vec::new(), ops, audit: Draft::own(SystemTime::UNIX_EPOCH, "ann", "test.Write", "") }
}

fn apply(picture: &mut Picture, op: &Op) {
    match op {
        Op::Put { key, value } => picture.insert(key.clone(), value.clone()),
        Op::Delete { key } => picture.remove(key),
    };
}

async fn past(store: &Store, revision: Revision) -> Result<Picture, HistoryError> {
    let past = store.past(revision).await?;
    Ok(past.entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
}

/// The newest picture, made from that of `revision` and what is told of the time since.
async fn replayed(store: &Store, revision: Revision, mut picture: Picture) -> Picture {
    let mut at = revision;
    loop {
        let page = store.changes(at).await.unwrap();
        for changed in page.changes {
            match changed.value {
                Some(value) => picture.insert(changed.key, value),
                None => picture.remove(&changed.key),
            };
        }
        at = page.until;
        if !page.more {
            return picture;
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..4_u8, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, value)| put(n, &value)),
        1 => (0..4_u8).prop_map(delete),
        1 => any::<u8>().prop_map(|n| Op::Put { key: Key::token(&n.to_string()), value: vec![n] }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written and forgotten: from the oldest revision on, every picture is the model's, and the changes
    /// since lead from each to the newest.
    #[test]
    fn every_revision_that_is_kept_is_told_as_it_was(
        commits in proptest::collection::vec(proptest::collection::vec(op(), 1..4), 1..25),
        revisions in 1..6_u64,
        bytes in prop_oneof![Just(u64::MAX), 0..200_u64],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("store.redb");
            let store = Store::open_with(&path, Retention { revisions, bytes }).unwrap();
            let mut pictures = vec![Picture::new()];
            for ops in commits {
                let mut picture = pictures.last().unwrap().clone();
                ops.iter().for_each(|op| apply(&mut picture, op));
                pictures.push(picture);
                store.commit(commit(ops)).await.unwrap();
            }
            drop(store);
            let store = Store::open(&path).expect("the history agrees with what is there");
            let oldest = store.oldest().await.unwrap();
            for (revision, model) in (0..).zip(&pictures) {
                match past(&store, revision).await {
                    Ok(picture) => {
                        assert!(revision >= oldest);
                        assert_eq!(&picture, &model.iter().filter(|(key, _)| key.as_str().starts_with("object/")).map(|(key, value)| (key.clone(), value.clone())).collect::<Picture>());
                        let newest = past(&store, store.revision()).await.unwrap();
                        assert_eq!(replayed(&store, revision, picture).await, newest);
                    }
                    Err(HistoryError::Compacted { .. }) => assert!(revision < oldest),
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_told_with_the_oldest_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Store::open_with(&path, Retention { revisions: 2, bytes: u64::MAX }).unwrap();
    for value in 1..=4_u8 {
        store.commit(commit(vec![put(1, &[value])])).await.unwrap();
    }
    assert_eq!(store.oldest().await.unwrap(), 3);
    let error = store.changes(2).await.unwrap_err();
    assert_eq!(error.to_string(), "revision 2 is not kept any more; the oldest that is kept is 3");
    assert!(matches!(store.past(9).await, Err(HistoryError::Future { asked: 9, newest: 4 })));
    let versions = store.versions(&key(1), Revision::MAX, 10).await.unwrap();
    assert_eq!(versions.iter().map(|version| version.revision).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(versions[0].record.as_ref().unwrap().principal, "ann");
    let records = store.revisions(Revision::MAX, 10).await.unwrap();
    assert_eq!(records.iter().map(|record| record.revision).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(store.revisions(4, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_no_object_leaves_no_history() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store.redb")).unwrap();
    store.commit(commit(vec![Op::Put { key: Key::token("a"), value: vec![1] }])).await.unwrap();
    store.commit(commit(vec![delete(1)])).await.unwrap();
    assert!(store.revisions(Revision::MAX, 10).await.unwrap().is_empty(), "nothing was there to delete");
    assert_eq!(store.past(2).await.unwrap().newest_change, 0);
    assert_eq!(store.changes(0).await.unwrap().until, 2);
}
