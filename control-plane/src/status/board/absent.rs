//! Proxies that broke off without a good-bye. They may be running, on what they had, until their certificates expire: for
//! so long the rotation of a root has to reckon with them, long after nobody else does.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

/// So many are kept by name, those whose certificates have expired meanwhile included; of more, only when the last of
/// them broke off.
const MAX_NAMED: usize = 10_000;

/// One that broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// When. Its certificate was issued before.
    pub since: SystemTime,
    /// The trust bundle in force there, as it said; 0 if it had not.
    pub bundle_sequence: u64,
}

/// All that may be running.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absences {
    /// By id, `<SPIFFE ID>#<instance>`.
    pub named: BTreeMap<Arc<str>, Absence>,
    /// When the last of those broke off that are not named.
    pub unnamed: Option<SystemTime>,
}

impl Absences {
    /// `id` broke off.
    pub(super) fn add(&mut self, id: Arc<str>, absence: Absence) {
        self.named.insert(id, absence);
        if self.named.len() > MAX_NAMED {
            let first = self.named.iter().min_by_key(|(_, absence)| absence.since);
            if let Some((id, since)) = first.map(|(id, absence)| (Arc::clone(id), absence.since)) {
                self.named.remove(&id);
                self.unnamed = self.unnamed.max(Some(since));
            }
        }
    }

    /// `id` is back.
    pub(super) fn remove(&mut self, id: &str) {
        self.named.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn absence(seconds: u64) -> Absence {
        Absence { since: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), bundle_sequence: 1 }
    }

    #[test]
    fn who_is_not_named_is_not_forgotten() {
        let mut absences = Absences::default();
        let most = u64::try_from(MAX_NAMED).unwrap();
        for number in 0..most + 7 {
            absences.add(Arc::from(format!("front#{number}")), absence(number));
        }
        assert_eq!(absences.named.len(), MAX_NAMED);
        assert_eq!(absences.unnamed, Some(absence(6).since));
        absences.remove("front#100");
        assert_eq!(absences.named.len(), MAX_NAMED - 1);
    }
}
