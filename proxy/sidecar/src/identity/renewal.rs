//! Keeping the credential good: renewed at half its life, or earlier when the authority above it is on its way out;
//! swapped while traffic flows, and written down.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use outrigger_proto::identity::v1alpha1::IssueRequest;
use outrigger_tls::{Identity, Key, Svid, credential};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::issue::{IssueError, issue};
use crate::backoff::Backoff;

/// A timer does not count the time that a machine sleeps: the clock is looked at so often.
const LOOK: Duration = Duration::from_secs(600);
/// Between two attempts: from one second to five minutes.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));

/// When the authority above the certificate retires, everybody renews within so long, or a tenth of what is left
/// of the certificate's life if that is less.
const SOON: Duration = Duration::from_secs(60);
/// The same when it is tainted.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What the renewal works with.
#[derive(Debug)]
pub struct Renewal {
    /// To the control plane, with the credential itself.
    pub channel: Channel,
    /// Whose SVID is renewed.
    pub identity: Identity,
    /// Where the credential is kept, if it is.
    pub dir: Option<PathBuf>,
    /// When the control plane wants to be asked, if it said so.
    pub renew_after: Option<SystemTime>,
    /// Attempts that failed.
    pub failures: Arc<AtomicU64>,
}

impl Renewal {
    /// Renews, and keeps what changes, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changed = self.identity.changed();
        let mut kept = self.fingerprint();
        let mut backoff = BACKOFF;
        let mut due = self.due();
        let mut hinted = None;
        loop {
            let now = SystemTime::now();
            // Once for each bundle: what the control plane issues then is what there is.
            if let Some((sequence, within)) = self.hint().filter(|(sequence, _)| hinted != Some(*sequence)) {
                hinted = Some(sequence);
                due = due.min(now + within.mul_f64(rand::random()));
            }
            let left = due.duration_since(now).unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => return,
                // A bundle from discovery, or what could not be kept below.
                Ok(()) = changed.changed() => {
                    let fingerprint = self.fingerprint();
                    if fingerprint != kept && self.keep().await {
                        kept = fingerprint;
                    }
                    continue;
                }
                () = sleep_until(Instant::now() + left.min(LOOK)) => {}
            }
            // A disk that was full may not be any more.
            let fingerprint = self.fingerprint();
            if fingerprint != kept && self.keep().await {
                kept = fingerprint;
            }
            if SystemTime::now() < due {
                continue;
            }
            match self.renew().await {
                Ok(svid) => {
                    tracing::info!(id = %svid.id(), "credential renewed");
                    self.identity.set_svid(svid);
                    // At once: a stop must not find it unwritten.
                    if self.keep().await {
                        kept = self.fingerprint();
                    }
                    backoff = BACKOFF;
                    due = self.due();
                }
                Err(error) => {
                    let wait = backoff.next(rand::random());
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    self.complain(&error, wait);
                    due = SystemTime::now() + wait;
                }
            }
        }
    }

    fn due(&self) -> SystemTime {
        match self.identity.svid() {
            Some(svid) => due(svid.not_before(), svid.not_after(), self.renew_after, rand::random()),
            None => SystemTime::now() + LOOK,
        }
    }

    /// Within how long to renew because an authority above the certificate is on its way out, and the bundle that says so.
    fn hint(&self) -> Option<(u64, Duration)> {
        let (svid, bundle) = (self.identity.svid()?, self.identity.bundle()?);
        let outgoing = bundle.outgoing();
        let above = svid.authorities(&bundle);
        let hangs_on = |keys: &[[u8; 32]]| above.iter().any(|key| keys.contains(key));
        let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        let within = match () {
            () if hangs_on(&outgoing.tainted) => AT_ONCE,
            () if hangs_on(&outgoing.retiring) => SOON,
            () => return None,
        };
        Some((bundle.sequence(), within.min(left / 10)))
    }

    /// Asks for a certificate for a new key, proving the old one.
    async fn renew(&mut self) -> Result<Svid, IssueError> {
        let id = self.identity.id().ok_or(IssueError::Answer("there is nothing to renew"))?;
        let key = Key::generate()?;
        let request =
            IssueRequest { csr_der: key.csr_der(&id)?, join_token: String::new(), spiffe_id: id.to_string() };
        let issued = issue(self.channel.clone(), request, key).await?;
        if *issued.credential.svid.id() != id {
            return Err(IssueError::Answer("the certificate is somebody else's"));
        }
        // The bundle of the answer is not taken: discovery brings the one in force.
        self.renew_after = issued.renew_after;
        Ok(issued.credential.svid)
    }

    fn complain(&self, error: &IssueError, wait: Duration) {
        let left = self
            .identity
            .svid()
            .map(|svid| svid.not_after().duration_since(SystemTime::now()).unwrap_or_default().as_secs());
        match left {
            Some(0) => {
                tracing::error!(%error, retry_in = ?wait, "the credential has expired and cannot be renewed")
            }
            _ if error.is_final() => {
                tracing::error!(%error, seconds_left = left, retry_in = ?wait, "the credential is not renewed");
            }
            _ => {
                tracing::warn!(%error, seconds_left = left, retry_in = ?wait, "the credential is not renewed yet")
            }
        }
    }

    /// Tells one state of the credential from another.
    fn fingerprint(&self) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        let leaf = self.identity.svid()?.chain().first()?.to_vec();
        let roots = self.identity.bundle()?.authorities().iter().map(|der| der.to_vec()).collect();
        Some((leaf, roots))
    }

    /// Writes the credential down; returns whether it is.
    async fn keep(&self) -> bool {
        let (Some(dir), Some(svid), Some(bundle)) =
            (self.dir.clone(), self.identity.svid(), self.identity.bundle())
        else {
            return true;
        };
        match spawn_blocking(move || credential::save(&dir, &svid, &bundle)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the credential is not kept: a restart will need a join token"
                );
                false
            }
            Err(_ending) => false,
        }
    }
}

