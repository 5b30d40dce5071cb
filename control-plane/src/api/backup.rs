//! BackupService: a copy of everything that must not be lost, for an admin of the whole mesh. It holds the authority's
//! keys: that one was asked for is on record before any of it is sent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outrigger_core::model::TrustDomain;
use outrigger_proto::backup::v1alpha1::{BackupChunk, BackupRequest, backup_service_server::BackupService};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{guard::call_of, policy::store_failed};
use crate::{
    backup::{Snapshot, TakeError},
    clock::Clock,
    store::Store,
};

/// Pieces that wait for a slow reader.
const PIECES: usize = 4;
/// Longest piece, bytes.
const MAX_PIECE: usize = 1 << 20;
/// How long a reader may take for one.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service.
#[derive(Debug, Clone)]
pub struct BackupApi {
    store: Store,
    /// Where the authority's files are.
    authority: PathBuf,
    trust_domain: TrustDomain,
    clock: Clock,
    /// One at a time.
    turn: Arc<Semaphore>,
}

impl BackupApi {
    /// Copies `store`, and the files of `trust_domain`'s authority in the directory `authority`.
    pub fn new(store: Store, authority: PathBuf, trust_domain: TrustDomain, clock: Clock) -> Self {
        Self { store, authority, trust_domain, clock, turn: Arc::new(Semaphore::new(1)) }
    }
}

#[tonic::async_trait]
impl BackupService for BackupApi {
    type BackupStream = ReceiverStream<Result<BackupChunk, Status>>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let call = call_of(&request)?;
        let turn = Arc::clone(&self.turn)
            .try_acquire_owned()
            .map_err(|_taken| Status::resource_exhausted("another backup is being taken; try again"))?;
        let now = self.clock.now();
        let draft = call.draft(now, "all of the store, and the authority's keys");
        self.store.record(draft).await.map_err(|error| store_failed(&error))?;
        let Self { store, authority, trust_domain, .. } = self.clone();
        let taken =
            tokio::task::spawn_blocking(move || Snapshot::take(&store, &authority, &trust_domain, now));
        let snapshot = taken
            .await
            .map_err(|_cut_off| Status::unavailable("the backup was cut off"))?
            .map_err(|error| failed(&error))?;
        tracing::warn!(principal = call.caller.principal(), revision = snapshot.revision(), "backup taken");
        let (pieces, stream) = mpsc::channel(PIECES);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let send = |data: Vec<u8>| {
                data.chunks(MAX_PIECE).all(|data| {
                    let send = pieces.send(Ok(BackupChunk { data: data.to_vec() }));
                    matches!(runtime.block_on(timeout(PATIENCE, send)), Ok(Ok(())))
                })
            };
            match snapshot.write(send) {
                Ok(()) => {}
                Err(TakeError::GivenUp) => tracing::warn!("nobody reads the backup any more"),
                Err(error) => {
                    let told = runtime.block_on(timeout(PATIENCE, pieces.send(Err(failed(&error)))));
                    drop(told);
                }
            }
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// The caller learns no detail of our disk.
fn failed(error: &TakeError) -> Status {
    if let TakeError::Store(error) = error {
        return store_failed(error);
    }
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, source, "no backup could be taken");
    Status::unavailable("no backup could be taken; the control plane's log says why")
}
