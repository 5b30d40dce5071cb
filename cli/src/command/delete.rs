//! `delete`.

use outrigger_proto::policy::v1alpha1::ObjectRef;

use super::{apply, get};
use crate::{
    args::{DeleteArgs, Global},
    connect::ControlPlane,
    document,
    failure::Failure,
    output::Output,
};

/// Deletes what was named, or what the documents name, in one call.
pub(crate) async fn run(global: &Global, output: &Output, args: DeleteArgs) -> Result<(), Failure> {
    let references = match args.kind {
        Some(named) => named
            .all(&args.name)?
            .into_iter()
            .map(|(kind, name)| {
                get::reference(kind.into(), &name, Some(&args.namespace)).map(|own| ObjectRef::from(&own))
            })
            .collect::<Result<Vec<_>, _>>()?,
        None => {
            document::read(&args.file)?.iter().map(|sourced| ObjectRef::from(&sourced.reference())).collect()
        }
    };
    let control_plane = ControlPlane::new(global)?;
    let written = control_plane.delete(references, &args.write).await?;
    apply::finish(&control_plane, output, &args.write, written).await
}
