//! A backup that can be read once only, as from a pipe: it is checked on its way into a file without a name, from which
//! it is then restored.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use outrigger_proto::backup::v1alpha1::Header;

use super::archive::{self, ReadError};

/// The copy's name, for as long as it takes to remove it.
const NAME: &str = "restore.input";

/// Copies the backup that comes out of `stream` into `directory`, and checks it as a whole; its header, and the copy at
/// its beginning. What is no backup is not read further than that shows. Blocks.
///
/// # Errors
/// It is not a whole backup, or cannot be copied.
pub(super) fn copy(stream: impl Read, directory: &Path) -> Result<(Header, File), ReadError> {
    let to = nameless(&directory.join(NAME)).map_err(|error| unwritten(&error))?;
    let mut copying = Copying { from: BufReader::new(stream), to: BufWriter::new(to) };
    let header = archive::check(&mut copying)?;
    let mut copy = copying.to.into_inner().map_err(|error| unwritten(error.error()))?;
    copy.rewind()?;
    Ok((header, copy))
}

/// A file that is gone with whoever has it open: there are keys in it.
fn nameless(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Writes down what is read from it.
struct Copying<R> {
    from: BufReader<R>,
    to: BufWriter<File>,
}

impl<R: Read> Read for Copying<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(bytes)?;
        self.to.write_all(bytes.get(..read).unwrap_or_default()).map_err(|error| unwritten(&error))?;
        Ok(read)
    }
}

/// It is not the backup's fault.
fn unwritten(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("its copy in the state directory cannot be written: {error}"))
}
