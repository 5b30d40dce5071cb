//! The audit log: who changed what and when, and who was refused. Each record carries the hash of the one before it, so
//! that a record cannot be changed, taken out or slipped in without every later hash telling.

use std::time::SystemTime;

use aws_lc_rs::digest;
use outrigger_proto::policy::v1alpha1::{AuditRecord, ItemResult, item_result::Action};
use prost::Message;

/// What is known of a call before it is written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// When.
    pub at: SystemTime,
    /// SPIFFE ID of the caller, or `anonymous`.
    pub principal: String,
    /// The caller's address; empty for the control plane itself.
    pub peer: String,
    /// `policy.Apply`, `identity.CreateToken`, ...
    pub method: &'static str,
    /// Whether it was refused.
    pub denied: bool,
    /// The reason of a refusal, or the caller's message.
    pub message: String,
    /// What changed. The revision of what was created or updated is filled in by the write.
    pub results: Vec<ItemResult>,
}

impl Draft {
    /// A record of something that the control plane does of its own accord.
    pub fn own(at: SystemTime, principal: &str, method: &'static str, message: impl Into<String>) -> Self {
        Self {
            at,
            principal: principal.to_owned(),
            peer: String::new(),
            method,
            denied: false,
            message: message.into(),
            results: Vec::new(),
        }
    }
}

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
        Self { sequence: 0, hash: vec![0; digest::SHA256_OUTPUT_LEN] }
    }

    /// The end of a chain whose last record is `record`.
    pub fn of(record: &AuditRecord) -> Self {
        Self { sequence: record.sequence, hash: record.hash.clone() }
    }

    /// The record that comes next.
    pub fn next(&self, draft: &Draft, revision: u64) -> AuditRecord {
        let mut results = draft.results.clone();
        for result in &mut results {
            if matches!(result.action(), Action::Created | Action::Updated) {
                result.revision = revision;
            }
        }
        let mut record = AuditRecord {
            sequence: self.sequence + 1,
            at: Some(draft.at.into()),
            principal: draft.principal.clone(),
            peer: draft.peer.clone(),
            method: draft.method.to_owned(),
            revision,
            denied: draft.denied,
            message: draft.message.clone(),
            results,
            hash: Vec::new(),
        };
        record.hash = self.hash_of(&record);
        record
    }

    /// Checks that `record` comes next, and moves on to it.
    ///
    /// # Errors
    /// It does not.
    pub fn follow(&self, record: &AuditRecord) -> Result<Self, Broken> {
        if record.sequence != self.sequence + 1 {
            return Err(Broken::Gap { expected: self.sequence + 1, found: record.sequence });
        }
        if record.hash != self.hash_of(record) {
            return Err(Broken::Hash { sequence: record.sequence });
        }
        Ok(Self::of(record))
    }

    /// sha256(hash of the record before, the record without its hash). Fields are encoded in the order of their
    /// numbers, so that equal records have equal bytes.
    fn hash_of(&self, record: &AuditRecord) -> Vec<u8> {
        let bare = AuditRecord { hash: Vec::new(), ..record.clone() };
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.hash);
        context.update(&bare.encode_to_vec());
        context.finish().as_ref().to_vec()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<AuditRecord> {
        let mut head = Head::start();
        let mut records = Vec::new();
        for (revision, message) in [(1, "first"), (0, "refused"), (2, "second")] {
            let mut draft = Draft::own(SystemTime::UNIX_EPOCH, "anonymous", "policy.Apply", message);
            draft.denied = revision == 0;
            let record = head.next(&draft, revision);
            head = Head::of(&record);
            records.push(record);
        }
        records
    }

    fn verify(records: &[AuditRecord]) -> Result<Head, Broken> {
        records.iter().try_fold(Head::start(), |head, record| head.follow(record))
    }

    #[test]
    fn an_untouched_chain_verifies() {
        assert_eq!(verify(&chain()).unwrap(), Head::of(&chain()[2]));
    }

    #[test]
    fn every_kind_of_tampering_is_found() {
        let mut changed = chain();
        changed[1].denied = false;
        assert_eq!(verify(&changed), Err(Broken::Hash { sequence: 2 }));

        let mut rehashed = chain();
        rehashed[0].message = "another".to_owned();
        rehashed[0].hash = Head::start().hash_of(&rehashed[0]);
        assert_eq!(verify(&rehashed), Err(Broken::Hash { sequence: 2 }), "the next record tells");

        let mut without = chain();
        without.remove(1);
        assert_eq!(verify(&without), Err(Broken::Gap { expected: 2, found: 3 }));

        let mut swapped = chain();
        swapped.swap(0, 1);
        assert_eq!(verify(&swapped), Err(Broken::Gap { expected: 1, found: 2 }));
    }
}
