//! What the requests whose time is measured run through: a client of each kind, two sidecars with a relay in between, and
//! an application; each of them slow where a test wants it.

mod app;
mod caller;
mod relay;

use std::{cell::Cell, net::SocketAddr, sync::Arc};

use outrigger_core::model::Resilience;
use outrigger_proxy::{
    settings::InboundProtocol,
    snapshot::{Builder, Snapshot},
};
use outrigger_tls::testing::Authority;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Mutex, MutexGuard},
};

use super::measure::{Delay, unused_id};
use crate::support::{Options, Pair, Side, endpoint, endpoint_set, header, raw::Raw, service};

pub(super) use app::App;
pub(super) use caller::{Caller, WINDOW, head};
pub(super) use relay::Relay;

use caller::Way;

/// Two tests that measure at once would measure each other.
pub(super) static ALONE: Mutex<()> = Mutex::const_new(());

/// See the module.
pub(super) struct Stage {
    pub(super) front: Side,
    pub(super) price: Side,
    pub(super) authority: Authority,
    pub(super) app: Arc<App>,
    /// The way from the one sidecar to the other.
    pub(super) relay: Relay,
    generation: Cell<u64>,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    pub(super) async fn start() -> Self {
        Self::with(Options::default(), Resilience::default()).await
    }

    /// The application speaks HTTP/1.1 in any case.
    pub(super) async fn with(mut options: Options, resilience: Resilience) -> Self {
        let alone = ALONE.lock().await;
        options.protocol = InboundProtocol::Http1;
        let Pair { authority, front, price, app } = Pair::with(&options).await;
        let application = Arc::new(App::default());
        tokio::spawn(Arc::clone(&application).listen(app.into_listener()));
        let relay = Relay::new(price.path.inbound()[0], Delay::new()).await;
        let generation = Cell::new(1);
        let stage = Self { front, price, authority, app: application, relay, generation, _alone: alone };
        stage.publish(stage.relay.address, &resilience);
        stage
    }

    /// `price` is reached by `address` from now on.
    pub(super) fn publish(&self, address: SocketAddr, resilience: &Resilience) {
        self.front.snapshot.publish(self.snapshot("demo/price", address, resilience));
    }

    /// A configuration in which `name` is what `price` is otherwise.
    pub(super) fn snapshot(&self, name: &str, address: SocketAddr, resilience: &Resilience) -> Snapshot {
        self.generation.update(|generation| generation + 1);
        let mut service = service(Vec::new());
        service.name = name.parse().unwrap();
        let mut set = endpoint_set(&[endpoint(address, &self.authority, "price")]);
        set.resilience = resilience.clone();
        Builder::new(&self.front.states)
            .config(Arc::clone(self.front.snapshot.load().config.as_ref().unwrap()))
            .endpoint_set(Arc::from("demo/price:80"), Arc::new(set))
            .service(Arc::new(service))
            .build(self.generation.get())
    }

    /// Sees to it that `caller` finds a connection between the sidecars; whatever is to delay the next answer does not
    /// delay the one that this takes.
    pub(super) async fn warm(&self, caller: &mut Caller) {
        let wanted = self.app.answering.take();
        assert_eq!(caller.call(&unused_id()).await, 200);
        if let Some(wanted) = wanted {
            self.app.answering.set(wanted);
        }
    }

    /// A connection of the own workload.
    pub(super) async fn raw(&self) -> Raw {
        Raw::connect(self.front.path.outbound()).await
    }

    /// One of which the kernel takes `bytes` without being read, and not as many as it likes.
    pub(super) async fn bounded(&self, bytes: u32) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        Raw::new(socket.connect(self.front.path.outbound()).await.unwrap())
    }

    /// A client, by its way.
    pub(super) async fn caller(&self, way: By) -> Caller {
        let raw = || Raw::connect(self.front.path.outbound());
        let way = match way {
            By::Shared => Way::Shared(raw().await),
            By::Own => Way::Own(raw().await),
            By::Http2 => {
                let stream = TcpStream::connect(self.front.path.outbound()).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (sender, connection) = h2::client::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                Way::Http2(sender)
            }
        };
        Caller { way, app: Arc::clone(&self.app) }
    }
}

/// How a client speaks to its sidecar, and that one to the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// HTTP/1.1, and a stream among others.
    Shared,
    /// HTTP/1.1, and a connection for each request: its body is of unknown length.
    Own,
    /// HTTP/2, and a stream among others.
    Http2,
}

fn length(head: &str) -> usize {
    header(head, "content-length").map_or(0, |length| length.parse().unwrap())
}
