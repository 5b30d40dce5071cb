//! The alarm: a mesh without a control plane works as long as its certificates live, and somebody should know before
//! that is over.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use outrigger_tls::Identity;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::KeptFigures;
use crate::discovery::Status;

/// A timer does not count the time that a machine sleeps: the clock is looked at so often.
const LOOK: Duration = Duration::from_secs(600);

/// Says so when the control plane has been away for half of the time that the credential had left, and when it is back,
/// until `stop`. `since`: when it was last heard of, if that was before this start.
pub async fn watch_away(
    mut status: watch::Receiver<Status>,
    identity: Identity,
    since: SystemTime,
    figures: Arc<KeptFigures>,
    stop: CancellationToken,
) {
    let mut away = Some(since);
    loop {
        let now = SystemTime::now();
        let connected = status.borrow_and_update().connected;
        let mut look = LOOK;
        if connected {
            away = None;
        } else {
            let since = *away.get_or_insert(now);
            let svid = identity.svid();
            let alarm = svid.as_ref().map(|svid| due(since, svid.not_after()));
            if alarm.is_some_and(|at| at <= now) && !figures.overdue.swap(true, Ordering::Relaxed) {
                let left = svid.and_then(|svid| svid.not_after().duration_since(now).ok());
                tracing::warn!(
                    away_seconds = now.duration_since(since).unwrap_or_default().as_secs(),
                    credential_seconds_left = left.unwrap_or_default().as_secs(),
                    "the control plane has been away for half of the time that this credential had left; when it ends, \
                     this proxy serves nobody any more"
                );
            } else if let Some(left) = alarm.and_then(|at| at.duration_since(now).ok()) {
                look = look.min(left);
            }
        }
        if connected && figures.overdue.swap(false, Ordering::Relaxed) {
            tracing::info!("the control plane is back");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
            () = sleep_until(Instant::now() + look) => {}
        }
    }
}

/// When the alarm is due, if the control plane is away `since` then: never later than after half a life, and always with
/// as much time left as has passed.
fn due(since: SystemTime, not_after: SystemTime) -> SystemTime {
    since + not_after.duration_since(since).unwrap_or_default() / 2
}

#[cfg(test)]
mod tests {
    use outrigger_tls::testing::Authority;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_alarm_is_due_with_as_much_time_left_as_has_passed() {
        let born = SystemTime::UNIX_EPOCH;
        let dies = born + HOUR * 24;
        assert_eq!(due(born, dies), born + HOUR * 12);
        assert_eq!(due(born + HOUR * 12, dies), born + HOUR * 18, "just before the renewal");
        assert_eq!(due(dies + HOUR, dies), dies + HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_hears_of_a_control_plane_that_is_away_too_long_until_it_is_back() {
        let authority = Authority::new("outrigger.local");
        let svid = authority.workload("demo", "price");
        let life = svid.not_after().duration_since(svid.not_before()).unwrap();
        let identity = authority.identity(svid);
        let (status, watched) = watch::channel(Status::default());
        let figures = Arc::new(KeptFigures::default());
        let stop = CancellationToken::new();
        let since = SystemTime::now() - life;
        let watching = tokio::spawn(watch_away(watched, identity, since, Arc::clone(&figures), stop.clone()));
        let moment = || tokio::time::sleep(Duration::from_secs(1));
        moment().await;
        assert!(figures.overdue());
        status.send_modify(|status| status.connected = true);
        moment().await;
        assert!(!figures.overdue());
        // Away again, and not for long.
        status.send_modify(|status| status.connected = false);
        moment().await;
        assert!(!figures.overdue());
        stop.cancel();
        watching.await.unwrap();
    }
}
