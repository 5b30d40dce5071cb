//! One proxy's stream: the IO around [`server::Session`].

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    delta::{
        TYPES,
        server::{self, Answer, ProtocolError},
    },
    model::{Name, SpiffeId},
    wire,
};
use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
    status::v1alpha1 as status,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::{Type, World, service::Shared, shelf::Shelf};
use crate::status::{Progress, Reported};

/// A call that the client gave up reads like its good-bye, except that the responses' way is closed with it, a moment
/// later.
const GIVEN_UP: Duration = Duration::from_millis(100);
/// Rejections of one proxy that operators are told of.
const MAX_REJECTIONS: usize = 64;

/// How a stream ended.
enum End {
    /// By a half-close: the proxy stops.
    GoodBye,
    /// It broke, or nobody reads any more.
    Broken,
    /// We end it.
    Refused(Status),
}

/// A stream that has not said who it is.
pub(super) struct Stream {
    shared: Shared,
    client: SpiffeId,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

/// A stream whose proxy is known.
struct Serving {
    shared: Shared,
    client: SpiffeId,
    node_id: String,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    session: server::Session,
    /// What is rejected, as the board has it.
    rejections: Vec<status::Rejection>,
    world: Arc<World>,
    /// Since when something waits for the client: to read, or to answer.
    waiting: Option<Instant>,
    /// The last response was not taken yet.
    full: bool,
}

impl Stream {
    pub(super) fn new(
        shared: Shared,
        client: SpiffeId,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { shared, client, responses, _permit: permit }
    }

    pub(super) async fn run(self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let stop = self.shared.stop.clone();
        let first = tokio::select! {
            first = timeout(self.shared.limits.first_request, requests.message()) => first,
            () = stop.cancelled() => return self.refuse(Status::unavailable("the control plane stops")).await,
        };
        let first = match first {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None) | Err(_)) => return,
            Err(_elapsed) => return self.refuse(Status::deadline_exceeded("no request came")).await,
        };
        let node = first.node.clone().unwrap_or_default();
        let id = match node_id(&self.client, &node) {
            Ok(id) => id,
            Err(status) => return self.refuse(status).await,
        };
        let mut worlds = self.shared.worlds.clone();
        let world = Arc::clone(&worlds.borrow_and_update());
        let session = server::Session::new(rand::random(), &TYPES, world.revision());
        let name = session.stream().to_owned();
        let board = Arc::clone(&self.shared.board);
        let now = self.shared.clock.now();
        let reports = board.connect(&name, &id, &self.client, &node.user_agent_version, now);
        tracing::info!(node.id = %id, stream = %name, "proxy connected");
        let metrics = self.shared.metrics.clone();
        metrics.streams.inc();
        let mut serving = Serving {
            shared: self.shared,
            client: self.client,
            node_id: id.clone(),
            responses: self.responses,
            session,
            rejections: Vec::new(),
            world,
            waiting: None,
            full: false,
        };
        let end = serving.serve(first, &mut requests, worlds, reports).await;
        metrics.streams.dec();
        let good_bye = matches!(end, End::GoodBye);
        board.disconnect(&name, good_bye, (Instant::now(), serving.shared.clock.now()));
        tracing::info!(node.id = %id, stream = %name, good_bye, "proxy disconnected");
        if let End::Refused(status) = end {
            // Nobody waits here for a client that does not read.
            let _unread = serving.responses.try_send(Err(status)).is_err();
        }
    }

    async fn refuse(self, status: Status) {
        let _gone = self.responses.send(Err(status)).await.is_err();
    }
}

/// `<SPIFFE ID>#<instance>`: the identity is the certificate's, whatever the node says; the instance is the node's.
fn node_id(client: &SpiffeId, node: &Node) -> Result<String, Status> {
    let instance = node.id.rsplit_once('#').map_or(node.id.as_str(), |(_, instance)| instance);
    let instance: Name = instance
        .parse()
        .map_err(|error| Status::invalid_argument(format!("node.id: the instance {error}")))?;
    Ok(format!("{client}#{instance}"))
}

