//! The control plane is killed with `kill -9` and started again: traffic does not notice, and the mesh goes on with the
//! state that it had. A proxy that is restarted meanwhile serves by the configuration and the credential that it has on
//! disk.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    demo::{
        books::Books,
        mesh::{CONTROL_PLANE, MEMBERS, Member, NAMESPACE, PRICE_V1_A},
        stage::{Act, Judged, Stage, failed, seconds},
    },
    failure::Failure,
};

/// How long after what came before it is killed.
const AFTER: Duration = Duration::from_millis(500);
/// For how long it is gone, at least.
const GONE: Duration = Duration::from_secs(3);
/// The one whose sidecar is restarted meanwhile.
const RESTARTED: &Member = &PRICE_V1_A;
/// How long after the control plane.
const RESTART: Duration = Duration::from_millis(500);
/// Requests that it has to serve to be back.
const BACK: usize = 5;
/// How long the proxies may take to say what they run.
const CONVERGE: Duration = Duration::from_secs(20);

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Outage {
    killed: Duration,
    /// The sidecar was started again.
    restarted: Duration,
    /// It served, without a control plane.
    served: Result<Duration, String>,
    started: Duration,
    /// Every workload was connected again.
    connected: Result<Duration, String>,
    /// How many proxies run which revision.
    applied: Result<(u32, u64), Failure>,
}

impl Outage {
    /// Kills it, and starts it again.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        stage.at(stage.now() + AFTER).await;
        stage.say("kill -9: the control plane")?;
        let killed = stage.now();
        stage.kill(&[CONTROL_PLANE]).await?;
        stage.at(killed + RESTART).await;
        stage.say(&format!("SIGTERM: the sidecar of {}, which is started again at once", RESTARTED.name))?;
        stage.stack.process(RESTARTED.sidecar)?.signal(Signal::TERM)?;
        stage.stack.process(RESTARTED.sidecar)?.gone().await?;
        let restarted = stage.now();
        stage.mesh.start_sidecar(stage.stack, RESTARTED).await?;
        let served = stage.serves(RESTARTED, BACK).await?;
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
        Ok(Self { killed, restarted, served, started, connected, applied })
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
            (
                format!("outage: the restarted sidecar of {} needed no control plane", RESTARTED.name),
                self.served.clone().map(|served| {
                    format!("it served after {}", seconds(served.saturating_sub(self.restarted)))
                }),
            ),
            ("outage: it came back with its state, and every proxy to it".to_owned(), back),
        ]
    }
}
