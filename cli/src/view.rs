//! What programs read: the stable shape of `-o json` and `-o yaml`, and the words for people made from it.

pub(crate) mod authority;
mod endpoints;
pub(crate) mod hops;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use outrigger_proto::{
    identity::v1alpha1 as identity, policy::v1alpha1 as policy, status::v1alpha1 as status,
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use self::{
    endpoints::{Endpoint, Endpoints, Health},
    hops::{Hop, Hops, Makeup},
};
use crate::failure::Defect;

/// The result of a write.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Write {
    /// Store revision after it.
    pub(crate) revision: u64,
    /// Whether anything was stored.
    pub(crate) dry_run: bool,
    /// In the order given.
    pub(crate) results: Vec<Change>,
    /// With `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) applied: Option<Applied>,
}

/// What became of one object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    /// `Route demo/price`
    pub(crate) object: String,
    /// `created`, `updated`, `unchanged`, `deleted`
    pub(crate) action: &'static str,
    /// The object's revision.
    pub(crate) revision: u64,
    /// Accepted, but probably not what was meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// How a revision spread.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Applied {
    /// Proxies that it concerns.
    pub(crate) proxies: u32,
    /// From the commit to the last proxy.
    pub(crate) milliseconds: f64,
}

impl Change {
    /// From the wire.
    pub(crate) fn new(result: policy::ItemResult) -> Self {
        Self {
            object: result.r#ref.as_ref().map(reference).unwrap_or_default(),
            action: match result.action() {
                policy::item_result::Action::Unspecified => "unknown",
                policy::item_result::Action::Created => "created",
                policy::item_result::Action::Updated => "updated",
                policy::item_result::Action::Unchanged => "unchanged",
                policy::item_result::Action::Deleted => "deleted",
            },
            revision: result.revision,
            warnings: result
                .diagnostics
                .into_iter()
                .map(|diagnostic| Defect::remote(diagnostic, None).to_string())
                .collect(),
        }
    }
}

impl Applied {
    /// From the wire.
    pub(crate) fn new(convergence: &status::Convergence) -> Self {
        Self { proxies: convergence.targeted, milliseconds: milliseconds(convergence.elapsed) }
    }
}

/// What `status` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The newest revision of the store.
    pub(crate) revision: u64,
    /// By node id.
    pub(crate) proxies: Vec<Proxy>,
}

/// One proxy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    pub(crate) node_id: String,
    pub(crate) identity: String,
    pub(crate) version: String,
    pub(crate) connected: bool,
    pub(crate) since: Option<String>,
    pub(crate) applied_revision: u64,
    pub(crate) target_revision: u64,
    pub(crate) generation: u64,
    pub(crate) certificate_not_after: Option<String>,
    /// It runs on what an earlier start had kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_known_good: Option<LastKnownGood>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) rejections: Vec<Rejection>,
}

/// What a proxy had kept when it was started.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastKnownGood {
    pub(crate) revision: u64,
    pub(crate) written: Option<String>,
}

/// A name that a proxy received but does not use yet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pending {
    pub(crate) resource: String,
    pub(crate) cause: String,
}

/// A resource that a proxy refused, and the policies it came from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rejection {
    pub(crate) resource: String,
    pub(crate) revision: u64,
    pub(crate) field: String,
    pub(crate) reason: String,
    /// The proxy is too old for it.
    pub(crate) unsupported: bool,
    pub(crate) policies: Vec<String>,
}

impl Status {
    /// From the wire, ordered by node id.
    pub(crate) fn new(response: &status::ListProxiesResponse) -> Self {
        let mut proxies: Vec<Proxy> = response.proxies.iter().map(Proxy::new).collect();
        proxies.sort_by(|left, right| left.node_id.cmp(&right.node_id));
        Self { revision: response.revision, proxies }
    }
}

