//! The control thread's task: keeps the stream, answers questions, publishes snapshots.

mod restore;

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use outrigger_core::{
    delta::{
        TYPES,
        client::{Client, Update},
    },
    model::ServiceName,
    wire::FEATURES,
};
use outrigger_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    type_url,
};
use tokio::{
    sync::{
        mpsc::{self, error::SendTimeoutError},
        oneshot, watch,
    },
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    Discovery, Link, Status,
    catalog::{Answer, Catalog, Held},
    demand::{Question, Usage},
    last_known_good::{Contents, Origin, Raw},
    validate::{self, Resource},
};
use crate::{
    backoff::Backoff,
    endpoint::States,
    outbound::DiscoverError,
    reconnect::{PATIENCE, StreamError, answer},
    snapshot::{self, Snapshot},
};

/// Requests on their way to the control plane.
const REQUESTS: usize = 64;
/// Names that one workload may want at once. An application that asks for ever new names must not fill the memory.
const MAX_NAMES: usize = 4096;
/// Until the control plane says otherwise.
const DEFAULT_IDLE: Duration = Duration::from_secs(300);
/// Largest response; the control plane splits at 1 MiB.
const MAX_RESPONSE: usize = 4 << 20;

/// A process that was just started is ready before its first stream is open: so long the first questions wait for it.
const HOPE: Duration = Duration::from_millis(500);

/// For the control plane to confirm a good-bye; less than a stopping proxy waits for its tasks.
const GOOD_BYE: Duration = Duration::from_millis(900);

type Reply = oneshot::Sender<Result<Arc<Snapshot>, DiscoverError>>;

/// An open stream.
#[derive(Debug)]
struct Open {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Open {
    /// Ends the requests and waits for the control plane to end the responses: a stream that is dropped whole reads
    /// like one that broke, and its proxy like one that is missing.
    async fn good_bye(self) {
        let Self { requests, mut responses } = self;
        drop(requests);
        let ended = async { while let Ok(Some(_)) = responses.message().await {} };
        if timeout(GOOD_BYE, ended).await.is_err() {
            tracing::debug!("the control plane did not confirm the good-bye in time");
        }
    }
}

/// Everything that discovery holds; one task owns it.
#[derive(Debug)]
pub(super) struct Task {
    link: Link,
    snapshot: snapshot::Handle,
    states: States,
    client: Client,
    catalog: Catalog,
    usage: Usage,
    questions: mpsc::Receiver<Question>,
    waiting: BTreeMap<ServiceName, Vec<Reply>>,
    status: watch::Sender<Status>,
    /// Requests that this turn of the loop brought about.
    outbox: VecDeque<DeltaDiscoveryRequest>,
    connected: bool,
    /// Until when the first stream of this process is waited for; `None`: it came, or it did not.
    hope: Option<Instant>,
    has_bundle: bool,
    /// Of what was restored, until the control plane has confirmed or replaced it.
    origin: Option<Origin>,
    contents: watch::Sender<Option<Arc<Contents>>>,
    /// Prefix of the stream's nonces.
    stream: String,
    next_sweep: Instant,
    generation: u64,
    refused: u64,
}

impl Task {
    pub(super) fn new(discovery: Discovery, link: Link) -> Self {
        let node = Node {
            id: link.instance.to_string(),
            user_agent_name: "outrigger-proxy".to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            client_features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
            ..Node::default()
        };
        let mut client = Client::new(node, &TYPES);
        // Without a stream nothing is sent: the first one begins with it.
        client.subscribe(type_url::PROXY_CONFIG, validate::SELF);
        let Discovery { snapshot, states, demand, questions, status, restored, contents } = discovery;
        let mut task = Self {
            link,
            snapshot,
            states,
            client,
            catalog: Catalog::default(),
            usage: demand.usage(),
            questions,
            waiting: BTreeMap::new(),
            status,
            next_sweep: Instant::now() + DEFAULT_IDLE / 4,
            outbox: VecDeque::new(),
            connected: false,
            hope: Some(Instant::now() + HOPE),
            has_bundle: false,
            origin: None,
            contents,
            stream: String::new(),
            generation: 0,
            refused: 0,
        };
        if let Some(kept) = restored {
            task.restore(kept);
        }
        task
    }

