//! Between the two sidecars.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::truth::measure::Delay;

/// See the module.
pub(in crate::truth) struct Relay {
    pub(in crate::truth) address: SocketAddr,
    /// Before the next bytes from the caller's side are passed on.
    pub(in crate::truth) passing: Arc<Delay>,
    /// Closes instead of passing the next bytes from the caller's side on.
    pub(in crate::truth) breaks: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Relay {
    /// To `far`; `opening`: between a connection being opened to it, and its opening the other one.
    pub(in crate::truth) async fn new(far: SocketAddr, opening: Arc<Delay>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Self { address, passing: Delay::new(), breaks: Arc::default(), cut: Arc::default() };
        let (passing, breaks, cut) =
            (Arc::clone(&relay.passing), Arc::clone(&relay.breaks), Arc::clone(&relay.cut));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let opening = Arc::clone(&opening);
                let (passing, breaks, cut) = (Arc::clone(&passing), Arc::clone(&breaks), Arc::clone(&cut));
                tokio::spawn(async move {
                    opening.spend().await;
                    tokio::select! {
                        () = pass(near, far, &passing, &breaks) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        relay
    }

    /// Closes all connections.
    pub(in crate::truth) fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn pass(near: TcpStream, far: SocketAddr, passing: &Delay, breaks: &AtomicBool) {
    let far = TcpStream::connect(far).await.unwrap();
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
    let there = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_near.read(&mut buffer).await {
            passing.spend().await;
            if breaks.swap(false, Ordering::Relaxed) || to_far.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    let back = copy(&mut from_far, &mut to_near);
    tokio::select! {
        () = there => {}
        _ended = back => {}
    }
}
