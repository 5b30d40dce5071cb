//! An application and its sidecar as a pod has them: two processes that are told to stop at the same moment. The
//! application is this test binary, started once more, so that a signal to it is one.

use std::{
    convert::Infallible,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Mesh, Proxy,
    process::{Running, eventually},
};

/// An application that waits for the load to go elsewhere before it ends has not been asked for so long.
const QUIET: Duration = Duration::from_millis(300);
/// How long a request takes it.
const WORK: Duration = Duration::from_millis(2);

/// What an application does when it is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Listens no more, finishes what it has read, and ends.
    AtOnce,
    /// Goes on until nobody asks it any more.
    WhenIdle,
}

/// One instance of `price`.
#[derive(Debug)]
pub(crate) struct Pod {
    name: String,
    ending: Ending,
    application: Running,
    proxy: Proxy,
    log: PathBuf,
}

impl Pod {
    /// Starts both; a pod of that name that was there before keeps its credential and its log.
    pub(crate) async fn start(mesh: &Mesh, name: &str, ending: Ending) -> Self {
        let log = mesh.path(&format!("{name}.asked"));
        let place = mesh.path(&format!("{name}.place"));
        let _earlier = fs::remove_file(&place);
        let task = json!({"log": log, "place": place, "idle": ending == Ending::WhenIdle});
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "support::pod::application", "--ignored", "--nocapture"]);
        let task_file = mesh.path(&format!("{name}.task"));
        fs::write(&task_file, task.to_string()).unwrap();
        let output = mesh.path(&format!("{name}.application.log"));
        let application = Running::start_with(&mut command, output, File::open(&task_file).unwrap());
        let address: SocketAddr =
            eventually("address of the application", async || fs::read_to_string(&place).ok()?.parse().ok())
                .await;
        let known = mesh.path(name).join("credential").exists();
        let proxy = if known {
            Proxy::start(mesh, name, None, Some(address)).await
        } else {
            mesh.join(name, "price", &[], Some(address)).await
        };
        Self { name: name.to_owned(), ending, application, proxy, log }
    }

    /// Both are told to stop at once, end, and are started again.
    pub(crate) async fn restart(self, mesh: &Mesh) -> Self {
        let Self { name, ending, mut application, proxy, .. } = self;
        application.signal(Signal::TERM);
        assert_eq!(proxy.stop().await, 0, "nothing had to be cut off at {name}");
        assert!(application.stopped().await.success(), "{}", application.log());
        Self::start(mesh, &name, ending).await
    }

    /// The application is killed, and its sidecar stays.
    pub(crate) async fn kill_application(self) -> (Proxy, Vec<Asked>) {
        let asked = self.log.clone();
        self.application.kill().await;
        (self.proxy, read(&asked))
    }

    /// What its application was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        read(&self.log)
    }
}

/// One request, as the application logged it before it did anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) post: bool,
    pub(crate) id: u64,
}

fn read(log: &PathBuf) -> Vec<Asked> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let asked = |line: &str| {
        let (method, id) = line.split_once(' ').unwrap();
        Asked { post: method == "POST", id: id.parse().unwrap() }
    };
    whole.lines().map(asked).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "no test: an application, which the tests of rolling restarts start"]
async fn application() {
    let mut task = String::new();
    std::io::stdin().read_to_string(&mut task).unwrap();
    let task: Value = serde_json::from_str(&task).unwrap();
    let path = |key: &str| PathBuf::from(task[key].as_str().unwrap());
    let log = File::options().create(true).append(true).open(path("log")).unwrap();
    let log = Arc::new(Mutex::new(log));
    let mut told = signal(SignalKind::terminate()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let partial = path("place").with_extension("partial");
    fs::write(&partial, listener.local_addr().unwrap().to_string()).unwrap();
    fs::rename(&partial, path("place")).unwrap();

    let (stop, _) = watch::channel(false);
    let (busy, mut last) = watch::channel(());
    let busy = Arc::new(busy);
    let mut connections = JoinSet::new();
    let quiet = async {
        told.recv().await;
        if task["idle"] == json!(true) {
            while timeout(QUIET, last.changed()).await.is_ok() {}
        }
    };
    tokio::pin!(quiet);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                connections.spawn(serve(stream, Arc::clone(&log), Arc::clone(&busy), stop.subscribe()));
            }
            () = &mut quiet => break,
        }
    }
    drop(listener);
    stop.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: TcpStream,
    log: Arc<Mutex<File>>,
    busy: Arc<watch::Sender<()>>,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        busy.send_replace(());
        answer(Arc::clone(&log), request)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let told = stop.wait_for(|stop| *stop);
    tokio::select! {
        _over = connection.as_mut() => return,
        _told = told => connection.as_mut().graceful_shutdown(),
    }
    let _over = connection.await;
}

async fn answer(
    log: Arc<Mutex<File>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let id = head.uri.path().trim_start_matches('/').to_owned();
    // A request that breaks off is not acted on.
    let Ok(_body) = body.collect().await else { return Ok(Response::new(Full::default())) };
    log.lock().unwrap().write_all(format!("{} {id}\n", head.method).as_bytes()).unwrap();
    sleep(WORK).await;
    Ok(Response::new(Full::from(id)))
}
