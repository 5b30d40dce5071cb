//! Outrigger's wire: the generated protobuf messages, one module per package, and gRPC stubs by feature
//! (`client`, `server`).
//!
//! Only the shape is here. Meaning lives in `outrigger-core::wire`, which converts both ways and validates.
//! Compatibility: a field number is never reused; a retired field is `reserved`.

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    let_underscore_drop,
    rustdoc::all,
    clippy::all,
    clippy::restriction,
    clippy::pedantic,
    reason = "generated code; it documents itself with the comments of the .proto files"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::envoy;
pub use generated::google;
pub use generated::outrigger::{backup, identity, mesh, policy, registry, status, telemetry};

/// The type URLs of the resources that a proxy receives over delta ADS.
pub mod type_url {
    /// [`ProxyConfig`](crate::mesh::v1alpha1::ProxyConfig), explicit name `self`.
    pub const PROXY_CONFIG: &str = "type.googleapis.com/outrigger.mesh.v1alpha1.ProxyConfig";
    /// [`TrustBundle`](crate::mesh::v1alpha1::TrustBundle), wildcard.
    pub const TRUST_BUNDLE: &str = "type.googleapis.com/outrigger.mesh.v1alpha1.TrustBundle";
    /// [`Service`](crate::mesh::v1alpha1::Service), on demand.
    pub const SERVICE: &str = "type.googleapis.com/outrigger.mesh.v1alpha1.Service";
    /// [`EndpointSet`](crate::mesh::v1alpha1::EndpointSet), on demand, by reference.
    pub const ENDPOINT_SET: &str = "type.googleapis.com/outrigger.mesh.v1alpha1.EndpointSet";
    /// [`RejectedResources`](crate::mesh::v1alpha1::RejectedResources), the detail of a NACK.
    pub const REJECTED_RESOURCES: &str = "type.googleapis.com/outrigger.mesh.v1alpha1.RejectedResources";
    /// [`Diagnostics`](crate::policy::v1alpha1::Diagnostics), the detail of a refused write.
    pub const DIAGNOSTICS: &str = "type.googleapis.com/outrigger.policy.v1alpha1.Diagnostics";
}