/// When to renew: as the control plane said, if that is within the life; else at half of it, give or take a twentieth,
/// so that what was started together is not renewed together.
fn due(not_before: SystemTime, not_after: SystemTime, asked: Option<SystemTime>, random: f64) -> SystemTime {
    match asked {
        Some(at) if at > not_before && at < not_after => at,
        _ => {
            let life = not_after.duration_since(not_before).unwrap_or_default();
            not_before + life.mul_f64(0.45 + random.clamp(0.0, 1.0) / 10.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::model::Outgoing;
    use outrigger_tls::{
        Bundle,
        grpc::{ServerTrust, channel_lazy},
        testing::{Authority, Leaf},
    };

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn renewal_is_due_at_half_life_with_jitter() {
        let born = SystemTime::UNIX_EPOCH;
        let at = |random| due(born, born + HOUR * 24, None, random).duration_since(born).unwrap();
        assert_eq!(at(0.5), HOUR * 12);
        assert!(at(0.0) < at(1.0));
        assert!(at(0.0) >= HOUR * 10 && at(1.0) <= HOUR * 14);
    }

    #[test]
    fn the_control_planes_word_goes_before_if_it_makes_sense() {
        let born = SystemTime::UNIX_EPOCH + HOUR;
        let dies = born + HOUR * 24;
        assert_eq!(due(born, dies, Some(born + HOUR), 0.5), born + HOUR);
        for senseless in [born - HOUR, dies, dies + HOUR] {
            assert_eq!(due(born, dies, Some(senseless), 0.5), born + HOUR * 12);
        }
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_early_while_its_authority_is_on_its_way_out() {
        let (old, new) = (Authority::new("outrigger.local"), Authority::new("outrigger.local"));
        let identity = old.identity(old.workload("demo", "price"));
        let trust = ServerTrust::Bundle(identity.clone());
        let renewal = Renewal {
            channel: channel_lazy("127.0.0.1:9", trust, Some(&identity)).unwrap(),
            identity: identity.clone(),
            dir: None,
            renew_after: None,
            failures: Arc::default(),
        };
        let key = outrigger_tls::spki_sha256(&old.root_der()).unwrap();
        let roots = || vec![old.root_der(), new.root_der()];
        let bundle = |sequence, outgoing| {
            let bundle = Bundle::new("outrigger.local".parse().unwrap(), roots(), sequence).unwrap();
            identity.set_bundle(bundle.with_outgoing(outgoing));
        };
        bundle(2, Outgoing::default());
        assert_eq!(renewal.hint(), None);
        bundle(3, Outgoing { retiring: vec![key], ..Outgoing::default() });
        assert_eq!(renewal.hint(), Some((3, SOON)));
        bundle(4, Outgoing { tainted: vec![key], ..Outgoing::default() });
        assert_eq!(renewal.hint(), Some((4, AT_ONCE)));
        let mut short = Leaf::of(&old.workload_id("demo", "price"));
        short.not_after = SystemTime::now() + Duration::from_secs(20);
        identity.set_svid(old.issue(&short));
        assert!(renewal.hint().is_some_and(|(_, within)| within <= Duration::from_secs(2)));
        identity.set_svid(new.workload("demo", "price"));
        assert_eq!(renewal.hint(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_kept_is_kept_once_it_can() {
        let authority = Authority::new("outrigger.local");
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("credential");
        std::fs::write(&dir, "in the way").unwrap();
        let identity = authority.identity(authority.workload("demo", "price"));
        let trust = ServerTrust::Bundle(identity.clone());
        let renewal = Renewal {
            channel: channel_lazy("127.0.0.1:9", trust, Some(&identity)).unwrap(),
            identity: identity.clone(),
            dir: Some(dir.clone()),
            renew_after: None,
            failures: Arc::default(),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(renewal.run(stop.clone()));
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
        let next = authority.workload("demo", "price");
        let leaf = next.chain()[0].clone();
        identity.set_svid(next);
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
        std::fs::remove_file(&dir).unwrap();
        sleep_until(Instant::now() + 2 * LOOK).await;
        assert_eq!(credential::load(&dir).unwrap().svid.chain()[0], leaf);
        stop.cancel();
        running.await.unwrap();
    }
}
