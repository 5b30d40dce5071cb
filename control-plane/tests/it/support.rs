//! What proxies do, by hand: registry sessions, discovery streams, reports.

use std::{future::Future, time::Duration};

use outrigger_core::policy;
use outrigger_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    google::rpc,
    mesh::v1alpha1::{EndpointSet, RejectedResource, RejectedResources},
    policy::v1alpha1::{ApplyItem, ApplyRequest, Object},
    registry::v1alpha1::{
        SessionRequest, SessionResponse, Workload, WorkloadPort,
        registry_service_client::RegistryServiceClient, session_request,
    },
    status::v1alpha1::{
        AppliedNonce, AppliedReport, proxy_status_service_client::ProxyStatusServiceClient,
        status_service_client::StatusServiceClient,
    },
    type_url,
};
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::running::ControlPlane;

/// No event of a test takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits an event of a test.
pub(crate) async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(PATIENCE, event).await.expect("an event did not come")
}

/// The connection of a workload with this service account in the namespace `demo`.
pub(crate) fn proxy(control: &ControlPlane, account: &str) -> Client {
    labelled(control, account, &[])
}

/// The connection of one that joined with a token for these labels.
pub(crate) fn labelled(control: &ControlPlane, account: &str, labels: &[(&str, &str)]) -> Client {
    Client { channel: control.discovery_port(Some(&control.labelled(account, labels))) }
}

/// The operators' status calls.
pub(crate) fn status(control: &ControlPlane) -> StatusServiceClient<Channel> {
    StatusServiceClient::new(control.policy_port(Some(&control.kept("admin"))))
}

/// Applies documents; returns the revision.
pub(crate) async fn apply(control: &ControlPlane, text: &str) -> u64 {
    let documents = policy::parse(text).unwrap();
    let items = documents
        .iter()
        .map(|document| ApplyItem { object: Some(Object::from(&document.object)), ..ApplyItem::default() });
    let request = ApplyRequest { items: items.collect(), ..ApplyRequest::default() };
    control.admin().apply(request).await.unwrap().into_inner().revision
}

/// A workload's connection.
pub(crate) struct Client {
    pub(crate) channel: Channel,
}

impl Client {
    /// Opens a registry session with its first message.
    pub(crate) async fn session(&self, workload: Workload) -> Session {
        let (requests, stream) = mpsc::channel(8);
        let register = SessionRequest { kind: Some(session_request::Kind::Register(workload)) };
        requests.send(register).await.unwrap();
        let responses = RegistryServiceClient::new(self.channel.clone())
            .session(ReceiverStream::new(stream))
            .await
            .unwrap()
            .into_inner();
        Session { requests, responses }
    }

    /// Registers, which must succeed.
    pub(crate) async fn register(&self, workload: Workload) -> Session {
        let mut session = self.session(workload).await;
        soon(session.responses.message()).await.unwrap().unwrap();
        session
    }

    /// Registers, which must be refused.
    pub(crate) async fn refused(&self, workload: Workload) -> Status {
        let mut session = self.session(workload).await;
        soon(session.responses.message()).await.expect_err("was registered")
    }

    /// Opens a discovery stream as this instance.
    pub(crate) async fn discover(&self, node_id: &str) -> Discovery {
        let (requests, stream) = mpsc::channel(8);
        // The server answers the call before the first request.
        let responses = AggregatedDiscoveryServiceClient::new(self.channel.clone())
            .delta_aggregated_resources(ReceiverStream::new(stream))
            .await
            .unwrap()
            .into_inner();
        let node = Node { id: node_id.to_owned(), user_agent_version: "0.1.0".to_owned(), ..Node::default() };
        Discovery { requests, responses, node: Some(node) }
    }

    /// Opens a status stream.
    pub(crate) async fn reports(&self) -> mpsc::Sender<AppliedReport> {
        let (reports, stream) = mpsc::channel(8);
        let mut answers = ProxyStatusServiceClient::new(self.channel.clone())
            .report(ReceiverStream::new(stream))
            .await
            .unwrap()
            .into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
        reports
    }
}

/// A registry session.
pub(crate) struct Session {
    pub(crate) requests: mpsc::Sender<SessionRequest>,
    pub(crate) responses: Streaming<SessionResponse>,
}

/// A discovery stream.
pub(crate) struct Discovery {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

impl Discovery {
    /// Sends a request, the first one with the node.
    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.requests.send(request).await.unwrap();
    }

    /// Subscribes to names of a type.
    pub(crate) async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// What comes next, good or bad.
    pub(crate) async fn message(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        self.responses.message().await
    }

    /// The next response, not answered.
    pub(crate) async fn next(&mut self) -> DeltaDiscoveryResponse {
        soon(self.responses.message()).await.unwrap().unwrap()
    }

    /// The next response, accepted.
    pub(crate) async fn accept(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await;
        self.ack(&response).await;
        response
    }

    /// Accepts responses until one lists exactly these addresses. Changes that come together are pushed together, or
    /// not: what is in between does not matter.
    pub(crate) async fn accept_addresses(&mut self, expected: &[[u8; 4]]) -> DeltaDiscoveryResponse {
        loop {
            let response = self.accept().await;
            if addresses(&response) == expected {
                return response;
            }
        }
    }

    /// Accepts a response.
    pub(crate) async fn ack(&mut self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Rejects one resource of a response.
    pub(crate) async fn reject(&mut self, response: &DeltaDiscoveryResponse, field: &str) {
        let resource = &response.resources[0];
        let rejected = RejectedResource {
            name: resource.name.clone(),
            version: resource.version.clone(),
            field: field.to_owned(),
            reason: "too odd".to_owned(),
            unsupported: false,
        };
        let detail = prost_types::Any {
            type_url: type_url::REJECTED_RESOURCES.to_owned(),
            value: RejectedResources { rejected: vec![rejected] }.encode_to_vec(),
        };
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(rpc::Status { code: 3, message: "no".to_owned(), details: vec![detail] }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Half-closes.
    pub(crate) async fn good_bye(self) {
        let Self { requests, mut responses, .. } = self;
        drop(requests);
        while let Ok(Some(_)) = soon(responses.message()).await {}
    }
}

/// The report that everything in `responses` is applied.
pub(crate) fn applied(responses: &[&DeltaDiscoveryResponse]) -> AppliedReport {
    let nonces = responses
        .iter()
        .map(|response| AppliedNonce { type_url: response.type_url.clone(), nonce: response.nonce.clone() });
    AppliedReport {
        generation: 1,
        applied: nonces.collect(),
        stream: responses[0].nonce.split_once('-').unwrap().0.to_owned(),
        ..AppliedReport::default()
    }
}

/// The first resource of a response, decoded.
pub(crate) fn decode<M: Message + Default>(response: &DeltaDiscoveryResponse) -> M {
    M::decode(response.resources[0].resource.as_ref().unwrap().value.as_slice()).unwrap()
}

/// The addresses in a response with one endpoint set.
pub(crate) fn addresses(response: &DeltaDiscoveryResponse) -> Vec<[u8; 4]> {
    let set: EndpointSet = decode(response);
    set.endpoints.iter().map(|endpoint| endpoint.address.as_slice().try_into().unwrap()).collect()
}

/// A workload with one pair for the application's port 8080.
pub(crate) fn workload(id: &str, address: [u8; 4]) -> Workload {
    Workload {
        id: id.to_owned(),
        epoch: 1,
        ports: vec![WorkloadPort {
            application_port: 8080,
            protocol: 2,
            address: address.to_vec(),
            port: 17006,
            ..WorkloadPort::default()
        }],
        ..Workload::default()
    }
}
