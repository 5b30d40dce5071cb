//! A canary grows under load: the split before it, the proof that every proxy applied it, and the split after.

use std::time::Duration;

use crate::{
    connect::ControlPlane,
    demo::{
        books::Books,
        mesh,
        split::Bound,
        stage::{Act, Judged, Stage},
    },
    duration::latency,
    failure::Failure,
    view,
};

/// When it is pushed: enough came before to judge the split as it was.
const AT: Duration = Duration::from_secs(4);
/// How long the push may take until every proxy has applied it.
const CONVERGE: Duration = Duration::from_secs(10);

/// How it went.
#[derive(Debug)]
pub(crate) struct Canary {
    /// When the push was called, since the start of the phase.
    called: Duration,
    applied: Result<Applied, Failure>,
}

#[derive(Debug, Clone, Copy)]
struct Applied {
    /// When every proxy had applied it, since the start of the phase.
    at: Duration,
    /// From the commit to the last proxy, milliseconds.
    spread: f64,
    /// The proxies that it concerned.
    proxies: u32,
}

impl Canary {
    /// Pushes it.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        stage.at(AT).await;
        stage.say("outrigger apply --wait -f canary.yaml: price is split 50/50")?;
        let called = stage.now();
        let pushed = push(&stage.mesh.control_plane).await;
        let at = stage.now();
        let applied = pushed.map(|(spread, proxies)| Applied { at, spread, proxies });
        Ok(Self { called, applied })
    }
}

async fn push(control_plane: &ControlPlane) -> Result<(f64, u32), Failure> {
    let canary = mesh::documents("canary.yaml", include_str!("../canary.yaml"))?;
    let response = control_plane.apply(&canary, false).await?;
    let convergence = control_plane.converge(response.revision, CONVERGE).await?;
    if convergence.targeted == 0 {
        return Err(Failure::refused("the push concerned no proxy", ""));
    }
    Ok((view::milliseconds(convergence.elapsed), convergence.targeted))
}

impl Act for Canary {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let applied = match &self.applied {
            Ok(applied) => Ok(format!(
                "{} proxies, {} after the call, {} after the commit",
                applied.proxies,
                latency(Some(applied.at.saturating_sub(self.called))),
                latency(Duration::try_from_secs_f64(applied.spread / 1e3).ok()),
            )),
            Err(failure) => Err(format!("{failure}: {}", failure.details().join("; "))),
        };
        let mut judged = vec![
            split("canary", books, Duration::ZERO, self.called, 0.10),
            ("canary: the push was applied everywhere".to_owned(), applied),
        ];
        if let Ok(applied) = &self.applied {
            judged.push(split("canary", books, applied.at, Duration::MAX, 0.50));
        }
        judged
    }
}

/// Holds what v2 answered in a time to its weight.
pub(super) fn split(act: &str, books: &Books, from: Duration, to: Duration, weight: f64) -> Judged {
    let (all, canary) = books.share(from, to, "price-", "price-v2");
    let bound = Bound::new(all, weight);
    let percent = f64::from(canary) * 100.0 / f64::from(all.max(1));
    let seen =
        format!("v2 answered {canary} of {all} = {percent:.1} %; bound {} to {}", bound.low, bound.high);
    let found = if all > 0 && bound.contains(canary) { Ok(seen) } else { Err(seen) };
    (format!("{act}: the split is {:.0}/{:.0}", 100.0 - weight * 100.0, weight * 100.0), found)
}
