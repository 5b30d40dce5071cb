//! Join tokens: what is kept of one, and whether it is good. The secret itself is kept nowhere.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{constant_time, digest};
use outrigger_core::model::{Name, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

/// How long a token lives unless its maker says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_mins(10);
/// The longest that its maker may say.
pub const MAX_TTL: Duration = Duration::from_hours(24);
/// How long a token that ran out is remembered: so long, its use is told apart from a guess.
pub const REMEMBERED: Duration = Duration::from_hours(24);

/// What the store keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    secret_sha256: [u8; 32],
    namespace: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    /// Seconds since the epoch.
    expires: u64,
    created_by: String,
    bound: Option<Binding>,
}

/// The first redemption: later ones must come with the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    key_sha256: [u8; 32],
    /// The address it came from.
    peer: String,
}

/// A redemption that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redemption {
    /// The first one: this record must be stored before anything is issued.
    First(Record),
    /// The same key again: the answer to the first one was lost.
    Repeat,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Unknown, or the secret is wrong: the two are not told apart.
    #[error("the join token is not valid")]
    Invalid,
    /// It was good once.
    #[error("the join token has expired")]
    Expired,
    /// Somebody redeemed it before, with another key: one of the two stole it.
    #[error("the join token has been redeemed before, with another key")]
    AnotherKey {
        /// Where the first redemption came from. For the operator, not for the caller.
        first_peer: String,
    },
}

impl TokenError {
    /// Stable, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid => "token_invalid",
            Self::Expired => "token_expired",
            Self::AnotherKey { .. } => "token_another_key",
        }
    }
}

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Namespace of the workload that may join with it.
    pub namespace: Name,
    /// Its service account.
    pub service_account: Name,
    /// The labels that it gets.
    pub labels: BTreeMap<String, String>,
}

impl Record {
    /// The record of a token whose secret is `secret`.
    pub fn new(secret: &[u8], purpose: Purpose, expires: SystemTime, created_by: &str) -> Self {
        Self {
            secret_sha256: hash(secret),
            namespace: purpose.namespace.to_string(),
            service_account: purpose.service_account.to_string(),
            labels: purpose.labels,
            expires: expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            created_by: created_by.to_owned(),
            bound: None,
        }
    }

    /// Judges a redemption by `key_sha256` at `peer`. The secret comes first: only its holder learns more than that the
    /// token is not valid.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn redeem(
        &self,
        secret: &[u8],
        key_sha256: &[u8; 32],
        peer: &str,
        now: SystemTime,
    ) -> Result<Redemption, TokenError> {
        constant_time::verify_slices_are_equal(&self.secret_sha256, &hash(secret))
            .map_err(|_differs| TokenError::Invalid)?;
        // A second key is an alarm even when the token has expired since.
        match &self.bound {
            Some(bound) if bound.key_sha256 != *key_sha256 => {
                return Err(TokenError::AnotherKey { first_peer: bound.peer.clone() });
            }
            _ => {}
        }
        if now >= self.expires() {
            return Err(TokenError::Expired);
        }
        if self.bound.is_some() {
            return Ok(Redemption::Repeat);
        }
        let bound = Some(Binding { key_sha256: *key_sha256, peer: peer.to_owned() });
        Ok(Redemption::First(Self { bound, ..self.clone() }))
    }

    /// When it runs out.
    pub fn expires(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.expires.min(u64::from(u32::MAX) * 2))
    }

    /// Whether nobody needs to remember it any more.
    pub fn forgettable(&self, now: SystemTime) -> bool {
        now >= self.expires() + REMEMBERED
    }

    /// The identity that it is bound to; `None` for a record that holds no names.
    pub fn identity(&self, trust_domain: &TrustDomain) -> Option<SpiffeId> {
        let namespace = self.namespace.parse().ok()?;
        let service_account = self.service_account.parse().ok()?;
        Some(SpiffeId::workload(trust_domain.clone(), namespace, service_account))
    }

    /// The labels that the workload gets.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising plain data to memory cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What [`Self::encode`] made; `None` for anything else.
    pub fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

fn hash(secret: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn record() -> Record {
        let purpose = Purpose {
            namespace: "demo".parse().unwrap(),
            service_account: "price".parse().unwrap(),
            labels: BTreeMap::new(),
        };
        Record::new(b"secret", purpose, NOW + DEFAULT_TTL, "operator")
    }

    fn bound() -> Record {
        match record().redeem(b"secret", &[1; 32], "192.0.2.1:1", NOW) {
            Ok(Redemption::First(record)) => Record::decode(&record.encode()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_same_key_may_repeat_until_the_token_expires() {
        assert_eq!(bound().redeem(b"secret", &[1; 32], "192.0.2.2:2", NOW), Ok(Redemption::Repeat));
        let late = NOW + DEFAULT_TTL;
        assert_eq!(bound().redeem(b"secret", &[1; 32], "192.0.2.2:2", late), Err(TokenError::Expired));
    }

    #[test]
    fn another_key_is_refused_and_told_where_the_first_came_from() {
        let refused = bound().redeem(b"secret", &[2; 32], "192.0.2.2:2", NOW).unwrap_err();
        assert_eq!(refused, TokenError::AnotherKey { first_peer: "192.0.2.1:1".to_owned() });
        assert!(!refused.to_string().contains("192.0.2.1"), "the caller may be the thief");
    }

    #[test]
    fn a_wrong_secret_says_nothing_about_the_token() {
        for record in [record(), bound()] {
            let late = NOW + DEFAULT_TTL * 2;
            assert_eq!(record.redeem(b"guess", &[2; 32], "", NOW), Err(TokenError::Invalid));
            assert_eq!(record.redeem(b"guess", &[2; 32], "", late), Err(TokenError::Invalid));
        }
    }

    #[test]
    fn an_expired_token_is_remembered_for_a_day() {
        assert_eq!(record().redeem(b"secret", &[1; 32], "", NOW + DEFAULT_TTL), Err(TokenError::Expired));
        assert!(!record().forgettable(NOW + DEFAULT_TTL));
        assert!(record().forgettable(NOW + DEFAULT_TTL + REMEMBERED));
    }

    #[test]
    fn the_secret_is_not_in_what_is_kept() {
        let kept = String::from_utf8(record().encode()).unwrap();
        assert!(!kept.contains("secret\""), "{kept}");
        assert!(!format!("{:?}", record()).contains("\"secret\""));
    }
}
