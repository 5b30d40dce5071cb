//! A backup taken, damaged and restored, without a control plane around it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outrigger_core::{
    model::{Kind, ObjectRef, TrustDomain},
    rotation::Authorities,
};

use super::{INCOMPLETE, RestoreError, Snapshot, restore};
use crate::{
    audit::{self, Draft, Head},
    store::{Commit, HistoryError, Key, Keyspace, Op, Store},
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn key(name: &str) -> Key {
    let (namespace, name) = (Some("demo".parse().unwrap()), name.parse().unwrap());
    Key::object(&ObjectRef { kind: Kind::Service, namespace, name })
}

async fn put(store: &Store, key: Key, value: &[u8]) -> u64 {
    let ops = vec![Op::Put { key, value: value.to_vec() }];
    let audit = Draft::own(NOW, "ann", "test.Write", "");
    store.commit(Commit { expect: Vec::new(), ops, audit }).await.unwrap()
}

struct Bench {
    directory: tempfile::TempDir,
    store: Store,
}

impl Bench {
    /// A store with an object in two versions and a token, and an authority of one file.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.redb")).unwrap();
        put(&store, key("a"), b"1").await;
        put(&store, key("a"), b"2").await;
        put(&store, Key::token("t"), b"secret").await;
        fs::create_dir(directory.path().join("authority")).unwrap();
        fs::write(directory.path().join("authority/root.pem"), "the root").unwrap();
        Self { directory, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn backup(&self) -> PathBuf {
        let domain: TrustDomain = "outrigger.local".parse().unwrap();
        let snapshot = Snapshot::take(&self.store, &self.path("authority"), &domain, NOW).unwrap();
        let mut bytes = Vec::new();
        snapshot
            .write(|piece| {
                bytes.extend_from_slice(&piece);
                true
            })
            .unwrap();
        let path = self.path("backup");
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn empty(directory: &Path) -> bool {
    !directory.exists() || fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test]
async fn what_is_restored_is_what_was_and_goes_on_beyond_what_is_lost() {
    let bench = Bench::new().await;
    let backup = bench.backup();
    put(&bench.store, key("a"), b"lost").await;
    let target = bench.path("fresh");
    let restored = restore(&backup, &target, NOW + Duration::from_secs(150)).unwrap();
    assert_eq!((restored.revision, restored.next), (3, 150_000_000));
    assert_eq!(fs::read(target.join("authority/root.pem")).unwrap(), b"the root");
    assert!(!target.join(INCOMPLETE).exists());
    for file in ["store.redb", "authority/root.pem"] {
        assert_eq!(fs::metadata(target.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }

    let store = Store::open(&target.join("store.redb")).unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, b"2");
    assert_eq!(store.past(1).await.unwrap().entries[0].value, b"1", "its history came with it");
    assert!(store.list(Keyspace::Tokens).await.unwrap().1.is_empty(), "no token is redeemed twice");
    assert_eq!(store.restored().await.unwrap(), Some(150_000_000));
    let lost = store.changes(4).await.unwrap_err();
    assert!(matches!(lost, HistoryError::Lost { asked: 4, last: 3, next: 150_000_000 }), "{lost}");
    assert!(store.changes(3).await.unwrap().changes.is_empty());
    assert_eq!(put(&store, key("b"), b"new").await, 150_000_001);
    let records = store.audit(0, 100).await.unwrap();
    records.iter().try_fold(Head::start(), |head, record| audit::follow(&head, record)).unwrap();
    assert_eq!(records[3].method, "control_plane.Restore");
    store.settled().await.unwrap();
    assert_eq!(store.restored().await.unwrap(), None);
}

/// Proxies report the sequence of the bundle that they applied: one of a rotation that is lost says nothing of the next.
#[tokio::test]
async fn a_restored_trust_bundle_comes_after_every_one_that_is_lost() {
    for rotated in [false, true] {
        let bench = Bench::new().await;
        let before = Authorities::default();
        let before =
            if rotated { before.prepare(outrigger_core::rotation::Kind::Root, NOW).unwrap() } else { before };
        if rotated {
            put(&bench.store, Key::authority("rotation"), &serde_json::to_vec(&before).unwrap()).await;
        }
        let target = bench.path("fresh");
        let restored = restore(&bench.backup(), &target, NOW).unwrap();
        let store = Store::open(&target.join("store.redb")).unwrap();
        let kept = store.get(&Key::authority("rotation")).await.unwrap().unwrap();
        let state: Authorities = serde_json::from_slice(&kept.value).unwrap();
        assert_eq!(state, Authorities { sequence: restored.next, ..before });
    }
}

#[tokio::test]
async fn a_directory_with_anything_in_it_is_left_alone() {
    let bench = Bench::new().await;
    let backup = bench.backup();
    let target = bench.path("used");
    fs::create_dir(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(target.join("note"), "mine").unwrap();
    assert!(matches!(restore(&backup, &target, NOW), Err(RestoreError::NotEmpty(_))));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
}

#[tokio::test]
async fn a_damaged_backup_is_refused_before_anything_is_written() {
    let bench = Bench::new().await;
    let backup = bench.backup();
    let whole = fs::read(&backup).unwrap();
    let target = bench.path("fresh");
    for length in [0, 5, 19, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&backup, &whole[..length]).unwrap();
        assert!(matches!(restore(&backup, &target, NOW), Err(RestoreError::Read { .. })), "{length}");
        assert!(empty(&target), "{length}");
    }
    for place in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&backup, &bytes).unwrap();
        assert!(matches!(restore(&backup, &target, NOW), Err(RestoreError::Read { .. })), "{place}");
        assert!(empty(&target), "{place}");
    }
    fs::write(&backup, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(matches!(restore(&backup, &target, NOW), Err(RestoreError::Read { .. })));
}

/// A pipe gives its content once, as `age -d mesh.backup.age | outrigger restore -` does.
#[tokio::test]
async fn a_backup_out_of_a_pipe_is_restored_as_one_of_a_file_is() {
    let bench = Bench::new().await;
    let whole = fs::read(bench.backup()).unwrap();
    let pipe = bench.path("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let through = |bytes: Vec<u8>, target: &Path| {
        std::thread::scope(|scope| {
            // Whoever refuses it does not read it to its end.
            scope.spawn(|| drop(fs::write(&pipe, bytes)));
            restore(&pipe, target, NOW)
        })
    };
    let target = bench.path("fresh");
    for length in [5, whole.len() / 2, whole.len() - 1] {
        let refused = through(whole[..length].to_vec(), &target);
        assert!(matches!(refused, Err(RestoreError::Read { .. })), "{length}");
        assert!(empty(&target), "{length}");
    }
    assert_eq!(through(whole, &target).unwrap().revision, 3);
    assert_eq!(fs::read(target.join("authority/root.pem")).unwrap(), b"the root");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2, "store and authority");
}
