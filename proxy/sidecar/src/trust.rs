//! Whether the peer of an open connection is still to be believed. A handshake judges once; when the bundle changes or
//! a certificate expires, the peer is judged again, and a connection whose chain no longer verifies is closed.
//!
//! Both happen to many connections at the same moment, so each waits a random part of [`Limits::distrust_spread`] first:
//! neither the verifications nor the handshakes that follow come all at once. Only what was revoked in a hurry waits no
//! more than a moment.
//!
//! A tainted authority is another matter: it is the holder of a certificate under it who knows when there is a better one,
//! and then closes the connections that were opened with the old.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_tls::{Bundle, Evidence, Identity, PeerRejected, Refusal, Svid};
use rustls::pki_types::UnixTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::http::Limits;

/// A timer does not count the time that a machine sleeps: the clock is looked at so often.
const LOOK: Duration = Duration::from_secs(600);
/// "At once", for many connections.
const MOMENT: Duration = Duration::from_secs(1);

/// What was in force when a handshake began.
#[derive(Debug)]
pub(crate) struct Watch {
    identity: Identity,
    changed: watch::Receiver<u64>,
    bundle: Option<Arc<Bundle>>,
    /// What we show.
    shown: Option<Arc<Svid>>,
}

impl Watch {
    /// To be called before the handshake, so that no change is missed while it runs.
    pub(crate) fn begin(identity: &Identity) -> Self {
        // In this order: a change in between is seen twice and not never.
        let changed = identity.changed();
        Self { identity: identity.clone(), changed, bundle: identity.bundle(), shown: identity.svid() }
    }

    /// Watches over a connection whose handshake is complete. `distrusted` is told when its peer is no longer
    /// believed: then it may finish what it does and takes nothing new; some time later it has to be [`Trusted::cut`].
    /// A task of its own, so that the connection's own is not woken and polls nothing more for it.
    pub(crate) fn over(
        self,
        evidence: Evidence,
        limits: &Limits,
        distrusted: impl FnOnce(Refusal) + Send + 'static,
    ) -> Trusted {
        let (spread, grace) = (limits.distrust_spread, limits.distrust_grace);
        Trusted(AbortOnDropHandle::new(tokio::spawn(async move {
            distrusted(self.refusal(&evidence, spread).await);
            sleep(grace).await;
        })))
    }

    async fn refusal(mut self, evidence: &Evidence, spread: Duration) -> Refusal {
        loop {
            let expiry = evidence.next_expiry(SystemTime::now());
            let mut hurry = false;
            tokio::select! {
                Ok(()) = self.changed.changed() => {
                    let bundle = self.identity.bundle();
                    let same = match (&self.bundle, &bundle) {
                        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                        (before, now) => before.is_none() && now.is_none(),
                    };
                    self.bundle = bundle;
                    if self.is_tainted() {
                        sleep(spread.min(MOMENT).mul_f64(rand::random())).await;
                        return Refusal::new(PeerRejected::Tainted);
                    }
                    if same {
                        continue;
                    }
                    hurry = self.bundle.as_ref().is_some_and(|bundle| bundle.outgoing().at_once);
                }
                () = over(expiry) => {}
            }
            let spread = if hurry { spread.min(MOMENT) } else { spread };
            sleep(spread.mul_f64(rand::random())).await;
            if let Err(refusal) = evidence.judge(&self.identity, UnixTime::now()) {
                return refusal;
            }
        }
    }

    /// Whether what we showed hangs on a tainted authority, and what we would show now does not.
    fn is_tainted(&self) -> bool {
        let (Some(bundle), Some(shown), Some(now)) = (&self.bundle, &self.shown, self.identity.svid()) else {
            return false;
        };
        let tainted = &bundle.outgoing().tainted;
        let hangs = |svid: &Svid| svid.authorities(bundle).iter().any(|key| tainted.contains(key));
        !tainted.is_empty() && hangs(shown) && !hangs(&now)
    }
}

/// Until `expiry` is over; without one, without end.
async fn over(expiry: Option<SystemTime>) {
    let Some(expiry) = expiry else {
        return std::future::pending().await;
    };
    // The second that a certificate names is the last one in which it is valid.
    let over = expiry + Duration::from_secs(1);
    while let Ok(left) = over.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        sleep_until(Instant::now() + left.min(LOOK)).await;
    }
}

/// The watch over one connection; ends with it.
#[derive(Debug)]
pub(crate) struct Trusted(AbortOnDropHandle<()>);

impl Trusted {
    /// Ready when a connection that was told of it has had time enough. Cancel safe.
    pub(crate) async fn cut(&mut self) {
        // A watch that broke is no watch: the connection is cut then, too.
        let _ended = (&mut self.0).await;
    }
}
