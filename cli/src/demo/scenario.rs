//! What the demo shows, and the promises that it holds the mesh to, in order.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use outrigger_proto::status::v1alpha1::{HopsRequest, WorkloadState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    account::{self, Account, Sent, Served},
    app,
    load::{self, Counters, Load},
    mesh::{self, Mesh, NAMESPACE},
    process::Stack,
    split::Bound,
    verdict::Verdict,
};
use crate::{
    command::hops,
    duration::latency,
    failure::Failure,
    output::{Colour, Output, Screen},
    view::{self, Hop, Hops},
};

/// The first phase: the split as it was applied before any proxy ran.
const STEADY: Duration = Duration::from_millis(10_200);
/// The second phase: the push happens in it, and enough of it comes after to judge the new split.
const PUSH: Duration = Duration::from_millis(12_000);
/// When in the second phase the canary is pushed.
const PUSH_AT: Duration = Duration::from_millis(1_500);
/// How long the push may take until every proxy has applied it.
const CONVERGE: Duration = Duration::from_secs(10);
/// How long the hop table may lag behind the traffic.
const TELEMETRY: Duration = Duration::from_secs(15);
/// The share that a hop table takes apart: the slowest 1 %.
const SLOWEST_PPM: u32 = 10_000;
/// How often the live table is drawn.
const REFRESH: Duration = Duration::from_secs(2);

/// The demo's course.
#[derive(Debug)]
pub(crate) struct Scenario<'a> {
    output: &'a Output,
    verdict: Verdict,
    live: bool,
}

/// How the push spread.
#[derive(Debug, Clone, Copy)]
struct Applied {
    /// When every proxy had applied it, since the start of the phase.
    at: Duration,
    /// From the commit to the last proxy, milliseconds.
    spread: f64,
    /// The proxies that it concerned.
    proxies: u32,
}

/// What the second phase saw beside its requests.
struct Push {
    applied: Result<Applied, Failure>,
    sent: Vec<Sent>,
}

impl<'a> Scenario<'a> {
    /// A course that has not begun.
    pub(crate) fn new(output: &'a Output) -> Self {
        Self { output, verdict: Verdict::default(), live: false }
    }

    /// Whether it has come to the live table.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Runs it; with `live` it ends only with the future.
    ///
    /// # Errors
    /// If the mesh does not come up. Broken promises are counted, not returned.
    pub(crate) async fn run(&mut self, stack: &mut Stack, live: bool) -> Result<(), Failure> {
        let begin = Instant::now();
        self.heading("a control plane, front, and two versions of price, each beside a sidecar")?;
        let mesh = mesh::start(stack).await?;
        let load = Arc::new(Load::new(mesh.front));
        let (workloads, warm) = mesh.settle(&load).await?;
        self.identities(&mesh, &workloads, begin.elapsed()).await?;

        let seconds = STEADY.as_secs();
        self.heading(&format!(
            "{} requests/s on front for {seconds} s, 30 % POST; price is split 90/10",
            load::RATE
        ))?;
        let sent = Arc::clone(&load).phase(Instant::now(), STEADY).await;
        let served = mesh.served()?;
        self.books(&mesh, "steady", STEADY, &sent, &served)?;
        self.split(&sent, &served, Duration::ZERO, 0.10)?;

        self.heading("a canary is pushed under load: outrigger apply -f canary.yaml --wait")?;
        let push = push(&mesh, &load).await?;
        let served = mesh.served()?;
        self.pushed(&push)?;
        self.books(&mesh, "push", PUSH, &push.sent, &served)?;
        self.split(&push.sent, &served, push.applied.map_or(PUSH, |applied| applied.at), 0.50)?;

        self.heading("where the time went: outrigger hops")?;
        let delivered = u64::try_from(sent.len() + push.sent.len()).unwrap_or(u64::MAX);
        self.hops(&mesh, delivered, warm).await?;
        if live {
            self.live(&mesh, &load).await?;
        }
        Ok(())
    }

