//! `audit`: the record of every write and every refused call, and the proof that it is whole. The proof is made here, from
//! the records alone: the control plane's word is not taken for it.

use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use outrigger_core::audit::Head;
use outrigger_proto::policy::v1alpha1::AuditRecord;
use serde::Serialize;

use crate::{
    args::{AuditArgs, Global},
    connect::ControlPlane,
    duration,
    failure::Failure,
    output::{Colour, Output},
    view,
};

/// What programs read.
#[derive(Debug, Serialize)]
struct Audit {
    /// Oldest first.
    records: Vec<Record>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    sequence: u64,
    at: Option<String>,
    by: String,
    peer: String,
    method: String,
    revision: u64,
    denied: bool,
    message: String,
    changes: Vec<view::Change>,
    hash: String,
    #[serde(skip)]
    instant: Option<SystemTime>,
}

impl Record {
    fn new(record: AuditRecord) -> Self {
        Self {
            sequence: record.sequence,
            at: view::rfc3339(record.at.as_ref()),
            by: record.principal,
            peer: record.peer,
            method: record.method,
            revision: record.revision,
            denied: record.denied,
            message: record.message,
            changes: record.results.into_iter().map(view::Change::new).collect(),
            hash: hex(&record.hash),
            instant: view::instant(record.at.as_ref()),
        }
    }
}

/// A chain that was proved.
#[derive(Debug, Serialize)]
struct Proof {
    records: u64,
    /// `NUMBER:HASH` of the last record.
    head: String,
}

/// Lists the records, or proves them.
pub(crate) async fn run(global: &Global, output: &Output, args: AuditArgs) -> Result<(), Failure> {
    let control_plane = ControlPlane::new(global)?;
    if args.verify {
        return verify(&control_plane, output, args.head.as_deref()).await;
    }
    let now = SystemTime::now();
    let since = args.since.map(|moment| moment.at(now));
    let mut audit = Audit { records: Vec::new() };
    control_plane
        .audit(|record| {
            let record = Record::new(record);
            if since.is_none_or(|since| record.instant.is_some_and(|at| at >= since)) {
                audit.records.push(record);
            }
            Ok(())
        })
        .await?;
    output.result(&audit, || people(output, &audit.records, now))
}

fn people(output: &Output, records: &[Record], now: SystemTime) -> String {
    if records.is_empty() {
        return output.paint(Colour::Dim, "nothing is on record");
    }
    let rows = records.iter().map(|record| {
        let outcome = match (record.denied, record.revision) {
            (true, _) => "refused".to_owned(),
            (false, 0) => "-".to_owned(),
            (false, revision) => format!("revision {revision}"),
        };
        let by = view::operator(&record.by);
        let age = duration::age(record.instant, now);
        vec![
            record.sequence.to_string(),
            age,
            by,
            view::call(&record.method),
            outcome,
            record.message.clone(),
        ]
    });
    output.table(&["NUMBER", "AGE", "BY", "CALL", "OUTCOME", "MESSAGE"], rows.collect(), &[0])
}

async fn verify(control_plane: &ControlPlane, output: &Output, known: Option<&str>) -> Result<(), Failure> {
    let known = known.map(Known::parse).transpose()?;
    let mut head = Head::start();
    let mut met = known.is_none();
    control_plane
        .audit(|record| {
            head = head.follow(&record, sha256).map_err(|broken| {
                Failure::refused(
                    format!("the audit record is broken: {broken}; it is whole up to {}", head.sequence()),
                    "if the command is older than the control plane, try the control plane's version; else somebody \
                     changed the record: compare with a backup",
                )
            })?;
            met |= known.as_ref().is_some_and(|known| known.is(&head));
            Ok(())
        })
        .await?;
    if !met {
        return Err(Failure::refused(
            format!(
                "the audit record holds together, but the head that was written down is not in it: all {} records \
                     may have been written anew",
                head.sequence()
            ),
            "compare with a backup that was taken when the head was written down",
        ));
    }
    let proof = Proof { records: head.sequence(), head: format!("{}:{}", head.sequence(), hex(head.hash())) };
    output.result(&proof, || format!("{} records, one chain\nhead {}", proof.records, proof.head))
}

/// A head that was written down: `NUMBER:HASH`, or the hash alone.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    sequence: Option<u64>,
    hash: String,
}

impl Known {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Usage("--head: write what --verify printed, NUMBER:HASH".to_owned());
        let (sequence, hash) = match text.split_once(':') {
            Some((sequence, hash)) => (Some(sequence.parse().map_err(|_no_number| wrong())?), hash),
            None => (None, text),
        };
        let valid = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if valid { Ok(Self { sequence, hash: hash.to_ascii_lowercase() }) } else { Err(wrong()) }
    }

    fn is(&self, head: &Head) -> bool {
        self.hash == hex(head.hash()) && self.sequence.is_none_or(|sequence| sequence == head.sequence())
    }
}

fn sha256(pieces: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for piece in pieces {
        context.update(piece);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::Known;

    #[test]
    fn a_head_is_a_number_and_a_hash() {
        let hash = "ab".repeat(32);
        assert_eq!(
            Known::parse(&format!("7:{hash}")).unwrap(),
            Known { sequence: Some(7), hash: hash.clone() }
        );
        assert_eq!(Known::parse(&hash.to_uppercase()).unwrap(), Known { sequence: None, hash });
        assert!(Known::parse("7:abc").is_err() && Known::parse("x").is_err());
    }
}
