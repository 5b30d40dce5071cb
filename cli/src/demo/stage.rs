//! What an act of the demo has to work with while the load runs: the mesh, its processes, and the phase's clock.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    books::{Books, count},
    mesh::{Member, Mesh},
    process::Stack,
};
use crate::{
    failure::Failure,
    output::{Colour, Output},
};

/// How often something is looked for.
const POLL: Duration = Duration::from_millis(50);
/// How long a change may take until it shows: far more than it takes, since this machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a command may take: longer than it waits by itself.
const COMMAND: Duration = Duration::from_secs(30);

/// A promise, and what was seen of it: `Err` if it broke.
pub(crate) type Judged = (String, Result<String, String>);

/// What an act saw. Each act has a function `play` beside this, which does at its moments what it does and returns it;
/// when the phase is over it is held against the books.
pub(crate) trait Act {
    /// The requests that may be without an answer, or a GET that may have been sent again, because of it.
    fn excused(&self, _books: &Books) -> Vec<u64> {
        Vec::new()
    }

    /// Its promises, counted.
    fn judge(&self, books: &Books) -> Vec<Judged>;
}

/// The stage of one phase.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// The mesh.
    pub(crate) mesh: &'a mut Mesh,
    /// Its processes.
    pub(crate) stack: &'a mut Stack,
    output: &'a Output,
    start: Instant,
}

impl<'a> Stage<'a> {
    /// Of a phase that began at `start`.
    pub(crate) fn new(output: &'a Output, mesh: &'a mut Mesh, stack: &'a mut Stack, start: Instant) -> Self {
        Self { mesh, stack, output, start }
    }

    /// Now, since the start of the phase: what the books measure by.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for a moment of the phase; at once if it has passed.
    pub(crate) async fn at(&self, moment: Duration) {
        sleep_until(self.start + moment).await;
    }

    /// Tells what happens, with its moment.
    pub(crate) fn say(&self, what: &str) -> Result<(), Failure> {
        let moment = format!("{:>6.1} s", self.now().as_secs_f64());
        self.output.print(&format!("{}  {what}", self.output.paint(Colour::Dim, &moment)))
    }

    /// Waits until `member` has logged `more` requests from now on; when it had, or that it never did.
    pub(crate) async fn serves(
        &self,
        member: &Member,
        more: usize,
    ) -> Result<Result<Duration, String>, Failure> {
        let before = self.mesh.served(member)?.len();
        self.until(&format!("{} was not called again", member.name), async |stage: &Self| {
            Ok((stage.mesh.served(member)?.len() >= before + more).then_some(()))
        })
        .await
    }

    /// Asks `found` again and again; when it first had an answer, or `otherwise`.
    pub(crate) async fn until(
        &self,
        otherwise: &str,
        mut found: impl AsyncFnMut(&Self) -> Result<Option<()>, Failure>,
    ) -> Result<Result<Duration, String>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if found(self).await?.is_some() {
                return Ok(Ok(self.now()));
            }
            sleep(POLL).await;
        }
        Ok(Err(format!("{otherwise} within {} s", PATIENCE.as_secs())))
    }

    /// Runs this command as an operator would; what it printed, or what it said when it failed.
    pub(crate) async fn outrigger(&self, words: &[&str]) -> Result<String, String> {
        let global = &self.mesh.global;
        let credential = global.credential.clone().unwrap_or_default();
        let environment = [
            ("OUTRIGGER_SERVER", global.server.clone().into()),
            ("OUTRIGGER_CREDENTIAL", credential.into_os_string()),
        ];
        self.stack.outrigger(words, environment, COMMAND).await
    }

    /// Sends a signal to each of the processes, in this order, and waits for their ends.
    pub(crate) async fn kill(&mut self, names: &[&str]) -> Result<(), Failure> {
        for name in names {
            self.stack.process(name)?.signal(Signal::KILL)?;
        }
        for name in names {
            self.stack.process(name)?.gone().await?;
        }
        Ok(())
    }
}

/// `0 of 712`: how many of the requests of a time had no good answer; `Err` if one had none.
pub(crate) fn failed(books: &Books, from: Duration, to: Duration) -> Result<String, String> {
    let all = count(books.window(from, to));
    let failed = count(books.window(from, to).filter(|sent| sent.outcome.is_err()));
    let seen = format!("{failed} of {all}");
    if failed == 0 && all > 0 { Ok(seen) } else { Err(seen) }
}

/// `3.1 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
