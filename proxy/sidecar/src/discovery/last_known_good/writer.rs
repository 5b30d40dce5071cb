//! Keeps what is in force on disk: soon after a change, not too often, and again every hour while the control plane
//! confirms it, since a file's age counts from its writing. Nothing is written for what the control plane has not
//! confirmed, so that a restart without one makes nothing younger than it is.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use outrigger_tls::Identity;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Contents, Store, file};
use crate::discovery::Status;

/// Changes come in bursts, above all at a start.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Between two writings.
const INTERVAL: Duration = Duration::from_secs(5);
/// After a writing that failed.
const RETRY: Duration = Duration::from_secs(60);
/// Between two writings of the same.
const REFRESH: Duration = Duration::from_secs(3600);

/// What the writing goes by.
#[derive(Debug)]
pub struct Keeper {
    /// Where it is written.
    pub store: Store,
    /// Whose it is.
    pub identity: Identity,
    /// What to keep, as discovery says.
    pub contents: watch::Receiver<Option<Arc<Contents>>>,
    /// Whether the control plane confirms it.
    pub status: watch::Receiver<Status>,
}

impl Keeper {
    /// Writes until `stop`, and what is unwritten then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut written = None;
        let mut last = None;
        let mut due = Instant::now() + REFRESH;
        let mut waiting = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    if !self.is_newest(written.as_ref()) {
                        self.write().await;
                    }
                    return;
                }
                Ok(()) = self.contents.changed() => {
                    // The first of several changes says when; the last of them is written.
                    if !waiting {
                        waiting = true;
                        let earliest = last.map_or_else(Instant::now, |last: Instant| last + INTERVAL);
                        due = earliest.max(Instant::now() + DEBOUNCE);
                    }
                    continue;
                }
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            due = now + REFRESH;
            if waiting || self.is_confirmed() {
                last = Some(now);
                match self.write().await {
                    Some(contents) => (written, waiting) = (Some(contents), false),
                    // A disk that is full may not be for long.
                    None => (waiting, due) = (true, now + RETRY),
                }
            }
        }
    }

    fn is_newest(&self, written: Option<&Arc<Contents>>) -> bool {
        match (self.contents.borrow().as_ref(), written) {
            (Some(contents), Some(written)) => Arc::ptr_eq(contents, written),
            (contents, _) => contents.is_none(),
        }
    }

    fn is_confirmed(&self) -> bool {
        let status = self.status.borrow();
        status.connected && status.last_known_good.is_none() && self.contents.borrow().is_some()
    }

    /// Writes what there is; returns it once it is on disk.
    async fn write(&mut self) -> Option<Arc<Contents>> {
        let contents = self.contents.borrow_and_update().clone()?;
        let own = self.identity.id()?;
        let (path, now) = (self.store.path.clone(), SystemTime::now());
        let content = Arc::clone(&contents);
        let outcome = spawn_blocking(move || file::write(&path, &own, &content, now)).await;
        match outcome {
            Ok(Ok(())) => {
                self.store.figures.note_written(now);
                tracing::debug!("the last known good is written");
                Some(contents)
            }
            Ok(Err(error)) => {
                self.store.figures.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "the last known good cannot be written: a restart has what was kept before");
                None
            }
            // The runtime is going down.
            Err(_ending) => None,
        }
    }
}

#[cfg(test)]
mod tests;
