//! Whether the peer of an open connection is still to be believed. A handshake judges once; when the bundle changes or
//! a certificate expires, the peer is judged again, and a connection whose chain no longer verifies is closed.
//!
//! Both happen to many connections at the same moment, so each waits a random part of [`Limits::distrust_spread`] first:
//! neither the verifications nor the handshakes that follow come all at once.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_tls::{Bundle, Evidence, Identity, Refusal};
use rustls::pki_types::UnixTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::http::Limits;

/// A timer does not count the time that a machine sleeps: the clock is looked at so often.
const LOOK: Duration = Duration::from_secs(600);

/// What was in force when a handshake began.
#[derive(Debug)]
pub(crate) struct Watch {
    identity: Identity,
    changed: watch::Receiver<u64>,
    bundle: Option<Arc<Bundle>>,
}

impl Watch {
    /// To be called before the handshake, so that no change is missed while it runs.
    pub(crate) fn begin(identity: &Identity) -> Self {
        // In this order: a change in between is seen twice and not never.
        let changed = identity.changed();
        Self { identity: identity.clone(), changed, bundle: identity.bundle() }
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
            tokio::select! {
                Ok(()) = self.changed.changed() => {
                    let bundle = self.identity.bundle();
                    let same = match (&self.bundle, &bundle) {
                        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                        (before, now) => before.is_none() && now.is_none(),
                    };
                    self.bundle = bundle;
                    if same {
                        continue;
                    }
                }
                () = over(expiry) => {}
            }
            sleep(spread.mul_f64(rand::random())).await;
            if let Err(refusal) = evidence.judge(&self.identity, UnixTime::now()) {
                return refusal;
            }
        }
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
