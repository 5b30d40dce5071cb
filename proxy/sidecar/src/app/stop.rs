//! The way out, in the order that loses nothing (SEMANTICS H.6), and within its time whatever is in the way:
//!
//! ```text
//! half-closed in the registry -> served as ever until the callers run without us, or drain.withdrawal
//! -> not ready; GOAWAY and "connection: close" -> in flight to drain.timeout -> listeners -> last figures
//! ```

use std::time::Duration;

use outrigger_process::{exit::Exit, shutdown::Shutdown};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{App, StateError, state::StateDir};
use crate::{
    admin::{self, Bound, Phase, Progress, Served, Stop},
    data_path::DataPath,
    registration,
    report::Reporter,
    settings::Settings,
};

/// For each of the workers that are cut short, the last figures, tasks that were told to stop, and the log.
const LAST: Duration = Duration::from_secs(1);

/// How long the process may be there after it was forced to end: what is above, the last lines of the log, and a little more.
pub const FAREWELL: Duration = Duration::from_millis(5_500);

/// How long all of a stop may take.
pub fn shutdown_deadline(settings: &Settings) -> Duration {
    settings.drain.withdrawal.saturating_add(settings.drain.timeout).saturating_add(LAST)
}

/// Makes the admin socket: who asks there waits until it is served.
pub(super) fn bind(state: &StateDir) -> Result<Bound, StateError> {
    let path = admin::socket(state.path());
    Bound::bind(&path).map_err(|source| StateError::File { path, source })
}

/// Serves the admin socket; what is sent to the result is told there.
pub(super) fn serve(
    bound: Bound,
    data_path: &DataPath,
    shutdown: &Shutdown,
    (end, tasks): (&CancellationToken, &TaskTracker),
) -> watch::Sender<Progress> {
    let (sender, progress) = watch::channel(Progress::RUNNING);
    let stop = Stop { shutdown: shutdown.clone(), progress, open: data_path.open() };
    tasks.spawn(bound.serve(Served { stop, end: end.clone(), tasks: tasks.clone() }));
    sender
}

impl App {
    /// Stops. A second signal cuts it short.
    pub(super) async fn end(
        self,
        registration: Option<registration::Running>,
        reporter: Option<Reporter>,
    ) -> Exit {
        let Self { settings, mut data_path, access_log, health, shutdown, progress, stop, tasks, .. } = self;
        let (forced, open) = (shutdown.forced().clone(), data_path.open());
        let tell = |now: Progress| {
            let _nobody_asks = progress.send_replace(now);
        };
        let work = async {
            // Ready still: callers that have not heard yet are served as ever.
            if let Some(registration) = registration {
                tell(Progress::of(Phase::Withdrawing));
                registration.withdraw(settings.drain.withdrawal).await;
            }
            tell(Progress::of(Phase::Draining));
            health.set_not_ready("draining");
            data_path.drain(settings.drain.timeout).await.cut
        };
        let cut = tokio::select! {
            biased;
            cut = work => Some(cut),
            () = forced.cancelled() => None,
        };
        let exit = match cut {
            Some(0) => Exit::Success,
            Some(connections) => {
                tracing::warn!(connections, "cut off at the end of drain.timeout");
                Exit::Forced
            }
            None => Exit::Forced,
        };
        tell(Progress { phase: Phase::Drained, cut: cut.unwrap_or_else(|| open.count()) });
        if cut.is_none() {
            data_path.end(LAST).await;
        }
        if let Some(reporter) = reporter {
            reporter.finish(LAST).await;
        }
        stop.cancel();
        tasks.close();
        if timeout(LAST, tasks.wait()).await.is_err() {
            tracing::debug!("some tasks did not end in time");
        }
        if let Some(log) = access_log {
            log.flush(LAST);
        }
        tracing::info!(code = exit.code(), "stopped");
        exit
    }
}