    /// Judges the stop, and prints the verdict as the last line.
    ///
    /// # Errors
    /// [`Failure::Broken`] when a promise broke.
    pub(crate) fn stopped(&mut self, defects: &[String]) -> Result<(), Failure> {
        let found = if defects.is_empty() { Ok(String::new()) } else { Err(defects.join("; ")) };
        self.judge("every process stopped by itself, and nothing is left behind", found)?;
        self.output.print(&self.verdict.line())?;
        self.verdict.result()
    }

    fn heading(&self, text: &str) -> Result<(), Failure> {
        let text = self.output.paint(Colour::Bold, text);
        self.output.print(&format!("\n== {text}"))
    }

    fn judge(&mut self, promise: &str, found: Result<String, String>) -> Result<(), Failure> {
        self.verdict.judge(self.output, promise, found)
    }

    async fn identities(
        &mut self,
        mesh: &Mesh,
        workloads: &[WorkloadState],
        took: Duration,
    ) -> Result<(), Failure> {
        let rows = workloads
            .iter()
            .map(|workload| {
                vec![
                    workload.name.clone(),
                    workload.spiffe_id.clone(),
                    view::labels(&workload.labels),
                    workload.services.join(", "),
                    workload.addresses.join(", "),
                ]
            })
            .collect();
        let header = ["WORKLOAD", "IDENTITY", "LABELS", "BACKS", "ADDRESS"];
        self.output.print(&self.output.table(&header, rows, &[]))?;
        self.judge(
            "three workloads joined by token, and front got an answer through the mesh",
            Ok(format!("{:.1} s after the start", took.as_secs_f64())),
        )?;
        let refused = plaintext_is_refused(mesh.price_inbound).await;
        self.judge("a caller without a certificate gets nothing out of price", refused)
    }

    /// The promises about every request of a phase.
    fn books(
        &mut self,
        mesh: &Mesh,
        phase: &str,
        length: Duration,
        sent: &[Sent],
        served: &[Served],
    ) -> Result<(), Failure> {
        let account = Account::new(sent, served, &mesh.front_id);
        let mut defects = account.defects();
        let planned = load::requests(length);
        if account.sent != planned {
            defects.push(format!("{} of {planned} were accounted for", account.sent));
        }
        defects.extend(account::too_little(sent));
        let found = if defects.is_empty() {
            Ok(format!(
                "{} sent, {} of them POST; 0 failed, 0 missing, 0 processed twice",
                account.sent, account.posts
            ))
        } else {
            Err(defects.join("; "))
        };
        self.judge(&format!("no request was lost ({phase})"), found)?;
        let found = match account.strangers.first() {
            None => Ok(mesh.front_id.clone()),
            Some(id) => Err(format!("{} requests did not, the first is #{id}", account.strangers.len())),
        };
        self.judge(&format!("every request came to price with front's identity ({phase})"), found)
    }

    fn split(
        &mut self,
        sent: &[Sent],
        served: &[Served],
        from: Duration,
        weight: f64,
    ) -> Result<(), Failure> {
        let (all, canary) = account::split(sent, served, from, "v2");
        let bound = Bound::new(all, weight);
        let share = |count: u32| f64::from(count) * 100.0 / f64::from(all.max(1));
        let seen = format!(
            "v2 answered {canary} of {all} = {:.1} %; the binomial bound is {:.1} % to {:.1} %",
            share(canary),
            share(bound.low),
            share(bound.high)
        );
        let found = if all > 0 && bound.contains(canary) { Ok(seen) } else { Err(seen) };
        self.judge(&format!("the split is {:.0}/{:.0}", 100.0 - weight * 100.0, weight * 100.0), found)
    }

