//! The audit log's chain: each record carries the hash of the one before it, so that a record cannot be changed, taken
//! out or slipped in without every later hash telling. Written by the control plane, checked by it and by the operator's
//! command alike.

use outrigger_proto::policy::v1alpha1::AuditRecord;
use prost::Message;

/// SHA-256 of some pieces, one after the other: this crate has no cryptography of its own.
pub type Sha256 = fn(&[&[u8]]) -> [u8; 32];

/// The log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A record cannot be decoded.
    #[error("audit record {sequence} cannot be read")]
    Undecodable {
        /// Which.
        sequence: u64,
    },
    /// A record is missing, or stands where another should.
    #[error("audit record {found} stands where {expected} should")]
    Gap {
        /// The sequence number that comes next.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// A record was changed after it was written.
    #[error("audit record {sequence} does not match its hash")]
    Hash {
        /// Which.
        sequence: u64,
    },
}

/// The end of a chain: what the next record builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    sequence: u64,
    hash: Vec<u8>,
}

impl Head {
    /// The end of the empty chain: a hash of zeros.
    pub fn start() -> Self {
        Self { sequence: 0, hash: vec![0; 32] }
    }

    /// The end of a chain whose last record is `record`.
    pub fn of(record: &AuditRecord) -> Self {
        Self { sequence: record.sequence, hash: record.hash.clone() }
    }

    /// The number of the last record; 0 of the empty chain.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The hash of the last record, and so of all before it.
    pub fn hash(&self) -> &[u8] {
        &self.hash
    }

    /// `record` as the one that comes next: numbered and hashed.
    #[must_use]
    pub fn next(&self, record: AuditRecord, sha256: Sha256) -> AuditRecord {
        let mut record = AuditRecord { sequence: self.sequence + 1, hash: Vec::new(), ..record };
        record.hash = self.hash_of(&record, sha256);
        record
    }

    /// Checks that `record` comes next, and moves on to it.
    ///
    /// # Errors
    /// It does not.
    pub fn follow(&self, record: &AuditRecord, sha256: Sha256) -> Result<Self, Broken> {
        if record.sequence != self.sequence + 1 {
            return Err(Broken::Gap { expected: self.sequence + 1, found: record.sequence });
        }
        if record.hash != self.hash_of(record, sha256) {
            return Err(Broken::Hash { sequence: record.sequence });
        }
        Ok(Self::of(record))
    }

    /// sha256(hash of the record before, the record without its hash). Fields are encoded in the order of their
    /// numbers, so that equal records have equal bytes.
    fn hash_of(&self, record: &AuditRecord, sha256: Sha256) -> Vec<u8> {
        let bare = AuditRecord { hash: Vec::new(), ..record.clone() };
        sha256(&[&self.hash, &bare.encode_to_vec()]).to_vec()
    }
}

/// Decodes the record stored under `sequence`.
///
/// # Errors
/// It is not a record, or that of another number.
pub fn decode(sequence: u64, bytes: &[u8]) -> Result<AuditRecord, Broken> {
    let record = AuditRecord::decode(bytes).map_err(|_not_a_record| Broken::Undecodable { sequence })?;
    if record.sequence == sequence {
        Ok(record)
    } else {
        Err(Broken::Gap { expected: sequence, found: record.sequence })
    }
}
