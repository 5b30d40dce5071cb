//! `diff`: what an `apply` of the same files would change, as the control plane works it out, shown as documents.

use outrigger_core::{
    model::{Metadata, Object},
    policy,
};
use outrigger_proto::policy::v1alpha1 as proto;
use serde::Serialize;
use similar::TextDiff;

use super::get;
use crate::{
    args::{DiffArgs, Format, Global},
    connect::{Applying, ControlPlane},
    document,
    failure::Failure,
    output::Output,
    view,
};

/// Lines of context around a difference.
const CONTEXT: usize = 3;

/// One object that would change.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Difference {
    /// `Route demo/price`
    object: String,
    /// `created`, `updated`, `deleted`
    action: &'static str,
    /// Unified, of the two documents.
    diff: String,
}

/// What programs read.
#[derive(Debug, Serialize)]
struct Differences<'a> {
    differences: &'a [Difference],
}

/// Shows what would change. Its exit code is that of `diff`: whatever is refused is above 1.
pub(crate) async fn run(global: &Global, output: &Output, args: DiffArgs) -> Result<(), Failure> {
    let found = look(global, args).await.map_err(|failure| Failure::Incomparable(Box::new(failure)))?;
    match output.format() {
        Format::Table => output.print(text(&found).trim_end())?,
        Format::Json | Format::Yaml => output.document(&Differences { differences: &found })?,
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::Different) }
}

async fn look(global: &Global, args: DiffArgs) -> Result<Vec<Difference>, Failure> {
    let objects = document::read(&args.file)?;
    let control_plane = ControlPlane::new(global)?;
    let applying = Applying { objects: &objects, set: &args.set, dry_run: true, message: "" };
    differences(control_plane.apply_with(applying).await?.results)
}

/// The objects that a dry run would change, and how.
pub(crate) fn differences(results: Vec<proto::ItemResult>) -> Result<Vec<Difference>, Failure> {
    let mut found = Vec::new();
    for result in results {
        if result.before.is_none() && result.after.is_none() {
            continue;
        }
        let [before, after] = [&result.before, &result.after]
            .map(|object| object.as_ref().map_or(Ok(String::new()), |object| get::decode(object).map(plain)));
        let (before, after) = (before?, after?);
        let change = view::Change::new(result);
        let lines = TextDiff::from_lines(&before, &after);
        let names = (format!("live/{}", change.object), format!("new/{}", change.object));
        let diff = lines.unified_diff().context_radius(CONTEXT).header(&names.0, &names.1).to_string();
        found.push(Difference { object: change.object, action: change.action, diff });
    }
    Ok(found)
}

/// All differences, one after the other.
pub(crate) fn text(found: &[Difference]) -> String {
    found.iter().map(|difference| difference.diff.as_str()).collect()
}

/// What its author wrote, without what the control plane added.
fn plain(object: Object) -> String {
    let Metadata { namespace, name, labels, annotations, .. } = object.metadata;
    let metadata = Metadata {
        labels,
        annotations,
        revision: 0,
        generation: 0,
        created: None,
        updated: None,
        updated_by: String::new(),
        uid: String::new(),
        namespace,
        name,
    };
    policy::to_yaml(&Object { metadata, spec: object.spec, conditions: Vec::new() })
}