    fn pushed(&mut self, push: &Push) -> Result<(), Failure> {
        let found = match &push.applied {
            Ok(applied) => Ok(format!(
                "by {} proxies, {} after the call and {} after the commit",
                applied.proxies,
                latency(Some(applied.at.saturating_sub(PUSH_AT))),
                milliseconds(applied.spread),
            )),
            Err(failure) => Err(format!("{failure}: {}", failure.details().join("; "))),
        };
        self.judge("the push was applied everywhere", found)
    }

    async fn hops(&mut self, mesh: &Mesh, delivered: u64, warm: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + TELEMETRY;
        let hops = loop {
            let hops = table(mesh, Vec::new()).await?.0;
            let counted: u64 = to_price(&hops).map(|hop| hop.requests).sum();
            if counted > delivered || Instant::now() > deadline {
                break hops;
            }
            sleep(Duration::from_millis(250)).await;
        };
        self.output.print(&hops::people(self.output, &hops, SLOWEST_PPM))?;
        let counted: u64 = to_price(&hops).map(|hop| hop.requests).sum();
        let failures: u64 = to_price(&hops).map(|hop| hop.failures).sum();
        // Of the requests before the load, one got an answer; the others may have met a proxy that knew nothing yet.
        let expected = delivered + 1..=delivered + warm;
        let seen = format!("{counted} counted, {failures} failed");
        let right = expected.contains(&counted) && failures < warm;
        self.judge(
            "the hop table counts every request",
            if right { Ok(seen) } else { Err(format!("{seen}; {delivered} were delivered")) },
        )?;
        let unexplained =
            to_price(&hops).map(|hop| hop.mean.unexplained / hop.mean.total.max(0.001)).fold(0.0, f64::max);
        let seen = format!("at most {:.1} % is unexplained", unexplained * 100.0);
        let right = unexplained <= 0.05 && to_price(&hops).next().is_some();
        self.judge("the phases add up to the whole", if right { Ok(seen) } else { Err(seen) })?;
        let found = tail(&hops);
        self.judge("the slow tail of price-v2 is found where it was put: in the app", found)
    }

    /// Draws the hop table of the last seconds again and again, under load, until the future is dropped.
    async fn live(&mut self, mesh: &Mesh, load: &Arc<Load>) -> Result<(), Failure> {
        self.output.print(&format!("\n{}", self.verdict.line()))?;
        self.heading("live: the hops of the last seconds, until Ctrl-C. In another terminal:")?;
        let credential = mesh.global.credential.clone().unwrap_or_default();
        self.output.print(&format!(
            "   export OUTRIGGER_SERVER={} OUTRIGGER_CREDENTIAL={}\n   outrigger status\n   outrigger get route price -n \
             demo -o yaml",
            mesh.global.server,
            credential.display()
        ))?;
        self.live = true;
        let counters = Arc::new(Counters::default());
        let _load = Aborting(tokio::spawn(Arc::clone(load).forever(Arc::clone(&counters))));
        let mut cursor = table(mesh, Vec::new()).await?.1;
        let mut screen = Screen::new(self.output);
        loop {
            sleep(REFRESH).await;
            let (hops, next) = table(mesh, cursor).await?;
            cursor = next;
            screen.draw(&format!(
                "{} requests, {} failed\n\n{}",
                counters.done.load(Ordering::Relaxed),
                counters.failed.load(Ordering::Relaxed),
                hops::people(self.output, &hops, SLOWEST_PPM)
            ))?;
        }
    }
}

/// A task that ends with its owner.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The second phase: load, and in the midst of it the push.
async fn push(mesh: &Mesh, load: &Arc<Load>) -> Result<Push, Failure> {
    let canary = mesh::documents("canary.yaml", include_str!("canary.yaml"))?;
    let start = Instant::now();
    let running = tokio::spawn(Arc::clone(load).phase(start, PUSH));
    tokio::time::sleep_until(start + PUSH_AT).await;
    let applied = async {
        let response = mesh.control_plane.apply(&canary, false).await?;
        let convergence = mesh.control_plane.converge(response.revision, CONVERGE).await?;
        if convergence.targeted == 0 {
            return Err(Failure::refused("the push concerned no proxy", ""));
        }
        Ok(Applied {
            at: start.elapsed(),
            spread: view::milliseconds(convergence.elapsed),
            proxies: convergence.targeted,
        })
    }
    .await;
    let sent = running.await.map_err(|error| Failure::io("the load broke", std::io::Error::other(error)))?;
    Ok(Push { applied, sent })
}

