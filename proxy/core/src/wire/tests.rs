//! Round trips over encoded bytes, and every refusal with its field.

use outrigger_proto::{mesh::v1alpha1 as mesh, policy::v1alpha1 as proto};
use proptest::prelude::*;
use prost::Message;

use super::{
    RESILIENCE,
    policy::{kind, object, object_ref},
    strategies,
};
use crate::model::{
    EndpointSet, Kind, Object, ObjectRef, ProxyConfig, Resilience, Service, TrustBundle, Violation,
};

/// Over the bytes, not only the message: what a stream carries is what comes back.
fn carried<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn proxy_config() -> mesh::ProxyConfig {
    mesh::ProxyConfig {
        workload_id: "spiffe://outrigger.local/ns/demo/sa/front".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        on_demand_timeout: seconds(2),
        on_demand_idle: seconds(600),
        external_traffic: mesh::proxy_config::ExternalTraffic::Deny.into(),
        request_timeout: None,
        connect_timeout: seconds(1),
        requires: Vec::new(),
    }
}

fn service() -> mesh::Service {
    let backend = mesh::WeightedBackend {
        service: "demo/price-v1".to_owned(),
        port: 80,
        weight: 1,
        endpoint_set: "demo/price-v1:80".to_owned(),
    };
    let rule = mesh::RouteRule {
        name: "demo/price#0".to_owned(),
        r#match: Some(mesh::HttpMatch::default()),
        filters: Vec::new(),
        backends: vec![backend],
        request_timeout: None,
    };
    let port = mesh::ServicePort {
        port: 80,
        protocol: mesh::AppProtocol::Http1.into(),
        name: "http".to_owned(),
        endpoint_set: "demo/price:80".to_owned(),
        rules: vec![rule],
    };
    mesh::Service {
        namespace: "demo".to_owned(),
        name: "price".to_owned(),
        ports: vec![port],
        warm_timeout: seconds(5),
        requires: Vec::new(),
    }
}

fn endpoint_set() -> mesh::EndpointSet {
    let endpoint = |last| mesh::Endpoint {
        address: vec![10, 0, 0, last],
        port: 80,
        identity: 0,
        weight: 0,
        health: mesh::Health::Healthy.into(),
        workload: format!("demo/price-{last}"),
    };
    mesh::EndpointSet {
        service: "demo/price".to_owned(),
        port: 80,
        identities: vec!["spiffe://outrigger.local/ns/demo/sa/price".to_owned()],
        endpoints: vec![endpoint(2), endpoint(1)],
        panic: false,
        resilience: None,
        requires: Vec::new(),
    }
}

