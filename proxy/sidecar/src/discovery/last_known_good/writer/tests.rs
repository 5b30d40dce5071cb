//! When it is written, in virtual time.

use std::path::Path;

use outrigger_tls::testing::Authority;

use super::*;
use crate::discovery::last_known_good::Origin;

struct Running {
    contents: watch::Sender<Option<Arc<Contents>>>,
    status: watch::Sender<Status>,
    store: Store,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(dir: &Path) -> Running {
    let authority = Authority::new("outrigger.local");
    let (contents, kept) = watch::channel(None);
    let (status, watched) = watch::channel(Status { connected: true, ..Status::default() });
    let store = Store::new(dir);
    let keeper = Keeper {
        store: store.clone(),
        identity: authority.identity(authority.workload("demo", "front")),
        contents: kept,
        status: watched,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(keeper.run(stop.clone()));
    Running { contents, status, store, stop, task }
}

impl Running {
    fn put(&self, revision: u64) {
        let contents = Contents { revision, items: Vec::new(), retired: Vec::new(), absent: Vec::new() };
        self.contents.send_replace(Some(Arc::new(contents)));
    }

    /// Reads whether the file is there, and takes it away.
    fn take(&self) -> bool {
        std::fs::remove_file(&self.store.path).is_ok()
    }
}

/// Lets virtual time pass, and what blocks come to its end.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    for _ in 0..2 {
        spawn_blocking(|| {}).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_written_once_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    for revision in 0..10 {
        running.put(revision);
        pass(Duration::from_millis(50)).await;
    }
    assert!(!running.take());
    pass(Duration::from_secs(1)).await;
    assert!(running.take());
    assert!(running.store.figures.written().is_some());
    pass(Duration::from_secs(60)).await;
    assert!(!running.take());
}

#[tokio::test(start_paused = true)]
async fn constant_change_is_written_every_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let mut written = 0;
    for revision in 0..300 {
        running.put(revision);
        pass(Duration::from_millis(100)).await;
        written += u32::from(running.take());
    }
    assert!((5..=7).contains(&written), "{written} in 30 s");
}

#[tokio::test(start_paused = true)]
async fn what_the_control_plane_confirms_is_written_again_every_hour() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    running.put(1);
    pass(Duration::from_secs(2)).await;
    assert!(running.take());
    pass(REFRESH).await;
    assert!(running.take());
    // It has no say any more: the file must not look younger than it is.
    running.status.send_modify(|status| status.connected = false);
    pass(REFRESH * 3).await;
    assert!(!running.take());
    let origin = Origin { revision: 1, written: SystemTime::now() };
    running.status.send_modify(|status| (status.connected, status.last_known_good) = (true, Some(origin)));
    pass(REFRESH * 3).await;
    assert!(!running.take());
}

#[tokio::test(start_paused = true)]
async fn a_stop_finds_the_last_change_written_and_writes_nothing_twice() {
    for unwritten in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let running = start(dir.path());
        running.put(1);
        if !unwritten {
            pass(Duration::from_secs(2)).await;
            assert!(running.take());
        }
        running.stop.cancel();
        // Discovery may have gone before.
        let store = running.store.clone();
        drop(running.contents);
        running.task.await.unwrap();
        assert_eq!(store.path.exists(), unwritten);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_counted_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    // A directory in its way.
    std::fs::create_dir(&running.store.path).unwrap();
    running.put(1);
    pass(Duration::from_secs(2)).await;
    assert_eq!(running.store.figures.failures(), 1);
    std::fs::remove_dir(&running.store.path).unwrap();
    pass(RETRY + Duration::from_secs(1)).await;
    assert!(running.take());
}
