//! Names on demand: the handle that requests hold, and the marks by which idle names are found.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use outrigger_core::model::ServiceName;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{
    outbound::{Discover, DiscoverError, Resolving},
    snapshot::{self, Snapshot},
};

/// Questions that wait for the control thread; more wait at the sender, each no longer than its own timeout.
const QUESTIONS: usize = 256;

/// One request's question for a name.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) service: ServiceName,
    pub(super) reply: oneshot::Sender<Result<Arc<Snapshot>, DiscoverError>>,
}

/// Asks for destinations by name. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Demand {
    questions: mpsc::Sender<Question>,
    snapshot: snapshot::Handle,
    marks: Arc<Marks>,
}

impl Demand {
    pub(super) fn new(snapshot: snapshot::Handle) -> (Self, mpsc::Receiver<Question>) {
        let (questions, receiver) = mpsc::channel(QUESTIONS);
        (Self { questions, snapshot, marks: Arc::default() }, receiver)
    }

    /// The sweep's side of the marks.
    pub(super) fn usage(&self) -> Usage {
        Usage { marks: Arc::clone(&self.marks), names: BTreeMap::new() }
    }

    async fn ask(&self, service: &ServiceName) -> Result<Arc<Snapshot>, DiscoverError> {
        let (reply, answer) = oneshot::channel();
        let question = Question { service: service.clone(), reply };
        self.questions.send(question).await.map_err(|_gone| DiscoverError::Disconnected)?;
        answer.await.map_err(|_gone| DiscoverError::Disconnected)?
    }
}

impl Discover for Demand {
    fn resolve<'a>(&'a self, service: &'a ServiceName, limit: Duration) -> Resolving<'a> {
        Box::pin(async move {
            let snapshot = self.snapshot.load();
            if snapshot.services.contains_key(service) {
                self.marks.touch(service);
                return Ok(snapshot);
            }
            timeout(limit, self.ask(service)).await.map_err(|_elapsed| DiscoverError::Timeout)?
        })
    }

    fn touch(&self, service: &ServiceName) {
        self.marks.touch(service);
    }
}

/// A mark on each name that was used since the last sweep. No clock and, while a name is busy, no write on a request's
/// path: the sweep reads the time, once for all names.
#[derive(Debug, Default)]
struct Marks(ArcSwap<HashMap<ServiceName, Arc<AtomicBool>, RandomState>>);

impl Marks {
    fn touch(&self, service: &ServiceName) {
        if let Some(mark) = self.0.load().get(service)
            && !mark.load(Ordering::Relaxed)
        {
            mark.store(true, Ordering::Relaxed);
        }
    }
}

/// When each name was last seen in use: the sweep's side of [`Marks`].
#[derive(Debug)]
pub(super) struct Usage {
    marks: Arc<Marks>,
    names: BTreeMap<ServiceName, (Arc<AtomicBool>, Instant)>,
}

impl Usage {
    /// `service` is in use now.
    pub(super) fn used(&mut self, service: &ServiceName, now: Instant) {
        match self.names.get_mut(service) {
            Some((_, seen)) => *seen = now,
            None => {
                self.names.insert(service.clone(), (Arc::new(AtomicBool::new(false)), now));
                self.publish();
            }
        }
    }

    /// All of `services` are in use now, for all that is known.
    pub(super) fn assume<'a>(&mut self, services: impl IntoIterator<Item = &'a ServiceName>, now: Instant) {
        for service in services {
            let mark = Arc::new(AtomicBool::new(false));
            self.names.entry(service.clone()).or_insert((mark, now));
        }
        self.publish();
    }

    /// All names, those in use last first.
    pub(super) fn by_recency(&self) -> Vec<ServiceName> {
        let mut names: Vec<_> = self.names.iter().collect();
        // A mark is newer than any sweep.
        names.sort_by_key(|(_, (mark, seen))| Reverse((mark.load(Ordering::Relaxed), *seen)));
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Nobody wants `service` any more.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        if self.names.remove(service).is_some() {
            self.publish();
        }
    }

    /// The names that nobody used for `idle`. To be called every quarter of it: a name is given up after one to
    /// one and a quarter times `idle`.
    pub(super) fn sweep(&mut self, idle: Duration, now: Instant) -> Vec<ServiceName> {
        let mut unused = Vec::new();
        for (name, (mark, seen)) in &mut self.names {
            if mark.swap(false, Ordering::Relaxed) {
                *seen = now;
            } else if now.duration_since(*seen) >= idle {
                unused.push(name.clone());
            }
        }
        unused
    }

    fn publish(&self) {
        let marks = self.names.iter().map(|(name, (mark, _))| (name.clone(), Arc::clone(mark)));
        self.marks.0.store(Arc::new(marks.collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_in_use_is_kept_and_an_idle_one_is_found() {
        let (demand, _questions) = Demand::new(snapshot::Handle::default());
        let mut usage = demand.usage();
        let (busy, idle) = (name("demo/busy"), name("demo/idle"));
        usage.used(&busy, Instant::now());
        usage.used(&idle, Instant::now());
        for _ in 0..4 {
            tokio::time::advance(Duration::from_secs(15)).await;
            demand.touch(&busy);
            demand.touch(&name("demo/unknown"));
            let unused = usage.sweep(Duration::from_secs(60), Instant::now());
            let expected = if Instant::now().duration_since(usage.names[&idle].1) >= Duration::from_secs(60) {
                vec![idle.clone()]
            } else {
                Vec::new()
            };
            assert_eq!(unused, expected);
        }
        usage.forget(&idle);
        assert!(usage.sweep(Duration::from_secs(60), Instant::now()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_in_use_last_come_first() {
        let (demand, _questions) = Demand::new(snapshot::Handle::default());
        let mut usage = demand.usage();
        let [restored, old, new, busy] = ["demo/a", "demo/b", "demo/c", "demo/d"].map(name);
        usage.assume([&restored], Instant::now());
        for used in [&busy, &old, &new] {
            tokio::time::advance(Duration::from_secs(1)).await;
            usage.used(used, Instant::now());
        }
        demand.touch(&busy);
        assert_eq!(usage.by_recency(), [busy, new, old, restored]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_limit() {
        let (demand, _questions) = Demand::new(snapshot::Handle::default());
        let service = name("demo/price");
        let answer = demand.resolve(&service, Duration::from_millis(300)).await;
        assert_eq!(answer.unwrap_err(), DiscoverError::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_control_thread_that_is_gone() {
        let (demand, questions) = Demand::new(snapshot::Handle::default());
        drop(questions);
        let service = name("demo/price");
        let answer = demand.resolve(&service, Duration::from_secs(1)).await;
        assert_eq!(answer.unwrap_err(), DiscoverError::Disconnected);
    }
}
