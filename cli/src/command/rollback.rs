//! `rollback`: an earlier revision's content as a new revision.

use clap::ValueEnum;
use outrigger_proto::policy::v1alpha1::ObjectRef;

use super::{apply, diff, get};
use crate::{
    args::{Format, Global, KindArg, RollbackArgs},
    connect::{ControlPlane, RollingBack},
    failure::Failure,
    output::Output,
};

/// Goes back with one object or all; in a dry run, shows what would change.
pub(crate) async fn run(global: &Global, output: &Output, args: RollbackArgs) -> Result<(), Failure> {
    let object = match &args.object {
        Some(named) => Some(reference(named, &args.namespace)?),
        None => None,
    };
    let control_plane = ControlPlane::new(global)?;
    let back = RollingBack { object, to: args.to, unchanged_since: args.unchanged_since, write: &args.write };
    let written = control_plane.rollback(back).await?;
    if args.write.dry_run && output.format() == Format::Table {
        let found = diff::differences(written.results.clone())?;
        output.print(diff::text(&found).trim_end())?;
    }
    if written.results.is_empty() {
        output.note(&format!("everything is as it was at revision {} already", args.to));
    }
    apply::finish(&control_plane, output, &args.write, written).await
}

/// `route/price`, `route/demo/price`.
fn reference(named: &str, namespace: &str) -> Result<ObjectRef, Failure> {
    let wrong =
        || Failure::Usage(format!("'{named}' names no object: write KIND/NAME, such as route/demo/price"));
    let (kind, name) = named.split_once('/').ok_or_else(wrong)?;
    let kind = KindArg::from_str(kind, true).map_err(|_unknown| wrong())?;
    get::reference(kind.into(), name, Some(namespace)).map(|reference| ObjectRef::from(&reference))
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::view;

    #[test]
    fn an_object_is_named_by_kind_and_name() {
        let text = |named| reference(named, "default").map(|found| view::reference(&found)).ok();
        assert_eq!(text("route/price").as_deref(), Some("Route default/price"));
        assert_eq!(text("Route/demo/price").as_deref(), Some("Route demo/price"));
        assert_eq!(text("svc/demo/price").as_deref(), Some("Service demo/price"));
        assert_eq!(text("price"), None);
        assert_eq!(text("thing/price"), None);
    }
}
