//! The labels of an identity's workloads, as its last join token gave them; kept under [`Key::labels`](super::Key::labels).

use std::collections::BTreeMap;

use outrigger_core::model::SpiffeId;

use super::{Key, Store, StoreError};

/// The value to store for `labels`.
pub fn encode(labels: &BTreeMap<String, String>) -> Vec<u8> {
    // Serialising a map of strings to memory cannot fail.
    serde_json::to_vec(labels).unwrap_or_default()
}

/// The labels of `identity`; none when it never redeemed a token that has some.
///
/// # Errors
/// The store failed, or holds something else under that name.
pub async fn read(store: &Store, identity: &SpiffeId) -> Result<BTreeMap<String, String>, StoreError> {
    let key = Key::labels(identity);
    match store.get(&key).await? {
        Some(entry) => serde_json::from_slice(&entry.value).map_err(|_other| StoreError::Malformed(key)),
        None => Ok(BTreeMap::new()),
    }
}
