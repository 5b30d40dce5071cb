//! The canary is taken back under load: `outrigger rollback`, the proof that every proxy applied it, and the split after
//! it, whatever else the phase does to the endpoints.

use std::time::Duration;

use serde::Deserialize;

use super::canary::split;
use crate::{
    demo::{
        books::Books,
        stage::{Act, Judged, Stage},
    },
    duration::latency,
    failure::Failure,
};

/// When.
const AT: Duration = Duration::from_millis(300);

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Rollback {
    called: Duration,
    /// When the command had ended, and what it printed.
    done: Result<(Duration, Written), String>,
}

/// `outrigger rollback --wait -o json`.
#[derive(Debug, Deserialize)]
struct Written {
    revision: u64,
    applied: Spread,
}

#[derive(Debug, Deserialize)]
struct Spread {
    proxies: u32,
    /// From the commit to the last proxy.
    milliseconds: f64,
}

impl Rollback {
    /// Takes the route back to what it was at the revision that the mesh began with.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        let to = stage.mesh.revision.to_string();
        stage.at(AT).await;
        stage.say(&format!("outrigger rollback --wait route/demo/price --to {to}"))?;
        let called = stage.now();
        let printed =
            stage.outrigger(&["rollback", "--wait", "route/demo/price", "--to", &to, "-o", "json"]).await;
        let at = stage.now();
        let done = printed.and_then(|text| {
            let written = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            Ok((at, written))
        });
        Ok(Self { called, done })
    }
}

impl Act for Rollback {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let applied = self.done.as_ref().map_err(String::clone).and_then(|(at, written)| {
            let seen = format!(
                "revision {}, {} proxies, {} after the call, {} after the commit",
                written.revision,
                written.applied.proxies,
                latency(Some(at.saturating_sub(self.called))),
                latency(Duration::try_from_secs_f64(written.applied.milliseconds / 1e3).ok()),
            );
            // Nobody to apply it would be nothing rolled back.
            if written.applied.proxies > 0 { Ok(seen) } else { Err(seen) }
        });
        let mut judged = vec![("rollback: it was applied everywhere".to_owned(), applied)];
        if let Ok((at, _)) = self.done {
            judged.push(split("rollback", books, at, Duration::MAX, 0.10));
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::{Act, Duration, Rollback, Spread, Written};
    use crate::demo::books::{
        Books,
        tests::{books, sent, served},
    };

    /// A thousand requests, of which every so many went to v2.
    fn one_in(every: u64) -> Books {
        let name = |id: u64| if id.is_multiple_of(every) { "price-v2" } else { "price-v1-a" };
        let requests: Vec<_> = (0..1_000).map(|id| sent(id, Ok(name(id)))).collect();
        let log: Vec<_> = (0..1_000).map(|id| served(id, name(id))).collect();
        books(&requests, &log)
    }

    fn kept(proxies: u32, books: &Books) -> Vec<bool> {
        let written = Written { revision: 3, applied: Spread { proxies, milliseconds: 12.5 } };
        let act = Rollback { called: Duration::from_secs(1), done: Ok((Duration::from_secs(2), written)) };
        act.judge(books).iter().map(|(_, found)| found.is_ok()).collect()
    }

    #[test]
    fn a_rollback_must_reach_a_proxy_and_bring_the_old_split_back() {
        assert_eq!(kept(1, &one_in(10)), [true, true]);
        assert_eq!(kept(1, &one_in(2)), [true, false], "it is still the canary's");
        assert_eq!(kept(0, &one_in(10)), [false, true], "nobody applied it");
        let refused = Rollback { called: Duration::ZERO, done: Err("exit status: 1".to_owned()) };
        assert!(refused.judge(&one_in(10)).iter().all(|(_, found)| found.is_err()));
    }
}
