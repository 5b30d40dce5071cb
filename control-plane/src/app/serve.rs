//! The two gRPC ports: TLS, the door, and the services behind it.

use std::{sync::Arc, time::Duration};

use outrigger_process::shutdown::Shutdown;
use outrigger_proto::{
    backup::v1alpha1::backup_service_server::BackupServiceServer,
    identity::v1alpha1::{
        authority_service_server::AuthorityServiceServer, identity_service_server::IdentityServiceServer,
        token_service_server::TokenServiceServer,
    },
    policy::v1alpha1::policy_service_server::PolicyServiceServer,
};
use outrigger_tls::grpc::{self, Limits, Refused};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{service::Routes, transport::Server};

use super::start::{AUTHORITY, State};
use crate::{
    access::Door,
    api::{
        authority::AuthorityApi,
        backup::BackupApi,
        guard::Guard,
        identity::IdentityApi,
        policy::{self, PolicyApi},
        refusals::Refusals,
        token::TokenApi,
    },
};

/// A silent connection is probed so often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A probe without an answer for so long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection.
const CALLS: u32 = 100;
/// From an operator's request to the head of its answer.
const POLICY_TIMEOUT: Duration = Duration::from_secs(30);

/// The sockets.
pub(super) struct Ports {
    pub(super) policy: TcpListener,
    pub(super) discovery: TcpListener,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    port: &'static str,
    reason: &'static str,
}

/// Serves both ports.
pub(super) fn spawn(
    state: &Arc<State>,
    ports: Ports,
    shutdown: &Shutdown,
    registry: &mut Registry,
    servers: &mut JoinSet<Result<(), tonic::transport::Error>>,
) {
    let State { directory, store, objects, authority, rotation, grants, mesh, clock, .. } = &**state;
    let refusals = Refusals::new(store.clone(), clock.clone(), registry);
    let refused = Family::<Labels, Counter>::default();
    registry.register(
        "control_plane_refused_connections",
        "Connections that did not come about, by the reason",
        refused.clone(),
    );
    let policy = PolicyApi::new(policy::Parts {
        objects: objects.clone(),
        store: store.clone(),
        refusals: refusals.clone(),
        progress: mesh.progress(),
        clock: clock.clone(),
        stop: shutdown.draining().clone(),
    });
    let token = TokenApi::new(Arc::clone(authority), store.clone(), refusals.clone(), clock.clone());
    let authorities =
        AuthorityApi::new(Arc::clone(authority), rotation.clone(), refusals.clone(), clock.clone());
    let identity =
        IdentityApi::new(Arc::clone(authority), store.clone(), refusals.clone(), clock.clone(), registry);

    let backup = BackupApi::new(
        store.clone(),
        directory.join(AUTHORITY),
        authority.trust_domain().clone(),
        clock.clone(),
    );

    let operators = Routes::new(PolicyServiceServer::new(policy))
        .add_service(TokenServiceServer::new(token))
        .add_service(AuthorityServiceServer::new(authorities))
        .add_service(BackupServiceServer::new(backup))
        .add_service(mesh.status_service());
    let proxies = Routes::new(IdentityServiceServer::new(identity))
        .add_service(mesh.discovery_service())
        .add_service(mesh.registry_service(refusals.clone()))
        .add_service(mesh.report_service())
        .add_service(mesh.telemetry_service());
    let port = |door, name, listener, routes, timeout| Port {
        guard: Guard::new(door, Arc::clone(grants), refusals.clone(), clock.clone()),
        name,
        listener,
        routes,
        timeout,
    };
    for port in [
        port(Door::Policy, "policy", ports.policy, operators, Some(POLICY_TIMEOUT)),
        port(Door::Discovery, "discovery", ports.discovery, proxies, None),
    ] {
        servers.spawn(port.serve(Arc::clone(state), shutdown.clone(), refused.clone()));
    }
}

struct Port {
    guard: Guard,
    name: &'static str,
    listener: TcpListener,
    routes: Routes,
    timeout: Option<Duration>,
}

impl Port {
    async fn serve(
        self,
        state: Arc<State>,
        shutdown: Shutdown,
        refused: Family<Labels, Counter>,
    ) -> Result<(), tonic::transport::Error> {
        let Self { guard, name: port, listener, routes, timeout } = self;
        let config = grpc::server_config(state.upkeep.identity(), state.upkeep.operators());
        let incoming =
            grpc::incoming(listener, config, Limits::default(), move |Refused { address, cause }| {
                let reason = cause.as_str();
                refused.get_or_create(&Labels { port, reason }).inc();
                tracing::info!(%address, port, reason, ?cause, "connection refused");
            });
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(CALLS);
        if let Some(timeout) = timeout {
            server = server.timeout(timeout);
        }
        let serving = server
            .layer(guard)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, shutdown.draining().clone().cancelled_owned());
        Box::pin(serving).await
    }
}
