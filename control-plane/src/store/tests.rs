//! The store alone: commits, conflicts, damage.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::SystemTime};

use redb::ReadableTable;

use super::{Commit, CommitError, Expect, Key, Keyspace, Op, OpenError, Store};
use crate::audit::{self, Draft, Head};

fn commit(ops: Vec<Op>) -> Commit {
    Commit { expect: Vec::new(), ops, audit: Draft::own(SystemTime::UNIX_EPOCH, "test", "test.Write", "") }
}

fn put(id: &str, value: &[u8]) -> Op {
    Op::Put { key: Key::token(id), value: value.to_vec() }
}

async fn filled(path: &Path) -> Store {
    let store = Store::open(path).unwrap();
    for n in 0..40_u8 {
        store.commit(commit(vec![put(&format!("t{n:02}"), &[n; 500])])).await.unwrap();
    }
    store
}

#[tokio::test]
async fn a_commit_is_one_revision_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    let watch = store.watch();
    assert_eq!(store.commit(commit(vec![put("a", b"1"), put("b", b"2")])).await.unwrap(), 1);
    assert_eq!(store.commit(commit(vec![Op::Delete { key: Key::token("a") }])).await.unwrap(), 2);
    assert_eq!(*watch.borrow(), 2);
    drop(store);

    let store = Store::open(&path).unwrap();
    let (revision, entries) = store.list(Keyspace::Tokens).await.unwrap();
    assert_eq!(revision, 2);
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].key.clone(), entries[0].revision), (Key::token("b"), 1));
    assert_eq!(store.get(&Key::token("b")).await.unwrap().unwrap().value, b"2");
    assert_eq!(store.get(&Key::token("a")).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_expectation_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    store.commit(commit(vec![put("a", b"1")])).await.unwrap();
    let mut second = commit(vec![put("a", b"2"), put("b", b"2")]);
    second.expect = vec![(Key::token("a"), Expect::At(7)), (Key::token("b"), Expect::Absent)];
    let Err(CommitError::Conflict(conflicts)) = store.commit(second).await else { panic!("went through") };
    assert_eq!(conflicts.len(), 1);
    assert_eq!((conflicts[0].key.clone(), conflicts[0].found), (Key::token("a"), Some(1)));
    assert_eq!(store.revision(), 1);
    assert_eq!(store.get(&Key::token("a")).await.unwrap().unwrap().value, b"1");
    assert_eq!(
        store.audit(0, 10).await.unwrap().len(),
        1,
        "a commit that failed leaves no record of success"
    );
}

#[tokio::test]
async fn of_many_writers_that_expect_the_same_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8_u8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut commit = commit(vec![put("a", &[n])]);
            commit.expect = vec![(Key::token("a"), Expect::Absent)];
            store.commit(commit).await.is_ok()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
    assert_eq!(store.revision(), 1);
}

#[tokio::test]
async fn the_audit_log_is_one_chain_over_writes_and_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    store.commit(commit(vec![put("a", b"1")])).await.unwrap();
    let mut refused = Draft::own(SystemTime::UNIX_EPOCH, "anonymous", "policy.Apply", "no certificate");
    refused.denied = true;
    assert_eq!(store.record(refused).await.unwrap(), 2);
    store.commit(commit(vec![put("b", b"1")])).await.unwrap();
    let records = store.audit(1, 10).await.unwrap();
    assert_eq!(records.iter().map(|record| record.revision).collect::<Vec<_>>(), [1, 0, 2]);
    records.iter().try_fold(Head::start(), |head, record| audit::follow(&head, record)).unwrap();
    assert_eq!(store.audit(2, 1).await.unwrap(), records[1..2]);
}

#[tokio::test]
async fn the_file_is_private_and_held_by_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = filled(&path).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Store::open(&path), Err(OpenError::InUse { .. })));
    drop(store);
    assert!(Store::open(&path).is_ok());
}

#[tokio::test]
async fn a_truncated_file_is_refused_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    drop(filled(&path).await);
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        let short = dir.path().join(format!("{length}.redb"));
        fs::write(&short, &whole[..length]).unwrap();
        let error = Store::open(&short).expect_err(&format!("{length} of {} bytes opened", whole.len()));
        assert!(matches!(error, OpenError::Damaged { .. }), "{length}: {error:?}");
        assert!(error.to_string().contains("Restore it from a backup"), "{error}");
    }
}

/// Every page is overwritten in turn: the file is refused, or it reads as exactly what was written (a page that holds
/// nothing of value).
#[tokio::test]
async fn a_corrupted_file_is_refused_or_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = filled(&path).await;
    let (_, expected) = store.list(Keyspace::Tokens).await.unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let last_used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for page in 0..=last_used / 4096 {
        let mut bytes = whole.clone();
        for byte in &mut bytes[page * 4096 + 40..page * 4096 + 104] {
            *byte ^= 0x5a;
        }
        let damaged = dir.path().join("damaged.redb");
        fs::write(&damaged, &bytes).unwrap();
        match Store::open(&damaged) {
            Ok(store) => assert_eq!(store.list(Keyspace::Tokens).await.unwrap().1, expected, "page {page}"),
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("page {page}: {other:?}"),
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    fs::write(&path, "these are my notes").unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Damaged { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"these are my notes");
}

#[tokio::test]
async fn a_record_changed_in_the_file_is_found_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    drop(filled(&path).await);
    {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(super::file::AUDIT).unwrap();
            let mut record = audit::decode(7, table.get(7).unwrap().unwrap().value()).unwrap();
            record.principal = "somebody else".to_owned();
            table.insert(7, prost::Message::encode_to_vec(&record).as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }
    let error = Store::open(&path).expect_err("opened");
    assert!(error.to_string().contains("audit record 7 does not match its hash"), "{error}");
}

#[tokio::test]
async fn a_file_of_the_version_before_is_taken_over_and_its_history_begins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let object = "object/Service/demo/price";
    {
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(super::file::META).unwrap();
            meta.insert("schema", 1).unwrap();
            meta.insert("revision", 7).unwrap();
            let mut current = transaction.open_table(super::file::CURRENT).unwrap();
            current.insert(object, (5, b"old".as_slice())).unwrap();
            current.insert("token/t", (6, b"token".as_slice())).unwrap();
            transaction.open_table(super::file::AUDIT).unwrap();
        }
        transaction.commit().unwrap();
    }
    let key = Key::from_stored(object);
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        assert_eq!((store.revision(), store.oldest().await.unwrap()), (7, 7));
        assert_eq!(store.past(7).await.unwrap().entries[0].value, b"old");
        assert!(store.past(6).await.is_err(), "nobody knows what was then");
        assert_eq!(store.versions(&key, 100, 10).await.unwrap().len(), 1);
    }
    let store = Store::open(&path).unwrap();
    let new = Op::Put { key: key.clone(), value: b"new".to_vec() };
    assert_eq!(store.commit(commit(vec![new])).await.unwrap(), 8);
    assert_eq!(store.past(7).await.unwrap().entries[0].value, b"old");
    assert_eq!(store.past(8).await.unwrap().entries[0].value, b"new");
}
