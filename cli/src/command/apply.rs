//! `apply`: documents in, one revision out, and with `--wait` the proof that every proxy runs it.

use std::time::Duration;

use crate::{
    args::{ApplyArgs, Global, WriteArgs},
    connect::{Applying, ControlPlane, Written},
    document,
    failure::Failure,
    output::Output,
    view::{Applied, Change, Write},
};

/// Applies the documents of all files in one call.
pub(crate) async fn run(global: &Global, output: &Output, args: ApplyArgs) -> Result<(), Failure> {
    let objects = document::read(&args.file)?;
    let control_plane = ControlPlane::new(global)?;
    let applying = Applying {
        objects: &objects,
        set: &args.set,
        dry_run: args.write.dry_run,
        message: &args.write.message,
    };
    let written = control_plane.apply_with(applying).await?;
    finish(&control_plane, output, &args.write, written).await
}

/// Prints what became of each object, and waits for the proxies where that is wanted.
pub(crate) async fn finish(
    control_plane: &ControlPlane,
    output: &Output,
    write: &WriteArgs,
    written: Written,
) -> Result<(), Failure> {
    let mut shown = Write {
        revision: written.revision,
        dry_run: write.dry_run,
        results: written.results.into_iter().map(Change::new).collect(),
        applied: None,
    };
    let waited = if write.wait {
        control_plane.converge(shown.revision, write.timeout).await.map(Some)
    } else {
        Ok(None)
    };
    if let Ok(Some(convergence)) = &waited {
        shown.applied = Some(Applied::new(convergence));
    }
    for change in &shown.results {
        for warning in &change.warnings {
            output.warning(warning);
        }
    }
    // What was stored is told even when a proxy is behind.
    output.result(&shown, || people(&shown))?;
    waited.map(|_convergence| ())
}

fn people(shown: &Write) -> String {
    let mut lines: Vec<String> =
        shown.results.iter().map(|change| format!("{} {}", change.object, change.action)).collect();
    lines.push(match (&shown.applied, shown.dry_run) {
        (_, true) => "dry run: nothing was stored".to_owned(),
        (None, false) => format!("revision {}", shown.revision),
        (Some(applied), false) => format!(
            "revision {}: applied by {} {} in {}",
            shown.revision,
            applied.proxies,
            if applied.proxies == 1 { "proxy" } else { "proxies" },
            match crate::duration::latency(Some(Duration::from_secs_f64(applied.milliseconds / 1e3))).as_str()
            {
                "0" => "0ms",
                took => took,
            }
        ),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Applied, Change, Write, people};

    #[test]
    fn a_write_tells_each_object_and_how_it_spread() {
        let mut write = Write {
            revision: 7,
            dry_run: false,
            results: vec![Change {
                object: "Route demo/price".to_owned(),
                action: "updated",
                revision: 7,
                warnings: Vec::new(),
            }],
            applied: Some(Applied { proxies: 3, milliseconds: 12.34 }),
        };
        assert_eq!(people(&write), "Route demo/price updated\nrevision 7: applied by 3 proxies in 12.3ms");
        write.applied = Some(Applied { proxies: 1, milliseconds: 0.0 });
        assert!(people(&write).ends_with("applied by 1 proxy in 0ms"));
        write.dry_run = true;
        assert!(people(&write).ends_with("dry run: nothing was stored"));
    }
}
