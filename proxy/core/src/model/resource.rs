//! What a proxy runs: the resources of the discovery stream, validated.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{HttpFilter, HttpMatch, Name, Resilience, ServiceName, SpiffeId, TrustDomain};

/// What an application speaks on a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Found out from the first bytes.
    #[default]
    Detect,
    /// Opaque bytes.
    Tcp,
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2 with prior knowledge.
    Grpc,
    /// TLS of the application's own, opaque.
    Tls,
}

/// What a name outside the mesh gets from the outbound listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ExternalTraffic {
    /// Refused.
    #[default]
    Deny,
    /// CONNECT to port 443 of public addresses.
    Connect443,
}

/// The proxy's own side and the mesh-wide knobs; resource `self`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Whom the proxy must be.
    pub workload_id: SpiffeId,
    /// `cluster.local` makes `price.demo.svc.cluster.local` a mesh name.
    pub cluster_domain: String,
    /// How long the first request for an unknown name may wait; 10 ms to 60 s.
    pub on_demand_timeout: Duration,
    /// Subscriptions unused for so long are given up; at least 1 s.
    pub on_demand_idle: Duration,
    /// What names outside the mesh get.
    pub external_traffic: ExternalTraffic,
    /// For services that do not say otherwise; `None`: unlimited.
    pub request_timeout: Option<Duration>,
    /// TCP and TLS together; 1 ms to 60 s.
    pub connect_timeout: Duration,
}

/// One destination; resource `<namespace>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// By ascending port, each once.
    pub ports: Vec<ServicePort>,
    /// How long it may stay invisible while its endpoint sets are pending.
    pub warm_timeout: Duration,
}

/// One port of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// 1 to 65535.
    pub port: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
    /// Its name, if it has one.
    pub name: Option<Name>,
    /// Where requests go that no rule covers.
    pub endpoint_set: Arc<str>,
    /// In match order, the first match wins. Not empty and none matches: 404.
    pub rules: Vec<RouteRule>,
}

/// One compiled rule: a single match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// `<namespace>/<route>#<rule>`.
    pub name: Arc<str>,
    /// What it covers.
    pub condition: HttpMatch,
    /// In order.
    pub filters: Vec<HttpFilter>,
    /// At least one, sum of weights above 0.
    pub backends: Vec<WeightedBackend>,
    /// `None`: the mesh's default; zero: none.
    pub request_timeout: Option<Duration>,
}

/// A target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Whose endpoints.
    pub service: ServiceName,
    /// Which port.
    pub port: u16,
    /// 0 to 1 000 000.
    pub weight: u32,
    /// Where they are found.
    pub endpoint_set: Arc<str>,
}

/// The addresses of one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSet {
    /// Whose they are.
    pub service: ServiceName,
    /// Which port.
    pub port: u16,
    /// By ascending address, each once.
    pub endpoints: Vec<Endpoint>,
    /// Every lease ran out at once: the last ones known, which may be gone.
    pub panic: bool,
    /// How requests that end up here are retried, timed and limited, whichever route brought them.
    pub resilience: Resilience,
}

/// One address of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to dial.
    pub address: SocketAddr,
    /// Whom the peer must prove to be.
    pub identity: SpiffeId,
    /// 1 to 1 000.
    pub weight: u32,
    /// Whether it takes new requests.
    pub health: Health,
    /// `<namespace>/<id>` of its workload.
    pub workload: Arc<str>,
}

/// Whether an endpoint takes new requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// No new ones.
    Draining,
    /// Only when nothing else is left.
    Unhealthy,
}

/// The authorities accepted for one trust domain; resource `<trust domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// For whom.
    pub trust_domain: TrustDomain,
    /// DER certificates, at least one.
    pub x509_authorities: Vec<Vec<u8>>,
    /// Grows with every change.
    pub sequence: u64,
    /// Which of those who signed are on their way out.
    pub outgoing: Outgoing,
}

/// Roots and intermediates on their way out, each by the SHA-256 of its public key (SubjectPublicKeyInfo).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Certificates under them are renewed soon.
    pub retiring: Vec<[u8; 32]>,
    /// Certificates under them are renewed at once, then the connections that were opened with those are closed.
    pub tainted: Vec<[u8; 32]>,
    /// No chain through them is accepted.
    pub revoked: Vec<[u8; 32]>,
    /// Connections whose chain no longer verifies are closed at once.
    pub at_once: bool,
}