impl Proxy {
    fn new(state: &status::ProxyState) -> Self {
        Self {
            node_id: state.node_id.clone(),
            identity: state.spiffe_id.clone(),
            version: state.version.clone(),
            connected: state.connected,
            since: rfc3339(state.since.as_ref()),
            applied_revision: state.applied_revision,
            target_revision: state.target_revision,
            generation: state.generation,
            certificate_not_after: rfc3339(state.svid_not_after.as_ref()),
            last_known_good: state.last_known_good.map(|kept| LastKnownGood {
                revision: kept.revision,
                written: rfc3339(kept.written.as_ref()),
            }),
            pending: state.pending.iter().map(Pending::new).collect(),
            rejections: state.rejections.iter().map(Rejection::new).collect(),
        }
    }

    /// Whether it runs what it should.
    pub(crate) fn is_current(&self) -> bool {
        self.connected
            && self.applied_revision >= self.target_revision
            && self.last_known_good.is_none()
            && self.pending.is_empty()
            && self.rejections.is_empty()
    }
}

impl LastKnownGood {
    /// `runs on its last known good: revision 6, written 2026-01-02T03:04:05Z`
    pub(crate) fn sentence(&self) -> String {
        let written = self.written.as_deref().unwrap_or("at an unknown time");
        format!("runs on its last known good: revision {}, written {written}", self.revision)
    }
}

impl Pending {
    fn new(pending: &status::PendingName) -> Self {
        Self { resource: resource(&pending.type_url, &pending.name), cause: pending.cause.clone() }
    }
}

impl Rejection {
    fn new(rejection: &status::Rejection) -> Self {
        let detail = rejection.detail.clone().unwrap_or_default();
        Self {
            resource: resource(&rejection.type_url, &detail.name),
            revision: rejection.revision,
            field: detail.field,
            reason: detail.reason,
            unsupported: detail.unsupported,
            policies: rejection.causes.iter().map(reference).collect(),
        }
    }

    /// `Service demo/price: ports[0].port: ... (from Route demo/price)`
    pub(crate) fn sentence(&self) -> String {
        let field = if self.field.is_empty() { String::new() } else { format!("{}: ", self.field) };
        let from = if self.policies.is_empty() {
            String::new()
        } else {
            format!(" (from {})", self.policies.join(", "))
        };
        format!("{}: {field}{}{from}", self.resource, self.reason)
    }
}

/// Why a proxy is behind, one line for each reason.
pub(crate) fn behind(state: &status::ProxyState) -> Vec<String> {
    let proxy = Proxy::new(state);
    let name = node(&proxy.node_id);
    let mut lines = vec![if proxy.connected {
        format!("{name}: applied {} of {}", proxy.applied_revision, proxy.target_revision)
    } else {
        // What was for it when it left says nothing of what is now.
        let applied = proxy.applied_revision;
        format!("{name}: not connected, last applied {applied}; it counts until its lease ends")
    }];
    lines.extend(proxy.last_known_good.iter().map(|kept| format!("  {}", kept.sentence())));
    lines.extend(
        proxy.pending.iter().map(|pending| format!("  {} is pending: {}", pending.resource, pending.cause)),
    );
    lines.extend(proxy.rejections.iter().map(|rejection| format!("  rejected {}", rejection.sentence())));
    lines
}

/// A join token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) identity: String,
    pub(crate) expires: Option<String>,
    /// Absent when it went to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

impl Token {
    /// From the wire.
    pub(crate) fn new(response: identity::CreateTokenResponse) -> Self {
        Self {
            id: response.id,
            identity: response.spiffe_id,
            expires: rfc3339(response.expires.as_ref()),
            token: Some(response.token),
        }
    }
}

/// The version of this command.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    pub(crate) version: &'static str,
}

/// `Route demo/price`
pub(crate) fn reference(reference: &policy::ObjectRef) -> String {
    let kind = match reference.kind() {
        policy::Kind::Unspecified => "object",
        policy::Kind::Service => "Service",
        policy::Kind::Route => "Route",
        policy::Kind::TrafficPolicy => "TrafficPolicy",
        policy::Kind::AuthorizationPolicy => "AuthorizationPolicy",
        policy::Kind::MtlsPolicy => "MtlsPolicy",
        policy::Kind::Fault => "Fault",
        policy::Kind::MeshConfig => "MeshConfig",
        policy::Kind::ExternalService => "ExternalService",
    };
    if reference.namespace.is_empty() {
        format!("{kind} {}", reference.name)
    } else {
        format!("{kind} {}/{}", reference.namespace, reference.name)
    }
}

