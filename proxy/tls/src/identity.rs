//! The handle on who we are and whom we trust.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

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
    credential: AtomicU64,
}

impl Identity {
    /// Neither SVID nor bundle yet: every handshake fails.
    pub fn empty() -> Self {
        Self(Arc::new(Shared {
            svid: ArcSwapOption::empty(),
            bundle: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            credential: AtomicU64::new(0),
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
        self.0.credential.fetch_add(1, Ordering::Release);
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

    /// A number that grows with every swap, of SVID or bundle; the value is stored before it grows.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// How often our own SVID was swapped: part of a connection pool's key. A new bundle is none of its business: it
    /// closes the connections whose chain no longer verifies, and no others.
    pub fn credential_generation(&self) -> u64 {
        self.0.credential.load(Ordering::Acquire)
    }
}
