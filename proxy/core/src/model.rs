//! Validated configuration: what a proxy runs and what an operator wrote, with every rule of well-formedness already
//! checked. Built from the wire by `crate::wire`, from documents by `crate::policy`; nothing here can be malformed.

mod matches;
mod name;
mod policy;
mod resilience;
mod resource;
mod violation;

pub use matches::{
    HeaderMatch, HeaderMutation, HttpFilter, HttpMatch, PathMatch, Pattern, QueryMatch, ValueMatch,
};
pub use name::{IdentityKind, InvalidName, Name, ServiceName, SpiffeId, TrustDomain};
pub use policy::{
    BackendRef, Condition, Kind, MeshConfigSpec, Metadata, Object, ObjectRef, ParentRef, PolicyRule,
    PortSpec, RouteSpec, ServiceSpec, Spec, TargetPort, TargetRef, TrafficPolicySpec,
};
pub use resilience::{Outlier, Resilience, ResilienceOverrides, Retry, RetryBudget, Timeouts, TrafficLimits};
pub use resource::{
    AppProtocol, Endpoint, EndpointSet, ExternalTraffic, Health, Outgoing, ProxyConfig, RouteRule, Service,
    ServicePort, TrustBundle, WeightedBackend,
};
pub use violation::{Severity, Violation};
