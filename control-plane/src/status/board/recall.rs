//! What a board passes on to that of the next process: who was on it, and nothing of what they had said.

use std::{sync::Arc, time::SystemTime};

use outrigger_core::model::SpiffeId;
use tokio::{sync::watch, time::Instant};

use super::{Board, Node, REMEMBERED};

/// So many proxies are passed on; those with an open stream come first, and there are no more of them.
pub(in crate::status) const MAX_KNOWN: usize = 10_000;

/// Who is on a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Their ids, `<SPIFFE ID>#<instance>`, in order.
    pub ids: Vec<Arc<str>>,
    /// When the first of them is forgotten, if it does not come back.
    pub until: Option<Instant>,
}

impl Board {
    /// Puts those on the board that were on that of an earlier process, as if their streams broke `now`. Whoever is
    /// connected stays so. They are no [`absences`](Board::absences): nobody knows what they had applied.
    pub fn recall(&self, known: impl IntoIterator<Item = (Arc<str>, SpiffeId)>, now: (Instant, SystemTime)) {
        {
            let mut inner = self.inner.lock();
            for (id, identity) in known.into_iter().take(MAX_KNOWN) {
                if !inner.by_node.contains_key(&id) {
                    let node = Node::new(Arc::clone(&id), &identity, "", now.1);
                    inner.lost.insert(id, Node { lost: Some(now.0), recalled: true, ..node });
                }
            }
        }
        self.known.send_replace(());
        self.tell();
    }

    /// Who is connected, or was so within the last minute. Whoever waits for the board hears of those whose time is over.
    pub fn known(&self, now: Instant) -> Known {
        let (known, fewer) = {
            let mut inner = self.inner.lock();
            let before = inner.lost.len();
            inner.expire(now);
            let ids = inner.by_node.keys().chain(inner.lost.keys());
            let mut ids: Vec<_> = ids.take(MAX_KNOWN).cloned().collect();
            ids.sort_unstable();
            let until = inner.lost.values().filter_map(|node| Some(node.lost? + REMEMBERED)).min();
            (Known { ids, until }, inner.lost.len() < before)
        };
        if fewer {
            self.tell();
        }
        known
    }

    /// Told when a proxy comes or goes.
    pub fn watch_known(&self) -> watch::Receiver<()> {
        self.known.subscribe()
    }
}
