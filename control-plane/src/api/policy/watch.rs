//! Watch: the changes of objects, read from the store's history as fast as the watcher takes them. Nothing is kept for a
//! watcher but the place where it is: one that is slow holds nobody up, and one that falls behind what is kept is told to
//! start over.

use std::{collections::VecDeque, ops::Bound, sync::Arc, time::Duration};

use futures_util::stream;
use outrigger_core::model::ObjectRef;
use outrigger_proto::policy::v1alpha1::{self as proto, watch_event::Event};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Parts, history_failed,
    list::{Wanted, reference_of},
    store_failed,
};
use crate::{
    access::Caller,
    api::conditions::{Applied, Progress, with_conditions},
    store::{
        Changed, Changes, Keyspace, Progress as StoreProgress, Revision, Store, StoreError,
        objects::{self, LoadError, Objects},
    },
};

/// A watcher hears something at least so often.
const BOOKMARK: Duration = Duration::from_secs(20);
/// A watch ends after so long: who goes on shows its certificate again.
const LIFE: Duration = Duration::from_hours(1);

/// One watcher.
pub(super) struct Watch {
    store: Store,
    progress: Progress,
    stop: CancellationToken,
    caller: Caller,
    wanted: Wanted,
    newest: watch::Receiver<StoreProgress>,
    /// What is still to be sent of what there was at the beginning.
    beginning: Option<Beginning>,
    /// Everything up to here is in `queue`, or was sent.
    at: Revision,
    queue: VecDeque<proto::WatchEvent>,
    spoke: Instant,
    ends: Instant,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

struct Beginning {
    objects: Arc<Objects>,
    after: Option<ObjectRef>,
}

impl Watch {
    /// Watches what changes after `from`; with 0, everything that there is, and then what changes.
    pub(super) fn new(
        parts: &Parts,
        caller: Caller,
        wanted: Wanted,
        from: Revision,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        // First: what it says was written is in the history, whichever picture is taken below.
        let newest = parts.store.progress();
        let beginning = (from == 0).then(|| Beginning { objects: parts.objects.current(), after: None });
        let at = beginning.as_ref().map_or(from, |beginning| beginning.objects.revision());
        let now = Instant::now();
        Self {
            store: parts.store.clone(),
            progress: Arc::clone(&parts.progress),
            stop: parts.stop.clone(),
            caller,
            wanted,
            newest,
            beginning,
            at,
            queue: VecDeque::new(),
            spoke: now,
            ends: now + LIFE,
            over: false,
            _permit: permit,
        }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<proto::WatchEvent, Status>> + Send {
        stream::unfold(self, Self::next)
    }

    async fn next(mut self) -> Option<(Result<proto::WatchEvent, Status>, Self)> {
        loop {
            if let Some(event) = self.beginning().or_else(|| self.queue.pop_front()) {
                self.spoke = Instant::now();
                return Some((Ok(event), self));
            }
            if self.over {
                return None;
            }
            if let Err(status) = self.read().await {
                self.over = true;
                return Some((Err(status), self));
            }
        }
    }

    /// The next of the objects that were there at the beginning, and a bookmark after the last.
    fn beginning(&mut self) -> Option<proto::WatchEvent> {
        let beginning = self.beginning.as_mut()?;
        let start = beginning.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = beginning
            .objects
            .from(start)
            .find(|(reference, _)| self.wanted.has(reference, &self.caller))
            .map(|(reference, object)| (reference.clone(), Arc::clone(object)));
        if let Some((reference, object)) = found {
            beginning.after = Some(reference);
            let put = proto::Object::from(&with_conditions(&object, &(self.progress)()));
            return Some(event(object.metadata.revision, Event::Put(put)));
        }
        self.beginning = None;
        Some(bookmark(self.at))
    }

    /// Fills the queue with what is new; waits for it when nothing is.
    async fn read(&mut self) -> Result<(), Status> {
        let page = self.store.changes(self.at).await.map_err(history_failed)?;
        if !page.changes.is_empty() {
            return self.take(page).map_err(|error| store_failed(&error));
        }
        self.at = page.until;
        let now = Instant::now();
        if now >= self.spoke + BOOKMARK || now >= self.ends {
            self.queue.push_back(bookmark(self.at));
            self.over = now >= self.ends;
            return Ok(());
        }
        let at = self.at;
        tokio::select! {
            changed = self.newest.wait_for(|progress| progress.objects > at) => {
                self.over = changed.is_err();
            }
            () = sleep_until(self.ends.min(self.spoke + BOOKMARK)) => {}
            () = self.stop.cancelled() => return Err(Status::unavailable("the control plane stops")),
        }
        Ok(())
    }

    fn take(&mut self, page: Changes) -> Result<(), StoreError> {
        let applied = (self.progress)();
        let mut sent = self.at;
        for changed in page.changes {
            if changed.revision != sent && !self.queue.is_empty() {
                self.queue.push_back(bookmark(sent));
            }
            sent = changed.revision;
            self.queue.extend(self.told(changed, &applied)?);
        }
        self.queue.push_back(bookmark(page.until));
        self.at = page.until;
        Ok(())
    }

    /// The change as the watcher hears of it, if it does.
    fn told(&self, changed: Changed, applied: &Applied) -> Result<Option<proto::WatchEvent>, StoreError> {
        let Changed { revision, key, value } = changed;
        let reference = key.as_str().strip_prefix(Keyspace::Objects.prefix()).and_then(reference_of);
        let Some(reference) = reference else { return Err(StoreError::Malformed(key)) };
        if !self.wanted.has(&reference, &self.caller) {
            return Ok(None);
        }
        let told = match value {
            None => Event::Deleted((&reference).into()),
            Some(value) => {
                let object = objects::decode(&key, &value, revision).map_err(|error| match error {
                    LoadError::Store(error) => error,
                    LoadError::Object { key, .. } => StoreError::Malformed(key),
                })?;
                Event::Put((&with_conditions(&object, applied)).into())
            }
        };
        Ok(Some(event(revision, told)))
    }
}

fn event(revision: Revision, event: Event) -> proto::WatchEvent {
    proto::WatchEvent { revision, event: Some(event) }
}

fn bookmark(revision: Revision) -> proto::WatchEvent {
    event(revision, Event::Bookmark(proto::Bookmark {}))
}
