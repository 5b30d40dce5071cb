//! What becomes of a refused call: it is counted, logged and written to the audit log. The log of a control plane under
//! attack must neither fill the disk nor hide one caller's refusals behind another's: each kind of caller has an
//! allowance of records, and what exceeds it is a number in the next record.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{access::Caller, audit::Draft, clock::Clock, store::Store};

/// Records of refused calls that one kind of caller may cause at once.
const BURST: u32 = 100;
/// How long it takes until it may cause one more: at most 8 640 a day, some 3 MB.
const REFILL: Duration = Duration::from_secs(10);

/// Longest message of a record, characters: part of it may be the caller's own words.
const MAX_MESSAGE: usize = 1024;

/// A call, as far as the connection tells.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// From where.
    pub peer: String,
    /// The call's name in the audit log.
    pub method: &'static str,
}

impl Call {
    /// A record of this call, to be kept with what it changed.
    pub fn draft(&self, at: SystemTime, message: impl Into<String>) -> Draft {
        Draft {
            at,
            principal: self.caller.principal().to_owned(),
            peer: self.peer.clone(),
            method: self.method,
            denied: false,
            message: message.into(),
            results: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    reason: &'static str,
}

/// Takes note of refused calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refusals(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    clock: Clock,
    counted: Family<Labels, Counter>,
    /// Anonymous, workloads, operators.
    allowances: Mutex<[Allowance; 3]>,
}

impl Refusals {
    /// Writes to the audit log of `store`; counts in `registry`.
    pub fn new(store: Store, clock: Clock, registry: &mut Registry) -> Self {
        let counted = Family::<Labels, Counter>::default();
        registry.register(
            "control_plane_refused_calls",
            "Calls that were refused, by the table of who may call what or by what they asked for",
            counted.clone(),
        );
        let allowances = Mutex::new([Allowance::full(clock.now()); 3]);
        Self(Arc::new(Shared { store, clock, counted, allowances }))
    }

    /// Takes note of one. Returns when the record is durable, so that whoever was refused is on record when it learns of
    /// it. A store that fails is logged: the refusal stands.
    pub async fn note(&self, call: &Call, reason: &'static str, message: &str) {
        let method = call.method;
        self.0.counted.get_or_create(&Labels { method, reason }).inc();
        let Some(omitted) = self.allowance(&call.caller) else { return };
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        tracing::warn!(
            principal = call.caller.principal(), peer = %call.peer, method, reason, message, omitted, "call refused"
        );
        let text = if omitted == 0 {
            format!("{reason}: {message}")
        } else {
            format!("{reason}: {message} (and {omitted} refused calls before it that are not on record)")
        };
        let draft = Draft { denied: true, ..call.draft(self.0.clock.now(), text) };
        if let Err(error) = self.0.store.record(draft).await {
            tracing::error!(%error, method, "a refused call could not be written to the audit log");
        }
    }

    fn allowance(&self, caller: &Caller) -> Option<u64> {
        let [anonymous, workloads, operators] = &mut *self.0.allowances.lock();
        let allowance = match caller {
            Caller::Anonymous => anonymous,
            Caller::Workload(_) => workloads,
            Caller::Operator { .. } => operators,
        };
        allowance.take(self.0.clock.now())
    }
}

/// How many records may still be written, and how many were not.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: u32,
    /// Up to when the refill is accounted for.
    at: SystemTime,
    omitted: u64,
}

impl Allowance {
    fn full(now: SystemTime) -> Self {
        Self { left: BURST, at: now, omitted: 0 }
    }

    /// `Some(omitted)` when a record may be written; it then stands for those omitted before.
    fn take(&mut self, now: SystemTime) -> Option<u64> {
        let passed = now.duration_since(self.at).unwrap_or_default();
        let refilled = u32::try_from(passed.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if refilled > 0 {
            self.left = self.left.saturating_add(refilled).min(BURST);
            self.at = if self.left == BURST { now } else { self.at + REFILL * refilled };
        }
        if self.left == 0 {
            self.omitted += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_bounded_record_and_a_count() {
        let start = SystemTime::UNIX_EPOCH;
        let mut allowance = Allowance::full(start);
        for _ in 0..BURST {
            assert_eq!(allowance.take(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(allowance.take(start), None);
        }
        assert_eq!(allowance.take(start + REFILL - Duration::from_secs(1)), None);
        assert_eq!(allowance.take(start + REFILL), Some(1001));
        assert_eq!(allowance.take(start + REFILL), None);
        assert_eq!(allowance.take(start + REFILL * 1000), Some(1));
        let day = Duration::from_hours(24);
        let mut recorded = 0;
        for second in 0..day.as_secs() {
            recorded +=
                u32::from(allowance.take(start + REFILL * 1000 + Duration::from_secs(second)).is_some());
        }
        assert!(recorded <= 8640 + BURST, "{recorded}");
    }
}