/// `demo/price#price-1` of `spiffe://outrigger.local/ns/demo/sa/price#price-1`.
pub(crate) fn node(node_id: &str) -> String {
    match node_id.split_once('#') {
        Some((identity, instance)) => format!("{}#{instance}", workload(identity)),
        None => workload(node_id),
    }
}

/// `demo/price` of `spiffe://outrigger.local/ns/demo/sa/price`.
pub(crate) fn workload(spiffe_id: &str) -> String {
    spiffe_id
        .parse::<outrigger_core::model::SpiffeId>()
        .ok()
        .and_then(|id| id.as_workload().map(|(namespace, account)| format!("{namespace}/{account}")))
        .unwrap_or_else(|| spiffe_id.to_owned())
}

/// `admin` of `spiffe://outrigger.local/outrigger/operator/admin`, `demo/price` of a workload.
pub(crate) fn operator(principal: &str) -> String {
    match principal.rsplit_once("/outrigger/operator/") {
        Some((_, name)) => name.to_owned(),
        None if principal.ends_with("/outrigger/control-plane") => "control plane".to_owned(),
        None => workload(principal),
    }
}

/// `rollback` of `policy.Rollback`, `create token` of `identity.CreateToken`.
pub(crate) fn call(method: &str) -> String {
    let name = method.rsplit('.').next().unwrap_or(method);
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// `Service demo/price` of its type URL and name.
fn resource(type_url: &str, name: &str) -> String {
    let kind = type_url.rsplit('.').next().unwrap_or(type_url);
    format!("{kind} {name}")
}

/// Milliseconds of a duration; none and negative ones are 0.
pub(crate) fn milliseconds(duration: Option<prost_types::Duration>) -> f64 {
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

/// A point in time, if it is a sane one.
pub(crate) fn instant(timestamp: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(*timestamp).ok())
}

/// As programs read it.
pub(crate) fn rfc3339(timestamp: Option<&prost_types::Timestamp>) -> Option<String> {
    instant(timestamp).and_then(|at| OffsetDateTime::from(at).format(&Rfc3339).ok())
}

/// `version=v2,zone=a`, or `-`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use outrigger_proto::{mesh::v1alpha1::RejectedResource, type_url};

    use super::{behind, node, policy, status};

    #[test]
    fn a_node_is_named_by_its_workload_and_instance() {
        assert_eq!(node("spiffe://outrigger.local/ns/demo/sa/price#price-1"), "demo/price#price-1");
        assert_eq!(node("something else"), "something else");
    }

    #[test]
    fn a_proxy_that_is_behind_says_why_and_which_policy_did_it() {
        let state = status::ProxyState {
            node_id: "spiffe://outrigger.local/ns/demo/sa/front#front-1".to_owned(),
            applied_revision: 3,
            target_revision: 4,
            pending: vec![status::PendingName {
                type_url: type_url::SERVICE.to_owned(),
                name: "demo/price".to_owned(),
                cause: "waiting for EndpointSet demo/price:80".to_owned(),
            }],
            rejections: vec![status::Rejection {
                type_url: type_url::SERVICE.to_owned(),
                detail: Some(RejectedResource {
                    name: "demo/price".to_owned(),
                    field: "ports[0].rules[0]".to_owned(),
                    reason: "needs 'mirror', which this proxy lacks".to_owned(),
                    ..RejectedResource::default()
                }),
                causes: vec![policy::ObjectRef {
                    kind: policy::Kind::Route.into(),
                    namespace: "demo".to_owned(),
                    name: "price".to_owned(),
                }],
                ..status::Rejection::default()
            }],
            ..status::ProxyState::default()
        };
        assert_eq!(
            behind(&state),
            [
                "demo/front#front-1: not connected, last applied 3; it counts until its lease ends",
                "  Service demo/price is pending: waiting for EndpointSet demo/price:80",
                "  rejected Service demo/price: ports[0].rules[0]: needs 'mirror', which this proxy lacks (from Route \
                 demo/price)",
            ]
        );
    }
}