    /// Runs until `stop`, and says good-bye then.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::CONTROL_PLANE;
        loop {
            let opened = Instant::now();
            let mut open = None;
            let error = tokio::select! {
                () = stop.cancelled() => {
                    if let Some(open) = open {
                        open.good_bye().await;
                    }
                    return;
                }
                Err(error) = self.session(&mut open) => error,
            };
            self.disconnected();
            backoff.session_lived(opened.elapsed());
            let wait = backoff.next(rand::random());
            tracing::warn!(%error, retry_in = ?wait, "no configuration stream; what is known stays in force");
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.pass(Instant::now() + wait) => {}
            }
        }
    }

    /// One stream, from its opening to its end; `open` holds it in between.
    async fn session(&mut self, open: &mut Option<Open>) -> Result<Infallible, StreamError> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        // Sent before the stream is open: the control plane may want to see who asks before it answers.
        self.outbox = self.client.connect().into();
        self.flush(&requests).await?;
        let mut ads = AggregatedDiscoveryServiceClient::new(self.link.channel.clone())
            .max_decoding_message_size(MAX_RESPONSE);
        let opening = answer(ads.delta_aggregated_resources(ReceiverStream::new(outgoing)));
        tokio::pin!(opening);
        let responses = loop {
            tokio::select! {
                opened = &mut opening => break opened?.into_inner(),
                Some(question) = self.questions.recv() => self.ask(question),
                () = sleep_until(self.hope.unwrap_or_else(Instant::now)), if self.hope.is_some() => {
                    self.answer_without_stream();
                }
            }
        };
        let Open { requests, responses } = open.insert(Open { requests, responses });
        tracing::info!("configuration stream open");
        self.connected = true;
        self.hope = None;
        self.publish();
        loop {
            self.flush(requests).await?;
            let wake = self.wake();
            tokio::select! {
                message = responses.message() => self.take(message?.ok_or(StreamError::Ended)?),
                Some(question) = self.questions.recv() => self.ask(question),
                () = sleep_until(wake) => self.tick(),
            }
        }
    }

    /// Without a stream: answers questions from what is known.
    async fn pass(&mut self, until: Instant) {
        while Instant::now() < until {
            let wake = self.wake().min(until);
            tokio::select! {
                Some(question) = self.questions.recv() => self.ask(question),
                () = sleep_until(wake) => self.tick(),
            }
        }
    }

    async fn flush(&mut self, requests: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), StreamError> {
        while let Some(request) = self.outbox.pop_front() {
            match requests.send_timeout(request, PATIENCE).await {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(_)) => return Err(StreamError::Silent),
                // The stream itself says why.
                Err(SendTimeoutError::Closed(_)) => break,
            }
        }
        Ok(())
    }

    /// When something is due although nobody says anything.
    fn wake(&self) -> Instant {
        match self.catalog.deadline().map(Instant::from_std) {
            Some(deadline) => deadline.min(self.next_sweep),
            None => self.next_sweep,
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next_sweep {
            let idle = self.catalog.config().map_or(DEFAULT_IDLE, |config| config.on_demand_idle);
            self.next_sweep = now + idle / 4;
            // Without a stream a name that is given up could not be had again.
            if self.connected {
                for name in self.usage.sweep(idle, now) {
                    tracing::debug!(service = %name, "idle; given up");
                    self.give_up(&name);
                }
            }
        }
        self.publish();
    }

    fn ask(&mut self, question: Question) {
        let Question { service, reply } = question;
        let answer = self.catalog.answer(&service);
        if answer.is_none() && !self.make_room() {
            tracing::warn!(%service, limit = MAX_NAMES, "too many names are in use; this one is not asked for");
            // At once: questions that wait would be one more thing to fill.
            let error = if self.connected { DiscoverError::Timeout } else { DiscoverError::Disconnected };
            return drop(reply.send(Err(error)));
        }
        self.usage.used(&service, Instant::now());
        if self.catalog.want(&service) {
            let request = self.client.subscribe(type_url::SERVICE, &service.to_string());
            self.outbox.extend(request);
        }
        let known = match answer {
            Some(Answer::Visible) => Some(Ok(self.snapshot.load())),
            Some(Answer::Absent) => Some(Err(DiscoverError::NotFound)),
            Some(Answer::Awaited) | None if self.connected || self.hope.is_some() => None,
            Some(Answer::Awaited) | None => Some(self.last_answer(&service)),
        };
        match known {
            // Whoever asked may be gone by now.
            Some(known) => drop(reply.send(known)),
            None => {
                let waiting = self.waiting.entry(service).or_default();
                waiting.retain(|reply| !reply.is_closed());
                waiting.push(reply);
            }
        }
    }

    /// Whether one more name fits, possibly in place of those that do not exist.
    fn make_room(&mut self) -> bool {
        if self.catalog.len() >= MAX_NAMES {
            for name in self.catalog.absent() {
                self.give_up(&name);
            }
        }
        self.catalog.len() < MAX_NAMES
    }

    fn give_up(&mut self, name: &ServiceName) {
        self.usage.forget(name);
        self.catalog.give_up(name);
        self.outbox.extend(self.client.unsubscribe(type_url::SERVICE, &name.to_string()));
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        let nonce = response.nonce.clone();
        // Rule 13. It is told, never reckoned with.
        let revision = response.system_version_info.parse().unwrap_or_default();
        let Some(kind) = TYPES.iter().find(|kind| kind.url == response.type_url) else {
            tracing::warn!(type_url = response.type_url, "a response of an unknown type is ignored");
            return;
        };
        let own = self.link.identity.id();
        let now = Instant::now().into_std();
        let received = self.client.on_response(response, now, |name, any| {
            let resource = validate::resource(own.as_ref(), kind.url, name, any)?;
            Ok((resource, Bytes::copy_from_slice(&any.value)))
        });
        for rejected in &received.rejected {
            self.refused += 1;
            tracing::warn!(
                type_url = kind.url,
                name = rejected.name,
                field = rejected.field,
                reason = rejected.reason,
                "refused what the control plane sent; the last good one stays in force"
            );
        }
        self.outbox.push_back(received.request);
        for update in received.updates {
            self.update(kind.url, update);
        }
        self.stream = nonce.split('-').next().unwrap_or_default().to_owned();
        self.catalog.received(kind.url, nonce, revision);
        self.publish();
    }

    fn update(&mut self, type_url: &'static str, update: Update<(Resource, Bytes)>) {
        match update {
            Update::Set { name, version, value: (resource, content) } => {
                let raw = Raw { version: version.into(), content };
                match resource {
                    Resource::Config(config) => {
                        self.next_sweep = self.next_sweep.min(Instant::now() + config.on_demand_idle / 4);
                        self.catalog.put_config(Held::new(config, raw));
                    }
                    Resource::Bundle(bundle) => {
                        self.link.identity.set_bundle(bundle);
                        self.has_bundle = true;
                        self.catalog.put_bundle(name, raw);
                    }
                    Resource::Service(service) => {
                        self.catalog.put_service(Held::new(service, raw), Instant::now().into_std());
                    }
                    Resource::EndpointSet(set) => {
                        self.catalog.put_endpoint_set(&name, Held::new(set, raw));
                    }
                }
            }
            Update::Absent { name, cause } => match (type_url, name.parse::<ServiceName>()) {
                (type_url::SERVICE, Ok(service)) => self.catalog.remove_service(&service),
                (type_url::ENDPOINT_SET, _) => self.catalog.remove_endpoint_set(&name),
                // Never without an own side, and never without anybody to trust.
                _ => {
                    tracing::warn!(type_url, name, ?cause, "not there any more; the last one stays in force")
                }
            },
        }
    }

    /// Puts in force whatever may be, asks for what that needs, and tells everybody who waits for it.
    fn publish(&mut self) {
        self.catalog.settle(Instant::now().into_std());
        self.want_sets();
        if self.catalog.take_changed() {
            self.generation += 1;
            self.snapshot.publish(self.catalog.snapshot(&self.states, self.generation));
        }
        self.catalog.published();
        self.keep();
        self.answer();
        self.tell();
    }

    fn answer(&mut self) {
        let catalog = &self.catalog;
        let snapshot = &self.snapshot;
        self.waiting.retain(|name, waiting| {
            let answer = match catalog.answer(name) {
                Some(Answer::Visible) => Ok(snapshot.load()),
                Some(Answer::Absent) => Err(DiscoverError::NotFound),
                Some(Answer::Awaited) => return true,
                // It was given up meanwhile; the caller's own timeout answers.
                None => {
                    waiting.retain(|reply| !reply.is_closed());
                    return !waiting.is_empty();
                }
            };
            for reply in waiting.drain(..) {
                drop(reply.send(answer.clone()));
            }
            false
        });
    }

    fn tell(&self) {
        let status = Status {
            connected: self.connected,
            configured: self.has_bundle && self.catalog.config().is_some(),
            last_known_good: self.origin,
            generation: self.generation,
            stream: self.stream.clone(),
            applied: self.catalog.applied(),
            pending: self.catalog.pending(),
            refused: self.refused,
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    /// The stream is gone: nobody waits any longer, and the next one numbers its responses anew.
    fn disconnected(&mut self) {
        self.connected = false;
        self.client.disconnect();
        self.outbox.clear();
        self.stream.clear();
        self.catalog.forget_nonces();
        self.answer_without_stream();
        self.tell();
    }

    /// Nobody waits, now or later, as long as there is no stream.
    fn answer_without_stream(&mut self) {
        self.hope = None;
        for (service, waiting) in std::mem::take(&mut self.waiting) {
            let answer = self.last_answer(&service);
            for reply in waiting {
                drop(reply.send(answer.clone()));
            }
        }
    }

    fn last_answer(&mut self, service: &ServiceName) -> Result<Arc<Snapshot>, DiscoverError> {
        if self.recall(service) { Ok(self.snapshot.load()) } else { Err(DiscoverError::Disconnected) }
    }
}
