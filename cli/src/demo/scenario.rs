//! The demo's course: four phases of load, what happens in each, and the promises that each is held to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    acts::{Canary, Drain, Failing, Kill, Outage, Rollback, Rotation, Slow, Table, identities},
    books::{Books, MIN_LENGTH, count},
    load::{self, Counters, Load, Traffic},
    mesh::{self, CART, FRONT, Mesh},
    process::Stack,
    stage::{Act, Judged, Stage},
    verdict::Verdict,
};
use crate::{
    failure::Failure,
    output::{Colour, Output, Screen},
};

/// The shortest phase: a little more than what proves anything, since the last request is what counts.
const LEAST: Duration = MIN_LENGTH.saturating_add(Duration::from_millis(100));
/// How often the live table is drawn.
const REFRESH: Duration = Duration::from_secs(2);

/// The demo's course.
#[derive(Debug)]
pub(crate) struct Scenario<'a> {
    output: &'a Output,
    verdict: Verdict,
    live: bool,
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
        self.heading(
            "a control plane, and front -> cart -> price (v1 twice, v2 once), each beside its sidecar",
        )?;
        let mut mesh = mesh::start(stack).await?;
        let load = Arc::new(Load::new(mesh.place(&FRONT)?.application));
        let (workloads, warm) = mesh.settle(&load).await?;
        let judged = identities(self.output, &mesh, &workloads, begin.elapsed()).await?;
        self.judge_all(judged)?;
        self.routing(&mut mesh, stack, &load, warm).await?;
        self.instances(&mut mesh, stack, &load).await?;
        self.control(&mut mesh, stack, &load).await?;
        self.endpoints(&mut mesh, stack, &load).await?;
        if live { self.live(&mesh, &load).await } else { Ok(()) }
    }

    /// A canary, and then where the time went.
    async fn routing(
        &mut self,
        mesh: &mut Mesh,
        stack: &mut Stack,
        load: &Arc<Load>,
        warm: u64,
    ) -> Result<(), Failure> {
        self.heading(&format!(
            "routing: {} requests/s on front, 30 % POST; price is split 90/10",
            load::RATE
        ))?;
        let (traffic, mut stage) = self.begin(load, mesh, stack);
        let canary = Canary::play(&mut stage).await?;
        let books = self.end(traffic, mesh, &[&canary]).await?;

        self.heading("where the time went: outrigger hops demo/cart")?;
        let delivered = u64::from(count(books.sent().iter()));
        let table = Table::complete(mesh, delivered).await?;
        self.output.print(&table.people(self.output))?;
        self.judge_all(table.judge(delivered, warm))
    }

    /// An instance is lost, another one leaves.
    async fn instances(
        &mut self,
        mesh: &mut Mesh,
        stack: &mut Stack,
        load: &Arc<Load>,
    ) -> Result<(), Failure> {
        self.heading("instances: one is killed, one is drained, under the same load")?;
        let (traffic, mut stage) = self.begin(load, mesh, stack);
        let kill = Kill::play(&mut stage).await?;
        let drain = Drain::play(&mut stage).await?;
        self.end(traffic, mesh, &[&kill, &drain]).await.map(drop)
    }

    /// All certificates are replaced; the control plane is lost.
    async fn control(&mut self, mesh: &mut Mesh, stack: &mut Stack, load: &Arc<Load>) -> Result<(), Failure> {
        self.heading("control: certificates are rotated, the control plane is killed, under the same load")?;
        let (traffic, mut stage) = self.begin(load, mesh, stack);
        let rotation = Rotation::play(&mut stage).await?;
        let outage = Outage::play(&mut stage).await?;
        self.end(traffic, mesh, &[&rotation, &outage]).await.map(drop)
    }

    /// The canary is taken back; endpoints are slow, and fail.
    async fn endpoints(
        &mut self,
        mesh: &mut Mesh,
        stack: &mut Stack,
        load: &Arc<Load>,
    ) -> Result<(), Failure> {
        self.heading(
            "endpoints: the canary is taken back, one becomes slow, one fails, under the same load",
        )?;
        let (traffic, mut stage) = self.begin(load, mesh, stack);
        let rollback = Rollback::play(&mut stage).await?;
        let slow = Slow::play(&mut stage).await?;
        let (other, victim) = slow.pair();
        let failing = Failing::play(&mut stage, victim, other).await?;
        self.end(traffic, mesh, &[&rollback, &slow, &failing]).await.map(drop)
    }

    /// Starts the load of a phase, and the clock of its acts.
    fn begin<'s>(&self, load: &Arc<Load>, mesh: &'s mut Mesh, stack: &'s mut Stack) -> (Traffic, Stage<'s>)
    where
        'a: 's,
    {
        let start = Instant::now();
        (Arc::clone(load).phase(start, LEAST), Stage::new(self.output, mesh, stack, start))
    }

    /// Ends the load of a phase, and holds the phase and its acts to their promises.
    async fn end(&mut self, traffic: Traffic, mesh: &Mesh, acts: &[&dyn Act]) -> Result<Books, Failure> {
        let books = mesh.books(traffic.end().await?)?;
        for act in acts {
            self.judge_all(act.judge(&books))?;
        }
        let excused: Vec<u64> = acts.iter().flat_map(|act| act.excused(&books)).collect();
        self.judge_all(phase(&books, &excused, mesh))?;
        Ok(books)
    }

    /// Judges the stop, and prints the verdict as the last line.
    ///
    /// # Errors
    /// [`Failure::Broken`] when a promise broke.
    pub(crate) fn stopped(&mut self, defects: &[String]) -> Result<(), Failure> {
        let found = if defects.is_empty() { Ok(String::new()) } else { Err(defects.join("; ")) };
        let promise = "every process stopped by itself, and nothing is left behind".to_owned();
        self.judge_all(vec![(promise, found)])?;
        self.output.print(&self.verdict.line())?;
        self.verdict.result()
    }

    fn heading(&self, text: &str) -> Result<(), Failure> {
        let text = self.output.paint(Colour::Bold, text);
        self.output.print(&format!("\n== {text}"))
    }

    fn judge_all(&mut self, judged: Vec<Judged>) -> Result<(), Failure> {
        judged.into_iter().try_for_each(|(promise, found)| self.verdict.judge(self.output, &promise, found))
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
        let mut cursor = Table::since(mesh, Vec::new()).await?.1;
        let mut screen = Screen::new(self.output);
        loop {
            sleep(REFRESH).await;
            let (table, next) = Table::since(mesh, cursor).await?;
            cursor = next;
            screen.draw(&format!(
                "{} requests, {} failed\n\n{}",
                counters.done.load(Ordering::Relaxed),
                counters.failed.load(Ordering::Relaxed),
                table.people(self.output)
            ))?;
        }
    }
}

/// The promises about every request of a phase, but for those that its acts account for.
fn phase(books: &Books, excused: &[u64], mesh: &Mesh) -> Vec<Judged> {
    let mut defects = books.defects(excused);
    defects.extend(books.too_little());
    let posts = count(books.sent().iter().filter(|sent| sent.is_post()));
    let seen = format!("{} sent, {posts} POST; 0 failed, 0 missing, 0 twice", count(books.sent().iter()));
    let lost = if defects.is_empty() { Ok(seen) } else { Err(defects.join("; ")) };
    let strangers = books.strangers(mesh.identity(&FRONT), mesh.identity(&CART));
    let callers = match strangers.first() {
        None => Ok("front's at cart, cart's at price".to_owned()),
        Some(id) => Err(format!("{} requests did not, the first is #{id}", strangers.len())),
    };
    let promise = match excused.len() {
        0 => "phase: no request was lost".to_owned(),
        number => format!("phase: but for those {number}, no request was lost"),
    };
    vec![(promise, lost), ("phase: every request came with its caller's identity".to_owned(), callers)]
}

/// A task that ends with its owner.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
