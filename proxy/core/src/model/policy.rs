//! What an operator wrote: objects with metadata and spec, validated on their own. References between objects are
//! checked where all objects are at hand, in the control plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, SystemTime},
};

use super::{AppProtocol, ExternalTraffic, HttpFilter, HttpMatch, Name, ResilienceOverrides};

/// The kinds that this version runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A named destination.
    Service,
    /// How requests for a service are matched and split.
    Route,
    /// How requests for a service are retried, timed and limited.
    TrafficPolicy,
    /// The mesh's own knobs; one object, named `mesh`, without a namespace.
    MeshConfig,
}

impl Kind {
    /// All kinds, in the order in which tables list them.
    pub const ALL: [Self; 4] = [Self::Service, Self::Route, Self::TrafficPolicy, Self::MeshConfig];

    /// The only name of the one [`Self::MeshConfig`].
    pub const MESH_CONFIG_NAME: &str = "mesh";

    /// As in a document's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Route => "Route",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::MeshConfig => "MeshConfig",
        }
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// `None` for [`Kind::MeshConfig`], always set for the others.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

/// An object: what its author wrote, and what the server keeps about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Name, labels, and the server's bookkeeping.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
    /// The server's findings; empty in a write.
    pub conditions: Vec<Condition>,
}

impl Object {
    /// What others call it.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: self.spec.kind(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }
}

/// Name, labels, and the server's bookkeeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// `None` for [`Kind::MeshConfig`].
    pub namespace: Option<Name>,
    /// Unique for its kind in its namespace.
    pub name: Name,
    /// For people and selectors.
    pub labels: BTreeMap<String, String>,
    /// For people and tools.
    pub annotations: BTreeMap<String, String>,
    /// Store revision of the last change; 0 before the first. In a document: the one that its author had read, 0 for none.
    pub revision: u64,
    /// +1 for each change of the spec.
    pub generation: u64,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When it was last changed.
    pub updated: Option<SystemTime>,
    /// By whom.
    pub updated_by: String,
    /// Tells an object from another of the same name, before or after it.
    pub uid: String,
}

impl Metadata {
    /// The annotation that is the server's, not the author's: the name of the set that an object is applied with.
    pub const APPLIED_SET: &'static str = "outrigger.dev/applied-set";

    /// That of an object which nobody has stored yet.
    pub fn new(namespace: Option<Name>, name: Name) -> Self {
        Self {
            namespace,
            name,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            revision: 0,
            generation: 0,
            created: None,
            updated: None,
            updated_by: String::new(),
            uid: String::new(),
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A destination.
    Service(ServiceSpec),
    /// A route.
    Route(RouteSpec),
    /// A traffic policy.
    TrafficPolicy(TrafficPolicySpec),
    /// The mesh's knobs.
    MeshConfig(MeshConfigSpec),
}

impl Spec {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Route(_) => Kind::Route,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::MeshConfig(_) => Kind::MeshConfig,
        }
    }
}

/// A named destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// 1 to 32, each number and each name once.
    pub ports: Vec<PortSpec>,
    /// Service accounts that may back it, as (namespace, name); the one named like the service is always granted and
    /// not listed here.
    pub service_accounts: BTreeSet<(Name, Name)>,
    /// Labels that a backing workload must carry.
    pub selector: BTreeMap<String, String>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// 1 to 65535.
    pub port: u16,
    /// Its name.
    pub name: Option<Name>,
    /// What is spoken there.
    pub protocol: AppProtocol,
    /// The workload's port; `None`: the pair whose application port equals `port`, else the pair of this name.
    pub target_port: Option<TargetPort>,
}

/// A workload's port, by number or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// The application's port.
    Number(u16),
    /// The name of a pair.
    Name(Name),
}

/// How requests for its parents are matched and split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// 1 to 32 services.
    pub parents: Vec<ParentRef>,
    /// 1 to 16.
    pub rules: Vec<PolicyRule>,
}

/// A service that a route is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// `None`: the route's own.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
    /// `None`: every port.
    pub port: Option<u16>,
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Unique in the route.
    pub name: Option<Name>,
    /// Any of them, at most 64; empty: everything.
    pub matches: Vec<HttpMatch>,
    /// Each kind at most once.
    pub filters: Vec<HttpFilter>,
    /// At most 16; empty: the parent's own endpoints.
    pub backends: Vec<BackendRef>,
    /// `None`: the mesh's default; zero: none.
    pub request_timeout: Option<Duration>,
}

/// A weighted target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRef {
    /// `None`: the route's own.
    pub namespace: Option<Name>,
    /// The service.
    pub name: Name,
    /// Its port.
    pub port: u16,
    /// 0 to 1 000 000; default 1.
    pub weight: u32,
}

/// How requests to its targets are retried, timed and limited, whichever route brought them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicySpec {
    /// 1 to 32, each once.
    pub targets: Vec<TargetRef>,
    /// What it says; the rest has its default.
    pub overrides: ResilienceOverrides,
}

/// A service, of the policy's own namespace, that a policy is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetRef {
    /// Its name.
    pub name: Name,
    /// `None`: every port that no policy names.
    pub port: Option<u16>,
}

impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{} port {port}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// The mesh's knobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfigSpec {
    /// What names outside the mesh get; default: refused.
    pub external_traffic: ExternalTraffic,
    /// Default `cluster.local`.
    pub cluster_domain: String,
    /// Default `None`: unlimited.
    pub request_timeout: Option<Duration>,
    /// Default 1 s; 1 ms to 60 s.
    pub connect_timeout: Duration,
    /// How long a request waits for the discovery of a name. Default 2 s; 10 ms to 60 s.
    pub discovery_timeout: Duration,
}

impl Default for MeshConfigSpec {
    fn default() -> Self {
        Self {
            external_traffic: ExternalTraffic::Deny,
            cluster_domain: "cluster.local".to_owned(),
            request_timeout: None,
            connect_timeout: Duration::from_secs(1),
            discovery_timeout: Duration::from_secs(2),
        }
    }
}

/// A finding of the server about an object, as in the Gateway API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Programmed`.
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// CamelCase, for programs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The generation it speaks of.
    pub observed_generation: u64,
    /// When it last changed.
    pub since: Option<SystemTime>,
}
