//! The audit log: who changed what and when, and who was refused, as one chain of hashes ([`Head`]).

use std::time::SystemTime;

use aws_lc_rs::digest;
pub use outrigger_core::audit::{Broken, Head, decode};
use outrigger_proto::policy::v1alpha1::{AuditRecord, ItemResult, item_result::Action};

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

/// `draft` as the record after `head`, made by `revision`; 0 for a call that changed nothing.
pub fn next(head: &Head, draft: &Draft, revision: u64) -> AuditRecord {
    let mut results = draft.results.clone();
    for result in &mut results {
        if matches!(result.action(), Action::Created | Action::Updated) {
            result.revision = revision;
        }
        // Only dry runs show objects, and they leave no record.
        (result.before, result.after) = (None, None);
    }
    let record = AuditRecord {
        at: Some(draft.at.into()),
        principal: draft.principal.clone(),
        peer: draft.peer.clone(),
        method: draft.method.to_owned(),
        revision,
        denied: draft.denied,
        message: draft.message.clone(),
        results,
        ..AuditRecord::default()
    };
    head.next(record, sha256)
}

/// Checks that `record` comes after `head`, and moves on to it.
///
/// # Errors
/// It does not.
pub fn follow(head: &Head, record: &AuditRecord) -> Result<Head, Broken> {
    head.follow(record, sha256)
}

/// SHA-256 of `pieces`, one after the other.
pub fn sha256(pieces: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        context.update(piece);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
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
            let record = next(&head, &draft, revision);
            head = Head::of(&record);
            records.push(record);
        }
        records
    }

    fn verify(records: &[AuditRecord]) -> Result<Head, Broken> {
        records.iter().try_fold(Head::start(), |head, record| follow(&head, record))
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
        rehashed[0] = Head::start().next(rehashed[0].clone(), sha256);
        assert_eq!(verify(&rehashed), Err(Broken::Hash { sequence: 2 }), "the next record tells");

        let mut without = chain();
        without.remove(1);
        assert_eq!(verify(&without), Err(Broken::Gap { expected: 2, found: 3 }));

        let mut swapped = chain();
        swapped.swap(0, 1);
        assert_eq!(verify(&swapped), Err(Broken::Gap { expected: 1, found: 2 }));
    }
}
