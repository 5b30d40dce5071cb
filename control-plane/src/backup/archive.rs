//! The file's format: a line that says what it is, then records with their lengths, the last of which proves the others.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256};
use outrigger_proto::backup::v1alpha1::{Header, Record, Trailer, record::Kind};
use prost::Message;

/// The first line; its number is the format's version.
const MAGIC: &[u8] = b"outrigger-backup 1\n";
/// Longest record, bytes: no value of the store comes near.
const MAX_RECORD: usize = 64 << 20;
/// Bytes of a piece that is sent.
const PIECE: usize = 64 << 10;

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system says no.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("it is no backup of this version's format ('outrigger-backup 1')")]
    Magic,
    /// It ends too early.
    #[error("it is cut off; copy it anew, or use another")]
    Truncated,
    /// It is not what was written.
    #[error("it is damaged: {0}; copy it anew, or use another")]
    Damaged(&'static str),
}

/// Writes a backup in pieces.
pub(super) struct Writer {
    buffer: Vec<u8>,
    hash: Context,
    records: u64,
}

impl Writer {
    pub(super) fn new() -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(MAGIC);
        Self { buffer: MAGIC.to_vec(), hash, records: 0 }
    }

    /// Adds a record; a piece to be sent when there is enough.
    pub(super) fn add(&mut self, kind: Kind) -> Option<Vec<u8>> {
        let bytes = Record { kind: Some(kind) }.encode_length_delimited_to_vec();
        self.hash.update(&bytes);
        self.buffer.extend_from_slice(&bytes);
        self.records += 1;
        (self.buffer.len() >= PIECE).then(|| std::mem::take(&mut self.buffer))
    }

    /// The last piece.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let sha256 = self.hash.finish().as_ref().to_vec();
        let trailer = Record { kind: Some(Kind::Trailer(Trailer { records: self.records, sha256 })) };
        self.buffer.extend_from_slice(&trailer.encode_length_delimited_to_vec());
        self.buffer
    }
}

/// Reads a backup to its end and checks all of it; its header.
///
/// # Errors
/// It is not a whole backup.
pub(super) fn check(file: impl Read) -> Result<Header, ReadError> {
    let mut reader = Reader::new(file)?;
    let Some(Kind::Header(header)) = reader.next()? else {
        return Err(ReadError::Damaged("it does not begin with its header"));
    };
    while reader.next()?.is_some() {}
    Ok(header)
}

/// Reads the records of a backup.
pub(super) struct Reader<R> {
    file: R,
    hash: Context,
    records: u64,
    over: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(mut file: R) -> Result<Self, ReadError> {
        let mut magic = [0; MAGIC.len()];
        fill(&mut file, &mut magic).map_err(|error| match error {
            ReadError::Truncated => ReadError::Magic,
            other => other,
        })?;
        if magic != *MAGIC {
            return Err(ReadError::Magic);
        }
        let mut hash = Context::new(&SHA256);
        hash.update(MAGIC);
        Ok(Self { file, hash, records: 0, over: false })
    }

    /// The next record; `None` after the trailer, which was right.
    pub(super) fn next(&mut self) -> Result<Option<Kind>, ReadError> {
        if self.over {
            return Ok(None);
        }
        let (length, prefix) = self.length()?;
        let mut bytes = vec![0; length];
        fill(&mut self.file, &mut bytes)?;
        let record =
            Record::decode(bytes.as_slice()).map_err(|_garbled| ReadError::Damaged("a record is garbled"))?;
        match record.kind {
            Some(Kind::Trailer(trailer)) => {
                self.over = true;
                self.prove(&trailer)?;
                Ok(None)
            }
            Some(kind) => {
                self.hash.update(&prefix);
                self.hash.update(&bytes);
                self.records += 1;
                Ok(Some(kind))
            }
            None => Err(ReadError::Damaged("a record is of an unknown kind")),
        }
    }

    /// Length of the next record, and the bytes that say so.
    fn length(&mut self) -> Result<(usize, Vec<u8>), ReadError> {
        let mut prefix = Vec::new();
        loop {
            let mut byte = [0];
            fill(&mut self.file, &mut byte)?;
            prefix.extend_from_slice(&byte);
            if byte[0] & 0x80 == 0 {
                break;
            }
            if prefix.len() > 5 {
                return Err(ReadError::Damaged("a record's length is garbled"));
            }
        }
        let length = prost::decode_length_delimiter(prefix.as_slice())
            .map_err(|_garbled| ReadError::Damaged("a record's length is garbled"))?;
        if length > MAX_RECORD {
            return Err(ReadError::Damaged("a record is too long"));
        }
        Ok((length, prefix))
    }

    fn prove(&mut self, trailer: &Trailer) -> Result<(), ReadError> {
        if trailer.records != self.records || trailer.sha256 != self.hash.clone().finish().as_ref() {
            return Err(ReadError::Damaged("its content does not match its hash"));
        }
        if self.file.read(&mut [0])? > 0 {
            return Err(ReadError::Damaged("something follows its end"));
        }
        Ok(())
    }
}

fn fill(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), ReadError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Truncated,
        _ => ReadError::Io(error),
    })
}
