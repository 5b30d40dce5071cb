//! The canary is taken back under load: `outrigger rollback`, and proof that every proxy applied it.

use std::time::Duration;

use super::canary::split;
use crate::{
    demo::{
        books::Books,
        stage::{Act, Judged, Stage, seconds},
    },
    failure::Failure,
};

/// When.
const AT: Duration = Duration::from_millis(300);

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Rollback {
    called: Duration,
    /// The command had waited for every proxy.
    applied: Result<Duration, String>,
}

impl Rollback {
    /// Takes the route back to what it was at the revision `to`.
    pub(crate) async fn play(stage: &mut Stage<'_>, to: u64) -> Result<Self, Failure> {
        stage.at(AT).await;
        stage.say(&format!("outrigger rollback --wait route/demo/price --to {to}"))?;
        let called = stage.now();
        let to = to.to_string();
        let done = stage.outrigger(&["rollback", "--wait", "route/demo/price", "--to", &to]).await;
        let at = stage.now();
        Ok(Self { called, applied: done.map(|_printed| at) })
    }
}

impl Act for Rollback {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let applied = self.applied.clone();
        let mut judged = vec![(
            "rollback: it was applied everywhere".to_owned(),
            applied.map(|at| format!("the command waited {}", seconds(at.saturating_sub(self.called)))),
        )];
        if let Ok(at) = self.applied {
            judged.push(split("rollback", books, at, Duration::MAX, 0.10));
        }
        judged
    }
}
