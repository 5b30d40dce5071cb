//! Many proxies in one process, for measuring how a push spreads: whole ones, each with its own identity, listeners,
//! streams and state, that differ from processes in nothing but their number.
//!
//! `swarm --control-plane HOST:PORT --tokens DIR --state DIR`: joins one proxy for each file of DIR (a join token), asks
//! each once for `price.demo`, says `ready`, and ends with SIGTERM.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use outrigger_process::{health::Readiness, shutdown::Shutdown};
use outrigger_proxy::{app::App, settings::Settings};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

type Failure = Box<dyn std::error::Error>;

/// For a proxy to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Arguments {
    /// Where the control plane serves workloads
    #[arg(long)]
    control_plane: String,
    /// A file with a join token for each proxy
    #[arg(long)]
    tokens: PathBuf,
    /// Where the proxies keep their state
    #[arg(long)]
    state: PathBuf,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut proxies = JoinSet::new();
    let shutdown = Shutdown::new(Duration::from_secs(5));
    shutdown.on_signals(Duration::from_secs(5))?;
    for entry in std::fs::read_dir(&arguments.tokens)? {
        let file = entry?.path();
        let app = start(arguments, &file, shutdown.clone()).await?;
        let (mut health, outbound) = (app.health().watch(), app.addresses().outbound);
        proxies.spawn(async move { Box::pin(app.run()).await.map(drop) });
        timeout(PATIENCE, health.wait_for(|now| *now == Readiness::Ready)).await??;
        ask(outbound).await?;
    }
    writeln!(std::io::stdout(), "ready")?;
    while let Some(ended) = proxies.join_next().await {
        ended??;
    }
    Ok(())
}

async fn start(arguments: &Arguments, token: &Path, shutdown: Shutdown) -> Result<App, Failure> {
    let name = token.file_stem().and_then(|name| name.to_str()).ok_or("a token file without a name")?;
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings::default();
    settings.control_plane.address.clone_from(&arguments.control_plane);
    settings.join.token_file = Some(token.to_owned());
    settings.state_dir = Some(arguments.state.join(name));
    settings.instance = Some(name.to_owned());
    settings.outbound.listen = free;
    settings.health.listen = free;
    settings.log.access = false;
    Ok(App::start(settings, None, shutdown).await?)
}

/// One request: from now on the proxy is told of everything about its destination.
async fn ask(outbound: SocketAddr) -> Result<(), Failure> {
    let mut connection = TcpStream::connect(outbound).await?;
    connection
        .write_all(b"GET http://price.demo/ HTTP/1.1\r\nhost: price.demo\r\nconnection: close\r\n\r\n")
        .await?;
    connection.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