/// Where and how `message` is refused after `change`.
#[track_caller]
fn refused<M, T>(mut message: M, change: impl FnOnce(&mut M)) -> (String, &'static str)
where
    T: TryFrom<M, Error = Violation> + std::fmt::Debug,
{
    change(&mut message);
    let violation = T::try_from(message).expect_err("refused");
    (violation.field, violation.code)
}

/// The names of a table's rows, so that a failure says which one.
#[track_caller]
fn all<const N: usize>(found: &[(String, &'static str); N], expected: [(&str, &str); N]) {
    let found = found.each_ref().map(|(field, code)| (field.as_str(), *code));
    assert_eq!(found, expected);
}

#[test]
fn a_wrong_proxy_config_is_refused_by_its_field() {
    let wrong = |change: fn(&mut mesh::ProxyConfig)| refused::<_, ProxyConfig>(proxy_config(), change);
    assert!(ProxyConfig::try_from(proxy_config()).is_ok());
    all(
        &[
            wrong(|wire| wire.requires = vec!["time-travel".to_owned()]),
            wrong(|wire| wire.workload_id.clear()),
            wrong(|wire| wire.workload_id = "spiffe://outrigger.local/outrigger/control-plane".to_owned()),
            wrong(|wire| wire.cluster_domain = "cluster.local.".to_owned()),
            wrong(|wire| wire.on_demand_timeout = None),
            wrong(|wire| wire.on_demand_timeout = seconds(61)),
            wrong(|wire| wire.on_demand_idle = seconds(0)),
            wrong(|wire| wire.external_traffic = 0),
            wrong(|wire| wire.external_traffic = 9),
            wrong(|wire| wire.request_timeout = seconds(-1)),
            wrong(|wire| wire.connect_timeout = Some(prost_types::Duration { seconds: 0, nanos: 1_000 })),
        ],
        [
            ("requires[0]", "unsupported"),
            ("workload_id", "required"),
            ("workload_id", "invalid_name"),
            ("cluster_domain", "invalid_name"),
            ("on_demand_timeout", "required"),
            ("on_demand_timeout", "out_of_range"),
            ("on_demand_idle", "out_of_range"),
            ("external_traffic", "required"),
            ("external_traffic", "unsupported"),
            ("request_timeout", "out_of_range"),
            ("connect_timeout", "out_of_range"),
        ],
    );
}

#[test]
fn a_wrong_service_is_refused_by_its_field() {
    let wrong = |change: fn(&mut mesh::Service)| refused::<_, Service>(service(), change);
    let in_rule = |change: fn(&mut mesh::RouteRule)| {
        refused::<_, Service>(service(), |wire| change(&mut wire.ports[0].rules[0]))
    };
    assert!(Service::try_from(service()).is_ok());
    all(
        &[
            wrong(|wire| wire.requires = vec!["retry".to_owned()]),
            wrong(|wire| wire.namespace.clear()),
            wrong(|wire| wire.name = "a/b".to_owned()),
            wrong(|wire| wire.ports.clear()),
            wrong(|wire| wire.ports.push(wire.ports[0].clone())),
            wrong(|wire| wire.ports[0].port = 65_536),
            wrong(|wire| wire.ports[0].protocol = 77),
            wrong(|wire| wire.ports[0].endpoint_set.clear()),
            wrong(|wire| wire.warm_timeout = None),
            in_rule(|rule| rule.name.clear()),
            in_rule(|rule| rule.r#match = None),
            in_rule(|rule| rule.backends.clear()),
            in_rule(|rule| rule.backends[0].weight = 0),
            in_rule(|rule| rule.backends[0].service = "price".to_owned()),
            in_rule(|rule| rule.filters = vec![mesh::HttpFilter { kind: None }]),
            in_rule(|rule| rule.request_timeout = seconds(86_401)),
        ],
        [
            ("requires[0]", "unsupported"),
            ("namespace", "required"),
            ("name", "invalid_name"),
            ("ports", "required"),
            ("ports[1].port", "duplicate"),
            ("ports[0].port", "out_of_range"),
            ("ports[0].protocol", "unsupported"),
            ("ports[0].endpoint_set", "required"),
            ("warm_timeout", "required"),
            ("ports[0].rules[0].name", "required"),
            ("ports[0].rules[0].match", "required"),
            ("ports[0].rules[0].backends", "all_weights_zero"),
            ("ports[0].rules[0].backends", "all_weights_zero"),
            ("ports[0].rules[0].backends[0].service", "invalid_name"),
            ("ports[0].rules[0].filters[0]", "unsupported"),
            ("ports[0].rules[0].request_timeout", "out_of_range"),
        ],
    );
}

#[test]
fn a_wrong_condition_is_refused_by_its_field_of_the_wire() {
    use mesh::{path_match, value_match};
    let in_match = |change: fn(&mut mesh::HttpMatch)| {
        refused::<_, Service>(service(), |wire| {
            change(wire.ports[0].rules[0].r#match.get_or_insert_default());
        })
    };
    all(
        &[
            in_match(|wire| wire.path = Some(mesh::PathMatch { kind: None })),
            in_match(|wire| {
                wire.path = Some(mesh::PathMatch { kind: Some(path_match::Kind::Regex("[".to_owned())) });
            }),
            in_match(|wire| {
                wire.path = Some(mesh::PathMatch { kind: Some(path_match::Kind::Prefix("v1".to_owned())) });
            }),
            in_match(|wire| wire.method = "get".to_owned()),
            in_match(|wire| wire.headers = vec![mesh::HeaderMatch { name: "x-a".to_owned(), value: None }]),
            in_match(|wire| {
                let kind = Some(value_match::Kind::Regex("(".to_owned()));
                let value = Some(mesh::ValueMatch { kind });
                wire.query_params = vec![mesh::QueryMatch { name: "q".to_owned(), value }];
            }),
        ],
        [
            ("ports[0].rules[0].match.path", "required"),
            ("ports[0].rules[0].match.path.regex", "invalid_regex"),
            ("ports[0].rules[0].match.path.prefix", "invalid"),
            ("ports[0].rules[0].match.method", "invalid"),
            ("ports[0].rules[0].match.headers[0].value", "required"),
            ("ports[0].rules[0].match.query_params[0].value.regex", "invalid_regex"),
        ],
    );
}

#[test]
fn a_wrong_endpoint_set_is_refused_by_its_field() {
    let wrong = |change: fn(&mut mesh::EndpointSet)| refused::<_, EndpointSet>(endpoint_set(), change);
    let set = EndpointSet::try_from(endpoint_set()).unwrap();
    let addresses: Vec<_> = set.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80"], "sorted");
    assert_eq!(set.endpoints[0].weight, 1, "0 is 1");
    all(
        &[
            wrong(|wire| wire.service = "price".to_owned()),
            wrong(|wire| wire.port = 0),
            wrong(|wire| wire.identities[0] = "spiffe://outrigger.local/outrigger/operator/admin".to_owned()),
            wrong(|wire| wire.endpoints[1].identity = 1),
            wrong(|wire| wire.endpoints[1].address = vec![1, 2, 3]),
            wrong(|wire| wire.endpoints[1].address = vec![0, 0, 0, 0]),
            wrong(|wire| wire.endpoints[1].address = vec![224, 0, 0, 1]),
            wrong(|wire| {
                let mapped = std::net::Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped();
                wire.endpoints[1].address = mapped.octets().to_vec();
            }),
            wrong(|wire| wire.endpoints[1].address = vec![10, 0, 0, 2]),
            wrong(|wire| wire.endpoints[1].weight = 1_001),
            wrong(|wire| wire.endpoints[1].health = 0),
            wrong(|wire| wire.endpoints[1].health = 9),
            wrong(|wire| wire.endpoints[1].workload.clear()),
            wrong(|wire| wire.requires = vec!["resilience".to_owned(), "clairvoyance".to_owned()]),
        ],
        [
            ("service", "invalid_name"),
            ("port", "required"),
            ("identities[0]", "invalid_name"),
            ("endpoints[1].identity", "out_of_range"),
            ("endpoints[1].address", "invalid"),
            ("endpoints[1].address", "invalid"),
            ("endpoints[1].address", "invalid"),
            ("endpoints[1].address", "invalid"),
            ("endpoints[1].address", "duplicate"),
            ("endpoints[1].weight", "out_of_range"),
            ("endpoints[1].health", "required"),
            ("endpoints[1].health", "unsupported"),
            ("endpoints[1].workload", "required"),
            ("requires[1]", "unsupported"),
        ],
    );
}

#[test]
fn wrong_resilience_is_refused_by_its_field_of_the_wire() {
    let wrong = |change: fn(&mut mesh::Resilience)| {
        refused::<_, EndpointSet>(endpoint_set(), |wire| change(wire.resilience.get_or_insert_default()))
    };
    all(
        &[
            wrong(|wire| wire.timeouts.get_or_insert_default().request = seconds(86_401)),
            wrong(|wire| {
                let timeouts = wire.timeouts.get_or_insert_default();
                (timeouts.request, timeouts.per_try) = (seconds(1), seconds(2));
            }),
            wrong(|wire| wire.timeouts.get_or_insert_default().idle = seconds(-1)),
            wrong(|wire| wire.retry.get_or_insert_default().attempts = Some(11)),
            wrong(|wire| {
                let statuses = mesh::Statuses { codes: vec![500; 102] };
                wire.retry.get_or_insert_default().statuses = Some(statuses);
            }),
            wrong(|wire| {
                let backoff = mesh::Backoff { base: seconds(1), max: None };
                wire.retry.get_or_insert_default().backoff = Some(backoff);
            }),
            wrong(|wire| wire.retry_budget.get_or_insert_default().min_per_second = Some(1_001)),
            wrong(|wire| wire.outlier.get_or_insert_default().consecutive_failures = Some(1_001)),
            wrong(|wire| wire.outlier.get_or_insert_default().base_ejection = seconds(61)),
            wrong(|wire| wire.outlier.get_or_insert_default().max_ejection = seconds(86_401)),
            wrong(|wire| wire.outlier.get_or_insert_default().max_ejected_percent = Some(51)),
            wrong(|wire| wire.limits.get_or_insert_default().connections = Some(0)),
        ],
        [
            ("resilience.timeouts.request", "out_of_range"),
            ("resilience.timeouts.per_try", "conflict"),
            ("resilience.timeouts.idle", "out_of_range"),
            ("resilience.retry.attempts", "out_of_range"),
            ("resilience.retry.statuses", "too_many"),
            ("resilience.retry.backoff.base", "conflict"),
            ("resilience.retry_budget.min_per_second", "out_of_range"),
            ("resilience.outlier.consecutive_failures", "out_of_range"),
            ("resilience.outlier.base_ejection", "conflict"),
            ("resilience.outlier.max_ejection", "out_of_range"),
            ("resilience.outlier.max_ejected_percent", "out_of_range"),
            ("resilience.limits.connections", "out_of_range"),
        ],
    );
}

#[test]
fn only_resilience_that_is_not_the_default_travels_and_is_required() {
    let mut set = EndpointSet::try_from(endpoint_set()).unwrap();
    assert_eq!(set.resilience, Resilience::default());
    let wire = mesh::EndpointSet::from(&set);
    assert_eq!((wire.resilience, wire.requires.len()), (None, 0));

    set.resilience.timeouts.request = Some(std::time::Duration::ZERO);
    let wire = mesh::EndpointSet::from(&set);
    assert_eq!(wire.requires, [RESILIENCE]);
    let timeouts = mesh::Timeouts { request: seconds(0), ..mesh::Timeouts::default() };
    assert_eq!(
        wire.resilience,
        Some(mesh::Resilience { timeouts: Some(timeouts), ..mesh::Resilience::default() })
    );
    assert_eq!(EndpointSet::try_from(wire), Ok(set));
}

#[test]
fn a_wrong_trust_bundle_is_refused_by_its_field() {
    let bundle = || mesh::TrustBundle {
        trust_domain: "outrigger.local".to_owned(),
        x509_authorities: vec![vec![1]],
        sequence: 1,
        ..mesh::TrustBundle::default()
    };
    let wrong = |change: fn(&mut mesh::TrustBundle)| refused::<_, TrustBundle>(bundle(), change);
    all(
        &[
            wrong(|wire| wire.trust_domain = "Outrigger".to_owned()),
            wrong(|wire| wire.x509_authorities.clear()),
            wrong(|wire| wire.x509_authorities.push(Vec::new())),
            wrong(|wire| wire.revoked = vec![vec![0; 32], vec![0; 31]]),
            wrong(|wire| wire.requires = vec!["clairvoyance".to_owned()]),
        ],
        [
            ("trust_domain", "invalid_name"),
            ("x509_authorities", "required"),
            ("x509_authorities[1]", "out_of_range"),
            ("revoked[1]", "out_of_range"),
            ("requires[0]", "unsupported"),
        ],
    );
}

#[test]
fn a_kind_of_another_version_is_unsupported() {
    for known in Kind::ALL {
        assert_eq!(kind(proto::Kind::from(known).into()), Ok(known));
    }
    for later in [
        proto::Kind::AuthorizationPolicy,
        proto::Kind::MtlsPolicy,
        proto::Kind::Fault,
        proto::Kind::ExternalService,
    ] {
        let violation = kind(later.into()).unwrap_err();
        assert_eq!(violation.code, "unsupported");
        assert!(violation.message.ends_with("is not supported by this version"), "{violation}");
    }
    assert_eq!(kind(99).unwrap_err().code, "unsupported");
    assert_eq!(kind(0).unwrap_err().code, "required");
}

#[test]
fn a_reference_follows_the_rules_of_its_kind() {
    let reference = |kind: proto::Kind, namespace: &str, name: &str| {
        let wire =
            proto::ObjectRef { kind: kind.into(), namespace: namespace.to_owned(), name: name.to_owned() };
        let decoded: Result<ObjectRef, _> = object_ref(&wire);
        if let Ok(decoded) = &decoded {
            assert_eq!(proto::ObjectRef::from(decoded), wire);
        }
        decoded.map(|object| object.to_string()).map_err(|violation| (violation.field, violation.code))
    };
    let wrong = |field: &str, code| Err((field.to_owned(), code));
    assert_eq!(reference(proto::Kind::Route, "demo", "price"), Ok("Route demo/price".to_owned()));
    assert_eq!(
        reference(proto::Kind::TrafficPolicy, "demo", "price"),
        Ok("TrafficPolicy demo/price".to_owned())
    );
    assert_eq!(reference(proto::Kind::MeshConfig, "", "mesh"), Ok("MeshConfig mesh".to_owned()));
    assert_eq!(reference(proto::Kind::MeshConfig, "demo", "mesh"), wrong("namespace", "invalid"));
    assert_eq!(reference(proto::Kind::MeshConfig, "", "other"), wrong("name", "invalid"));
    assert_eq!(reference(proto::Kind::Service, "", "price"), wrong("namespace", "required"));
    assert_eq!(reference(proto::Kind::Service, "demo", ""), wrong("name", "required"));
    assert_eq!(reference(proto::Kind::Fault, "demo", "x"), wrong("kind", "unsupported"));
}

#[test]
fn an_object_of_the_api_is_judged_like_a_document() {
    let mut wire = proto::Object {
        metadata: Some(proto::Metadata { namespace: "demo".to_owned(), ..proto::Metadata::default() }),
        spec: Some(proto::object::Spec::Route(proto::RouteSpec {
            parents: vec![proto::ParentRef { name: "price".to_owned(), ..proto::ParentRef::default() }],
            rules: vec![proto::RouteRule {
                backends: vec![proto::BackendRef {
                    name: "price-v1".to_owned(),
                    port: 80,
                    weight: Some(0),
                    ..proto::BackendRef::default()
                }],
                request_timeout: Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 }),
                ..proto::RouteRule::default()
            }],
        })),
        status: None,
    };
    let found = |wire: &proto::Object| -> Vec<_> {
        let violations = object(wire).unwrap_err();
        violations.into_iter().map(|violation| (violation.field, violation.code)).collect()
    };
    let wrong = |field: &str, code| (field.to_owned(), code);
    assert_eq!(
        found(&wire),
        [
            wrong("metadata.name", "required"),
            wrong("spec.rules[0].backendRefs", "all_weights_zero"),
            wrong("spec.rules[0].timeouts.request", "invalid_duration"),
        ]
    );
    wire.spec = None;
    assert_eq!(found(&wire), [wrong("spec", "required")]);
}

#[test]
fn violations_are_bounded() {
    let ports = vec![mesh::ServicePort::default(); 32];
    let rules =
        vec![proto::RouteRule { backends: vec![proto::BackendRef::default(); 16], ..Default::default() }; 16];
    assert!(Service::try_from(mesh::Service { ports, ..service() }).is_err());
    let spec = Some(proto::object::Spec::Route(proto::RouteSpec { parents: Vec::new(), rules }));
    assert_eq!(object(&proto::Object { spec, ..Default::default() }).unwrap_err().len(), 100);
}

proptest! {
    #[test]
    fn a_proxy_config_survives_the_wire(config in strategies::proxy_config()) {
        let wire = carried(&mesh::ProxyConfig::from(&config));
        prop_assert_eq!(ProxyConfig::try_from(wire), Ok(config));
    }

    #[test]
    fn a_service_survives_the_wire(service in strategies::service()) {
        let wire = carried(&mesh::Service::from(&service));
        prop_assert_eq!(Service::try_from(wire), Ok(service));
    }

    #[test]
    fn an_endpoint_set_survives_the_wire(set in strategies::endpoint_set()) {
        let wire = carried(&mesh::EndpointSet::from(&set));
        prop_assert_eq!(EndpointSet::try_from(wire), Ok(set));
    }

    #[test]
    fn a_trust_bundle_survives_the_wire(bundle in strategies::trust_bundle()) {
        let wire = carried(&mesh::TrustBundle::from(&bundle));
        prop_assert_eq!(TrustBundle::try_from(wire), Ok(bundle));
    }

    #[test]
    fn an_object_survives_the_wire(written in strategies::object()) {
        let wire = carried(&proto::Object::from(&written));
        prop_assert_eq!(object(&wire), Ok::<Object, _>(written));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = mesh::Service::decode(bytes.as_slice()) {
            drop(Service::try_from(wire));
        }
        if let Ok(wire) = mesh::EndpointSet::decode(bytes.as_slice()) {
            drop(EndpointSet::try_from(wire));
        }
        if let Ok(wire) = proto::Object::decode(bytes.as_slice()) {
            drop(object(&wire));
        }
    }
}
