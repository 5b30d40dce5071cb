//! The application's side: plain TCP on the same machine, and how long an idle connection to it may be believed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use outrigger_core::reason::Reason;
use tokio::net::TcpStream;

use crate::{
    accept, headers,
    http::Overheard,
    telemetry::{Direction, Role, Telemetry},
    upstream::{Connect, Connected, FirstWord, Io, Protocol},
};

/// No idle connection is believed for longer: applications close them without a word.
pub(super) const KEEP: Duration = Duration::from_secs(1);

/// Where the application listens.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    pub(crate) telemetry: Telemetry,
}

impl Connect for Application {
    async fn connect(&self, _protocol: Protocol) -> Result<Connected, Reason> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| {
            tracing::debug!(%error, upstream.addr = %self.address, "application refused the connection");
            Reason::ConnectFailed
        })?;
        accept::tune(&stream);
        self.telemetry.metrics().opened(Direction::Inbound);
        Ok(Connected { io: Io::Plain(stream, Arc::new(FirstWord::plain())), trust: None })
    }

    fn refused(&self, refused: &Overheard) {
        self.telemetry.refused(Direction::Inbound, Role::Upstream, self.address, refused);
    }
}

/// How long a connection may be idle after this response: one second less than what the application announces.
pub(crate) fn keep_for(response: &HeaderMap) -> Duration {
    match headers::keep_alive_timeout(response) {
        Some(seconds) => KEEP.min(Duration::from_secs(seconds.saturating_sub(1))),
        None => KEEP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_kept_a_second_at_most_and_less_if_the_application_says_so() {
        for (value, seconds) in
            [(None, 1), (Some("timeout=60"), 1), (Some("timeout=2"), 1), (Some("timeout=1"), 0)]
        {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert("keep-alive", value.parse().unwrap());
            }
            assert_eq!(keep_for(&headers), Duration::from_secs(seconds), "{value:?}");
        }
    }
}
