//! `backup`: what must not be lost, from the running control plane to a file. It holds the authority's keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
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
    let failed_to_make = |error| Failure::io(format!("cannot make {}", args.file.display()), error);
    if args.file.try_exists().map_err(failed_to_make)? {
        return Err(Failure::refused(
            format!("{} exists already", args.file.display()),
            "give the backup another name, or move that file away: none is overwritten",
        ));
    }
    let part = part(&args.file);
    let mut file = create(&part).map_err(failed_to_make)?;
    let mut bytes = 0;
    let copied = control_plane
        .backup(|piece| {
            bytes += piece.len();
            file.write_all(piece).map_err(failed)
        })
        .await;
    let whole = copied.and_then(|()| file.sync_all().map_err(failed));
    if let Err(failure) = whole.and_then(|()| publish(&part, &args.file).map_err(failed)) {
        let _gone = fs::remove_file(&part);
        return Err(failure);
    }
    output.note(&format!(
        "{}: {bytes} bytes. It holds the mesh's private keys, not encrypted: whoever reads it is the mesh's authority",
        args.file.display()
    ));
    Ok(())
}

/// Where it is written. Half a backup is none, and would be taken for one: it gets its name when it is whole, whatever ends
/// this process before.
fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Makes the file anew: what an earlier call left may be open to others.
fn create(part: &Path) -> io::Result<File> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)
}

/// Gives the backup its name, and makes the name durable.
fn publish(part: &Path, path: &Path) -> io::Result<()> {
    fs::rename(part, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
