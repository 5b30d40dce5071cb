//! The application's side: plain TCP on the same machine, and how long an idle connection to it may be believed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::reason::Reason;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    accept,
    http::Overheard,
    telemetry::{Direction, Party, Role, Telemetry},
    upstream::{Connect, Connected, FirstWord, Io, Protocol},
};

/// No idle connection is believed for longer: applications close them without a word.
pub(super) const KEEP: Duration = Duration::from_secs(1);

/// After so long without an answer it is asked again. The kernel drops what an application has no room for, and asks again after a
/// second only: there may be room long before.
const AGAIN: Duration = Duration::from_millis(100);

/// Where the application listens.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    /// The same as it is logged.
    pub(crate) party: Arc<Party>,
    pub(crate) telemetry: Telemetry,
}

impl Connect for Application {
    async fn connect(&self, _protocol: Protocol) -> Result<Connected, Reason> {
        let stream = dial(self.address).await.map_err(|error| {
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

/// Asks for a connection until there is one, or none to be had; for how long, the caller says.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    loop {
        if let Ok(dialled) = timeout(AGAIN, TcpStream::connect(address)).await {
            return dialled;
        }
    }
}

/// How long a connection may be idle after a response: one second less than what the application `announced` in it, seconds.
pub(crate) fn keep_for(announced: Option<u64>) -> Duration {
    match announced {
        Some(seconds) => KEEP.min(Duration::from_secs(seconds.saturating_sub(1))),
        None => KEEP,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Blocking};

    use http::HeaderMap;
    use socket2::{Domain, Socket, Type};
    use tokio::{task::yield_now, time::pause};

    use super::*;
    use crate::headers::inbound_response;

    #[tokio::test]
    async fn a_place_that_becomes_free_is_had_before_the_kernel_asks_again() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        // Room for one more than it says.
        socket.listen(1).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let _waiting = [(); 2].map(|()| Blocking::connect(address).unwrap());
        pause();
        let dialled = tokio::spawn(timeout(Duration::from_secs(3600), dial(address)));
        yield_now().await;
        let accepted = [(); 2].map(|()| listener.accept().unwrap());
        dialled
            .await
            .unwrap()
            .expect("the kernel alone needs a real second, and the clock here is ahead of it")
            .unwrap();
        drop(accepted);
    }

    #[test]
    fn an_idle_connection_is_kept_a_second_at_most_and_less_if_the_application_says_so() {
        for (value, seconds) in
            [(None, 1), (Some("timeout=60"), 1), (Some("timeout=2"), 1), (Some("timeout=1"), 0)]
        {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert("keep-alive", value.parse().unwrap());
            }
            assert_eq!(keep_for(inbound_response(&mut headers)), Duration::from_secs(seconds), "{value:?}");
        }
    }
}
