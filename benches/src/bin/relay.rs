//! A bare TCP relay: what arrives at one address goes to another, and back. No TLS, no HTTP; the floor of what a proxy
//! costs.

use std::{io, net::SocketAddr, time::Duration};

use clap::Parser;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const CONNECT: Duration = Duration::from_secs(5);
/// Before the next attempt when no connection can be accepted, such as for want of files.
const PAUSE: Duration = Duration::from_millis(50);

/// Relays TCP connections.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where it listens.
    listen: SocketAddr,
    /// Where every connection goes.
    upstream: SocketAddr,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(arguments.listen).await?;
    loop {
        match listener.accept().await {
            // An end's failure is seen by the other end, which is all that a relay can do about it.
            Ok((downstream, _)) => drop(tokio::spawn(relay(downstream, arguments.upstream))),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn relay(mut downstream: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut upstream = timeout(CONNECT, TcpStream::connect(upstream)).await??;
    downstream.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    copy_bidirectional(&mut downstream, &mut upstream).await?;
    Ok(())
}