/// The hop table since `cursor`, and the cursor after it.
async fn table(mesh: &Mesh, cursor: Vec<u8>) -> Result<(Vec<Hop>, Vec<u8>), Failure> {
    let response = mesh
        .control_plane
        .hops(HopsRequest { service: String::new(), slowest_ppm: SLOWEST_PPM, since: cursor })
        .await?;
    Ok((Hops::new(&response).hops, response.cursor))
}

/// The hops to the two versions of `price`.
fn to_price(hops: &[Hop]) -> impl Iterator<Item = &Hop> {
    hops.iter().filter(|hop| {
        ["price-v1", "price-v2"].iter().any(|name| hop.destination == format!("{NAMESPACE}/{name}"))
    })
}

/// One in fifty answers of v2 is slow: the slowest 1 % are of that kind, but for what the machine held up for longer.
fn tail(hops: &[Hop]) -> Result<String, String> {
    let slow = to_price(hops)
        .find(|hop| hop.destination.ends_with("price-v2"))
        .ok_or("there is no hop to price-v2")?;
    let (total, app) = (slow.slowest.total, slow.slowest.phase("app"));
    let seen = format!("{} of {} in its slowest 1 %", milliseconds(app), milliseconds(total));
    let largest = slow.slowest.phases.iter().all(|(_, time)| *time <= app);
    if largest && app >= app::SLOW.as_secs_f64() * 1e3 * 0.95 { Ok(seen) } else { Err(seen) }
}

fn milliseconds(time: f64) -> String {
    latency(Duration::try_from_secs_f64(time / 1e3).ok())
}

/// Speaks plain HTTP to a port of the mesh: whatever comes back, it must not be an answer.
async fn plaintext_is_refused(inbound: SocketAddr) -> Result<String, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(inbound).await?;
        stream.write_all(b"GET /quote HTTP/1.1\r\nhost: price\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        // A reset is as good as a close.
        drop((&mut stream).take(4_096).read_to_end(&mut answer).await);
        std::io::Result::Ok(answer)
    };
    match timeout(Duration::from_secs(5), exchange).await {
        Err(_elapsed) => Err("the connection stayed open".to_owned()),
        Ok(Err(error)) => Err(format!("the port cannot be reached: {error}")),
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/") => Err("it was answered".to_owned()),
        Ok(Ok(_)) => Ok(format!("{inbound} closed the connection")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Hop, tail};
    use crate::view::{Makeup, hops::App};

    fn slow(app: f64, network: f64) -> Hop {
        let makeup = Makeup {
            requests: 1,
            total: app + network,
            phases: vec![("app".to_owned(), app), ("network".to_owned(), network)],
            app: App::default(),
            unexplained: 0.0,
        };
        Hop {
            source: String::new(),
            destination: "demo/price-v2".to_owned(),
            port: 80,
            rule: String::new(),
            class: "request",
            depth: 0,
            requests: 1,
            failures: 0,
            p50: 1.0,
            p99: 1.0,
            mean: makeup.clone(),
            slowest: makeup,
        }
    }

    #[test]
    fn a_tail_must_be_charged_to_the_app_that_caused_it() {
        assert!(tail(&[slow(100.2, 0.3)]).is_ok());
        assert!(tail(&[slow(1.0, 100.0)]).is_err(), "charged elsewhere");
        assert!(tail(&[slow(50.0, 50.0)]).is_err(), "half of it is charged elsewhere");
        assert!(tail(&[slow(110.0, 120.0)]).is_err(), "most of it is something else");
        assert!(tail(&[]).is_err());
    }
}
