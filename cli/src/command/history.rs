//! `history`: who changed what and when, newest first.

use std::time::SystemTime;

use outrigger_core::policy;
use outrigger_proto::policy::v1alpha1::{self as proto, ObjectRef};
use serde::Serialize;

use super::get;
use crate::{
    args::{Global, HistoryArgs},
    connect::ControlPlane,
    duration,
    failure::Failure,
    output::{Colour, Output},
    view,
};

/// What programs read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct History {
    /// The oldest revision that can be gone back to.
    oldest: u64,
    /// Newest first.
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    revision: u64,
    at: Option<String>,
    by: String,
    method: String,
    message: String,
    /// What a revision of the store changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Change>,
    /// Of one object.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip)]
    instant: Option<SystemTime>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    object: String,
    action: &'static str,
}

impl Version {
    fn new(version: proto::Version) -> Self {
        let changes = version.results.into_iter().map(|result| {
            let view::Change { object, action, .. } = view::Change::new(result);
            Change { object, action }
        });
        Self {
            revision: version.revision,
            at: view::rfc3339(version.at.as_ref()),
            by: version.principal,
            method: version.method,
            message: version.message,
            changes: changes.filter(|change| change.action != "unchanged").collect(),
            // One that this version cannot read is there all the same.
            document: version
                .object
                .and_then(|object| get::decode(&object).ok())
                .map(|object| policy::to_json(&object)),
            deleted: version.deleted,
            instant: view::instant(version.at.as_ref()),
        }
    }
}

/// Shows the versions of one object, or the revisions of the store.
pub(crate) async fn run(global: &Global, output: &Output, args: HistoryArgs) -> Result<(), Failure> {
    let reference = match &args.kind {
        Some(named) => {
            let name = named.one(args.name.as_ref())?.ok_or_else(|| {
                Failure::Usage("there is no name: write KIND/NAME, such as route/demo/price".to_owned())
            })?;
            Some(ObjectRef::from(&get::reference(named.kind.into(), &name, Some(&args.namespace))?))
        }
        None => None,
    };
    let of_object = reference.is_some();
    let found = ControlPlane::new(global)?.history(reference, args.limit).await?;
    let more = found.next > 0;
    // Before the first revision there is nothing to go back to.
    let oldest = found.oldest.max(1);
    let history = History { oldest, versions: found.versions.into_iter().map(Version::new).collect() };
    output.result(&history, || people(output, &history, of_object, SystemTime::now()))?;
    if more {
        output.note("there is more: --limit");
    }
    Ok(())
}

fn people(output: &Output, history: &History, of_object: bool, now: SystemTime) -> String {
    if history.versions.is_empty() {
        return output.paint(Colour::Dim, "no change is remembered");
    }
    let rows = history.versions.iter().map(|version| {
        let what = match (of_object, version.deleted) {
            (true, true) => "deleted".to_owned(),
            (true, false) => view::call(&version.method),
            (false, _) => changes(&version.changes),
        };
        let row = [
            version.revision.to_string(),
            duration::age(version.instant, now),
            view::operator(&version.by),
            what,
        ];
        row.into_iter().chain([version.message.clone()]).collect()
    });
    let table = output.table(&["REVISION", "AGE", "BY", "WHAT", "MESSAGE"], rows.collect(), &[0]);
    format!("{table}\nthe oldest revision to go back to is {}", history.oldest)
}

/// `Route demo/price updated`, and how many more.
fn changes(changes: &[Change]) -> String {
    match changes {
        [] => "-".to_owned(),
        [one] => format!("{} {}", one.object, one.action),
        [first, rest @ ..] => format!("{} {} and {} more", first.object, first.action, rest.len()),
    }
}