impl Serving {
    async fn serve(
        &mut self,
        first: DeltaDiscoveryRequest,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        mut worlds: watch::Receiver<Arc<World>>,
        mut reports: watch::Receiver<Reported>,
    ) -> End {
        let responses = self.responses.clone();
        let mut settled = self.shared.settled.clone();
        if let Err(status) = self.take(first) {
            return End::Refused(status);
        }
        loop {
            let told = *settled.borrow_and_update();
            if told {
                self.send();
            }
            self.tell_board();
            let deadline = self.waiting.map(|since| since + self.shared.limits.patience);
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => if let Err(status) = self.take(request) {
                        return End::Refused(status);
                    },
                    Ok(None) if timeout(GIVEN_UP, responses.closed()).await.is_err() => {
                        return End::GoodBye;
                    }
                    Ok(None) | Err(_) => return End::Broken,
                },
                changed = worlds.changed() => {
                    if changed.is_err() {
                        return End::Refused(Status::unavailable("the control plane stops"));
                    }
                    self.advance(Arc::clone(&worlds.borrow_and_update()));
                }
                changed = settled.changed(), if !told => if changed.is_err() {
                    return End::Refused(Status::unavailable("the control plane stops"));
                },
                reported = reports.changed() => if reported.is_ok() {
                    self.applied(&reports.borrow_and_update());
                },
                permit = responses.reserve(), if self.full => match permit {
                    Ok(permit) => {
                        drop(permit);
                        self.full = false;
                        self.waiting = self.session.in_flight().then(Instant::now);
                    }
                    Err(_closed) => return End::Broken,
                },
                () = responses.closed() => return End::Broken,
                () = self.shared.stop.cancelled() => {
                    return End::Refused(Status::unavailable("the control plane stops"));
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.shared.metrics.slow_streams.inc();
                    tracing::warn!(stream = self.session.stream(), full = self.full,
                        "a proxy neither reads nor answers; its stream is ended");
                    return End::Refused(Status::deadline_exceeded("a response was not answered"));
                }
            }
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        match self.session.on_request(request) {
            Ok(received) => {
                if let Some(answer) = received.answer {
                    self.waiting = self.session.in_flight().then(Instant::now);
                    self.judge(&answer);
                }
                Ok(())
            }
            Err(error @ ProtocolError::UnknownType(_)) => {
                // A newer proxy asks for more than this server has; the rest of its stream is as good as any.
                tracing::debug!(%error, stream = self.session.stream(), "request ignored");
                Ok(())
            }
            Err(error @ (ProtocolError::TooManyNames | ProtocolError::InvalidName)) => {
                Err(Status::invalid_argument(error.to_string()))
            }
        }
    }

    fn judge(&self, answer: &Answer) {
        let Answer::Nack { message, rejected } = answer else { return };
        self.shared.metrics.rejections.inc();
        for rejection in rejected.iter().take(MAX_REJECTIONS) {
            tracing::warn!(client = %self.client, resource.kind = rejection.type_url,
                resource.name = rejection.detail.name, field = rejection.detail.field,
                reason = rejection.detail.reason, "a proxy rejected a resource");
        }
        if rejected.is_empty() {
            tracing::warn!(client = %self.client, message, "a proxy rejected a response");
        }
    }

    fn advance(&mut self, next: Arc<World>) {
        match next.changes_since(self.world.sequence) {
            Some(names) => {
                let dirty = names.map(|name| (name.kind.url(), &*name.name));
                self.session.on_change(next.revision(), dirty);
            }
            // Too far behind to know: whatever it has may differ.
            None => self.session.on_lapse(next.revision()),
        }
        self.world = next;
    }

    fn applied(&mut self, reported: &Reported) {
        for applied in &reported.applied {
            self.session.on_applied(&applied.type_url, &applied.nonce);
        }
    }

    /// Sends what may be sent and fits.
    fn send(&mut self) {
        loop {
            let permit = match self.responses.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.full = true;
                    self.waiting.get_or_insert_with(Instant::now);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(())) => return,
            };
            let shelf = Shelf::new(&self.world, &self.client);
            let now = Instant::now().into_std();
            let Some(response) = self.session.poll(&shelf, self.world.revision(), now) else { return };
            self.shared.metrics.responses.inc();
            let resources = u64::try_from(response.resources.len()).unwrap_or(u64::MAX);
            self.shared.metrics.resources.inc_by(resources);
            self.waiting.get_or_insert_with(Instant::now);
            permit.send(Ok(response));
        }
    }

    fn tell_board(&mut self) {
        let rejections = self.session.rejections().take(MAX_REJECTIONS);
        let rejections = rejections.map(|rejection| self.described(rejection)).collect();
        self.rejections = rejections;
        let progress = Progress {
            applied: self.session.applied_revision(),
            target: self.session.target_revision(),
            rejections: self.rejections.clone(),
        };
        self.shared.board.progress(self.session.stream(), progress);
    }

    /// A rejection with its time and the policies behind it: as they were when it was first seen.
    fn described(&self, rejection: &server::Rejection) -> status::Rejection {
        let same = |known: &&status::Rejection| {
            known.type_url == rejection.type_url
                && known.revision == rejection.revision
                && known.detail.as_ref() == Some(&rejection.detail)
        };
        if let Some(known) = self.rejections.iter().find(same) {
            return known.clone();
        }
        let kind = Type::of_url(rejection.type_url);
        let causes = kind
            .map(|kind| self.world.causes(kind, &rejection.detail.name, &self.client))
            .unwrap_or_default();
        status::Rejection {
            node_id: self.node_id.clone(),
            type_url: rejection.type_url.to_owned(),
            revision: rejection.revision,
            at: Some(wire::time::encode_timestamp(self.shared.clock.now())),
            detail: Some(rejection.detail.clone()),
            causes: causes.iter().map(Into::into).collect(),
        }
    }
}
