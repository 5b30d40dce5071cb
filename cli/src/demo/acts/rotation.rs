//! Everything that vouches for anybody is replaced under load: `outrigger authority rotate` walks the steps of a new
//! root, with its intermediate and every workload's certificate, each when it takes nobody's peer away.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    demo::{
        books::Books,
        stage::{Act, Judged, Stage, failed, seconds},
    },
    failure::Failure,
};

/// When.
const AT: Duration = Duration::from_millis(500);
/// Characters of a key's hash that are shown.
const SHOWN: usize = 8;

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Rotation {
    begun: Duration,
    ended: Duration,
    /// What signed before, and what signs after.
    signers: Result<[Signers; 2], String>,
}

/// `outrigger authority status -o json`.
#[derive(Debug, Deserialize)]
struct Signers {
    root: Authority,
    intermediate: Authority,
    /// A rotation under way.
    rotation: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Authority {
    key_sha256: String,
}

impl Rotation {
    /// Replaces the root. In haste: those that show a certificate of the old one get a new one at once.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        stage.at(AT).await;
        stage.say("outrigger authority rotate --root --force: a new root, intermediate, certificates")?;
        let begun = stage.now();
        let signers = rotate(stage).await;
        let ended = stage.now();
        stage.mesh.reconnect()?;
        Ok(Self { begun, ended, signers })
    }
}

async fn rotate(stage: &Stage<'_>) -> Result<[Signers; 2], String> {
    let before = signers(stage).await?;
    stage.outrigger(&["authority", "rotate", "--root", "--force", "--timeout", "20s"]).await?;
    Ok([before, signers(stage).await?])
}

async fn signers(stage: &Stage<'_>) -> Result<Signers, String> {
    let text = stage.outrigger(&["authority", "status", "-o", "json"]).await?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

impl Act for Rotation {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let took = seconds(self.ended.saturating_sub(self.begun));
        let replaced = self.signers.as_ref().map_err(String::clone).and_then(|[before, after]| {
            let shown = |authority: &Authority| authority.key_sha256.chars().take(SHOWN).collect::<String>();
            let seen = format!(
                "root {} -> {}, intermediate {} -> {}",
                shown(&before.root),
                shown(&after.root),
                shown(&before.intermediate),
                shown(&after.intermediate)
            );
            let all = before.root != after.root && before.intermediate != after.intermediate;
            if all && after.rotation.is_none() { Ok(seen) } else { Err(seen) }
        });
        vec![
            (
                format!("rotation: nothing failed in the {took} of it, nor after"),
                failed(books, self.begun, Duration::MAX),
            ),
            ("rotation: nothing hangs on the old ones any more".to_owned(), replaced),
        ]
    }
}
