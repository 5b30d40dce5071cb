//! An instance is stopped as a rollout stops it: its sidecar withdraws it, finishes what is under way, and ends; then
//! the application is stopped. Nothing is lost, and nothing is excused.

use std::{process::ExitStatus, time::Duration};

use rustix::process::Signal;

use super::kill::back_again;
use crate::{
    demo::{
        books::Books,
        mesh::{Member, PRICE_V1_A},
        stage::{Act, Judged, Stage, failed, seconds},
    },
    failure::Failure,
};

/// The one that is stopped.
const VICTIM: &Member = &PRICE_V1_A;
/// When, at the earliest.
const AT: Duration = Duration::from_secs(5);
/// For how long it is gone.
const GONE: Duration = Duration::from_secs(1);
/// Requests that it has to serve to be back.
const BACK: usize = 5;

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Drain {
    told: Duration,
    ended: Duration,
    status: ExitStatus,
    started: Duration,
    back: Result<Duration, String>,
}

impl Drain {
    /// Stops it, and starts it again.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        stage.at(AT).await;
        stage.say(&format!("SIGTERM: {} is drained", VICTIM.name))?;
        let told = stage.now();
        stage.stack.process(VICTIM.sidecar)?.signal(Signal::TERM)?;
        let status = stage.stack.process(VICTIM.sidecar)?.gone().await?;
        let ended = stage.now();
        stage.stack.process(VICTIM.name)?.signal(Signal::TERM)?;
        stage.stack.process(VICTIM.name)?.gone().await?;
        stage.at(ended + GONE).await;
        stage.say(&format!("{} is started again", VICTIM.name))?;
        let started = stage.now();
        stage.mesh.start(stage.stack, VICTIM).await?;
        let back = stage.serves(VICTIM, BACK).await?;
        Ok(Self { told, ended, status, started, back })
    }
}

impl Act for Drain {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let took = seconds(self.ended.saturating_sub(self.told));
        let lost = failed(books, self.told, Duration::MAX);
        let left = match (self.status.success(), lost) {
            (true, Ok(seen)) => Ok(format!("{seen}; its sidecar ended by itself after {took}")),
            (_, Ok(seen) | Err(seen)) => {
                Err(format!("{seen}; its sidecar ended with {} after {took}", self.status))
            }
        };
        vec![
            ("drain: nothing failed".to_owned(), left),
            back_again("drain", VICTIM, self.started, &self.back),
        ]
    }
}
