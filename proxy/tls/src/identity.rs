//! The handle on who we are and whom we trust.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use outrigger_core::model::SpiffeId;
use tokio::sync::watch;

use crate::{Bundle, Svid};

/// The SVID and the trust bundle in force. Cheap to clone; all clones see the same. Every handshake reads it once, so
/// that a swap takes effect with the next one and disturbs none that is open.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    svid: ArcSwapOption<Svid>,
    bundle: ArcSwapOption<Bundle>,
    changed: watch::Sender<u64>,
}

impl Identity {
    /// Neither SVID nor bundle yet: every handshake fails.
    pub fn empty() -> Self {
        Self(Arc::new(Shared {
            svid: ArcSwapOption::empty(),
            bundle: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
        }))
    }

    /// With both.
    pub fn new(svid: Svid, bundle: Bundle) -> Self {
        let identity = Self::empty();
        identity.set_svid(svid);
        identity.set_bundle(bundle);
        identity
    }

    /// Takes `svid` for every handshake from now on.
    pub fn set_svid(&self, svid: Svid) {
        self.0.svid.store(Some(Arc::new(svid)));
        self.0.changed.send_modify(|generation| *generation += 1);
    }

    /// Takes `bundle` for every handshake from now on.
    pub fn set_bundle(&self, bundle: Bundle) {
        self.0.bundle.store(Some(Arc::new(bundle)));
        self.0.changed.send_modify(|generation| *generation += 1);
    }

    /// Who we are.
    pub fn svid(&self) -> Option<Arc<Svid>> {
        self.0.svid.load_full()
    }

    /// Our ID, if we have an SVID.
    pub fn id(&self) -> Option<SpiffeId> {
        self.0.svid.load().as_ref().map(|svid| svid.id().clone())
    }

    /// Whom we trust.
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.0.bundle.load_full()
    }

    /// A generation that grows with every swap; the value is stored before it grows. Part of a connection pool's key.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// The generation now.
    pub fn generation(&self) -> u64 {
        *self.0.changed.borrow()
    }
}
