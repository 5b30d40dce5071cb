//! `backup`: what must not be lost, from the running control plane to a file. It holds the authority's keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::{
    args::{BackupArgs, Global},
    connect::ControlPlane,
    failure::Failure,
    output::Output,
};

/// Writes the backup to a new file, or to standard output.
pub(crate) async fn run(global: &Global, output: &Output, args: BackupArgs) -> Result<(), Failure> {
    let control_plane = ControlPlane::new(global)?;
    let failed = |error| Failure::io(format!("cannot write {}", args.file.display()), error);
    if args.file.as_os_str() == "-" {
        let mut stdout = io::stdout().lock();
        control_plane.backup(|piece| stdout.write_all(piece).map_err(failed)).await?;
        return stdout.flush().map_err(failed);
    }
    let mut file = create(&args.file)?;
    let mut bytes = 0;
    let copied = control_plane
        .backup(|piece| {
            bytes += piece.len();
            file.write_all(piece).map_err(failed)
        })
        .await;
    if let Err(failure) = copied.and_then(|()| file.sync_all().map_err(failed)) {
        // Half a backup is none, and would be taken for one.
        let _gone = fs::remove_file(&args.file);
        return Err(failure);
    }
    output.note(&format!(
        "{}: {bytes} bytes. It holds the mesh's private keys, not encrypted: whoever reads it is the mesh's authority",
        args.file.display()
    ));
    Ok(())
}

fn create(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| Failure::io(format!("cannot make {}", path.display()), error))
}
