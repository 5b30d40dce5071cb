//! Answers that are given again: a write with an idempotency key leaves its answer beside what it changed, in the same
//! transaction, for a day.

use std::time::{Duration, SystemTime};

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use super::{Inner, Revision, Store, StoreError};

/// Seconds since the epoch, revision, sha256 of the request, answer.
type Row = (u64, u64, &'static [u8], &'static [u8]);

/// Name -> [`Row`].
pub(super) const REPLIES: TableDefinition<'static, &str, Row> = TableDefinition::new("replies");
/// The same by (seconds since the epoch, name).
pub(super) const REPLIES_BY_AGE: TableDefinition<'static, (u64, &str), ()> =
    TableDefinition::new("replies_by_age");

/// How long an answer is given again.
pub const LIFE: Duration = Duration::from_hours(24);
/// Answers that are kept; of more, the oldest go.
const MAX: u64 = 10_000;

/// An answer to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whose answer: caller and key.
    pub name: String,
    /// When.
    pub at: SystemTime,
    /// sha256 of the request.
    pub request: [u8; 32],
    /// The answer, as far as it is known before the write.
    pub answer: Vec<u8>,
}

/// An answer that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// sha256 of the request that it answered.
    pub request: Vec<u8>,
    /// The revision that the request made; 0 when it changed nothing.
    pub revision: Revision,
    /// The answer.
    pub answer: Vec<u8>,
}

impl Store {
    /// The answer kept under `name`, unless it is too old at `now`.
    ///
    /// # Errors
    /// The store failed.
    pub async fn reply(&self, name: &str, now: SystemTime) -> Result<Option<Kept>, StoreError> {
        let name = name.to_owned();
        self.read(move |inner| inner.reply(&name, seconds(now)).map_err(StoreError::from_redb)).await
    }

    /// Keeps the answer of a request that changed nothing.
    ///
    /// # Errors
    /// The store failed.
    pub async fn remember(&self, reply: Reply) -> Result<(), StoreError> {
        self.write(move |inner| {
            let remember = || -> Result<(), redb::Error> {
                let transaction = inner.database.begin_write()?;
                keep(&transaction, &reply, 0)?;
                transaction.commit()?;
                Ok(())
            };
            remember().map_err(StoreError::from_redb)
        })
        .await?
    }
}

impl Inner {
    fn reply(&self, name: &str, now: u64) -> Result<Option<Kept>, redb::Error> {
        let table = self.database.begin_read()?.open_table(REPLIES)?;
        let found = table.get(name)?;
        Ok(found.and_then(|guard| {
            let (at, revision, request, answer) = guard.value();
            let fresh = at.saturating_add(LIFE.as_secs()) > now;
            fresh.then(|| Kept { request: request.to_vec(), revision, answer: answer.to_vec() })
        }))
    }
}

/// Keeps `reply` to a request that made `revision`, and lets go of those that are too old or too many.
pub(super) fn keep(
    transaction: &WriteTransaction,
    reply: &Reply,
    revision: Revision,
) -> Result<(), redb::Error> {
    let now = seconds(reply.at);
    let mut replies = transaction.open_table(REPLIES)?;
    let mut by_age = transaction.open_table(REPLIES_BY_AGE)?;
    let before = replies
        .insert(reply.name.as_str(), (now, revision, reply.request.as_slice(), reply.answer.as_slice()))?;
    let before = before.map(|guard| guard.value().0);
    if let Some(before) = before {
        by_age.remove((before, reply.name.as_str()))?;
    }
    by_age.insert((now, reply.name.as_str()), ())?;
    loop {
        let oldest = by_age.first()?.map(|(oldest, _)| (oldest.value().0, oldest.value().1.to_owned()));
        let Some((at, name)) = oldest else { break };
        if at.saturating_add(LIFE.as_secs()) > now && replies.len()? <= MAX {
            break;
        }
        by_age.remove((at, name.as_str()))?;
        replies.remove(name.as_str())?;
    }
    Ok(())
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
