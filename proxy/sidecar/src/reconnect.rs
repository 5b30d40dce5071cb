//! Streams to the control plane that are opened again whenever they end.

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;

/// How long the control plane may take to answer, whatever it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// No answer for [`PATIENCE`].
    #[error("the control plane does not answer")]
    Silent,
    /// It ended the stream.
    #[error("the control plane ended the stream")]
    Ended,
    /// It refused, or the connection broke.
    #[error("{}: {}", .0.code(), .0.message())]
    Broken(Box<tonic::Status>),
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

/// Waits for an answer, no longer than [`PATIENCE`].
pub(crate) async fn answer<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, StreamError> {
    Ok(timeout(PATIENCE, call).await.map_err(|_elapsed| StreamError::Silent)??)
}

/// One kind of stream: `run` opens it and lives as long as it does.
pub(crate) trait Session: Send {
    /// What the log calls it.
    const WHAT: &'static str;

    /// One stream, from its opening to its end.
    fn run(&mut self) -> impl Future<Output = Result<Infallible, StreamError>> + Send;
}

/// Runs sessions one after the other, with a jittered wait between them, until `stop`.
pub(crate) async fn keep<S: Session>(session: &mut S, stop: &CancellationToken) {
    let mut backoff = Backoff::CONTROL_PLANE;
    loop {
        let opened = Instant::now();
        let error = tokio::select! {
            () = stop.cancelled() => return,
            Err(error) = session.run() => error,
        };
        backoff.session_lived(opened.elapsed());
        let wait = backoff.next(rand::random());
        tracing::warn!(stream = S::WHAT, %error, retry_in = ?wait, "stream to the control plane ended");
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}
