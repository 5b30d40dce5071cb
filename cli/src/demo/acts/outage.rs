//! The control plane is killed with `kill -9` and started again: traffic does not notice, and the mesh goes on with the
//! state that it had.

use std::time::Duration;

use crate::{
    demo::{
        books::Books,
        mesh::{CONTROL_PLANE, MEMBERS, NAMESPACE},
        stage::{Act, Judged, Stage, failed, seconds},
    },
    failure::Failure,
};

/// When it is killed.
const AT: Duration = Duration::from_secs(1);
/// For how long it is gone.
const GONE: Duration = Duration::from_secs(3);
/// How long the proxies may take to say what they run.
const CONVERGE: Duration = Duration::from_secs(20);

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Outage {
    killed: Duration,
    started: Duration,
    /// Every workload was connected again.
    connected: Result<Duration, String>,
    /// How many proxies run which revision.
    applied: Result<(u32, u64), Failure>,
}

impl Outage {
    /// Kills it, and starts it again.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        stage.at(AT).await;
        stage.say("kill -9: the control plane")?;
        let killed = stage.now();
        stage.kill(&[CONTROL_PLANE]).await?;
        stage.at(killed + GONE).await;
        stage.say("the control plane is started again, with its state directory")?;
        let started = stage.now();
        stage.mesh.start_control_plane(stage.stack).await?;
        let connected = stage
            .until("not every workload came back", async |stage: &Stage<'_>| {
                let workloads = stage.mesh.control_plane.workloads(NAMESPACE).await?;
                let back = workloads.iter().filter(|workload| workload.connected).count();
                Ok((back == MEMBERS.len()).then_some(()))
            })
            .await?;
        let converged = stage.mesh.control_plane.converge(0, CONVERGE).await;
        let applied = converged.map(|converged| (converged.current, converged.revision));
        Ok(Self { killed, started, connected, applied })
    }
}

impl Act for Outage {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let gone = seconds(self.started.saturating_sub(self.killed));
        let back = match (&self.connected, &self.applied) {
            (Ok(connected), Ok((proxies, revision))) => {
                let took = seconds(connected.saturating_sub(self.started));
                let seen = format!("{proxies} of {} run revision {revision} after {took}", MEMBERS.len());
                if usize::try_from(*proxies) == Ok(MEMBERS.len()) { Ok(seen) } else { Err(seen) }
            }
            (Err(what), _) => Err(what.clone()),
            (_, Err(failure)) => Err(format!("{failure}: {}", failure.details().join("; "))),
        };
        vec![
            (
                format!("outage: nothing failed without a control plane for {gone}"),
                failed(books, self.killed, self.started),
            ),
            ("outage: it came back with its state, and every proxy to it".to_owned(), back),
        ]
    }
}
