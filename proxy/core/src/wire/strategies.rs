//! Arbitrary values of the model, for the round-trip properties of the wire and of documents.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, Method};
use proptest::{collection, option, prelude::*, sample::select, strategy::Union};

use crate::model::*;

pub(crate) fn name() -> impl Strategy<Value = Name> + Clone {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|name| name.parse().unwrap())
}

pub(crate) fn service_name() -> impl Strategy<Value = ServiceName> + Clone {
    (name(), name()).prop_map(|(namespace, name)| ServiceName { namespace, name })
}

fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    (name(), name()).prop_map(|(namespace, account)| {
        SpiffeId::workload("outrigger.local".parse().unwrap(), namespace, account)
    })
}

fn path() -> impl Strategy<Value = String> {
    "(/[A-Za-z0-9_~!$&'()*+,;=:@-]{1,8}){0,4}/?"
        .prop_map(|path| if path.is_empty() { "/".to_owned() } else { path })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let sources = ["/v[0-9]+/.*", "a|b", "(?i)canary", "[0-9]{1,3}", "x{2,5}[^y]*", "true", "007", "é+", "#"];
    select(sources.map(|source| Pattern::new(source).unwrap()).to_vec())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!-~]([ -~]{0,20}[!-~])?",
        select(vec![
            "true", "null", "~", "1.10", "0x1f", "1e3", "- a", "a: b", "#c", "'", "\"", "{}", "*a", "&a",
            "yes", "<<"
        ])
        .prop_map(str::to_owned),
    ]
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "x-[a-z0-9_.!-]{1,10}".prop_map(|name| name.parse().unwrap())
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Regex),
    ]
}

fn value_match(exact: impl Strategy<Value = String>) -> impl Strategy<Value = ValueMatch> {
    prop_oneof![exact.prop_map(ValueMatch::Exact), pattern().prop_map(ValueMatch::Regex)]
}

pub(crate) fn http_match() -> impl Strategy<Value = HttpMatch> {
    let headers = collection::btree_map("x-[a-z0-9]{1,6}", value_match(text()), 0..3);
    let query = "[!\"$-%'-<>-~]{1,8}";
    let query_params = collection::btree_map(query, value_match("[!-\"$-%'-~]{1,8}"), 0..3);
    let methods = vec![Method::GET, Method::POST, Method::from_bytes(b"X-MOVE_2").unwrap()];
    (option::of(path_match()), option::of(select(methods)), headers, query_params).prop_map(
        |(path, method, headers, query_params)| HttpMatch {
            path,
            method,
            headers: headers
                .into_iter()
                .map(|(name, value)| HeaderMatch { name: name.parse().unwrap(), value })
                .collect(),
            query_params: query_params.into_iter().map(|(name, value)| QueryMatch { name, value }).collect(),
        },
    )
}

fn headers() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    collection::hash_map(header_name(), prop_oneof![text(), Just(String::new())], 0..3).prop_map(|headers| {
        headers.into_iter().map(|(name, value)| (name, HeaderValue::from_str(&value).unwrap())).collect()
    })
}

fn mutation() -> impl Strategy<Value = HeaderMutation> {
    let remove = collection::hash_set(header_name(), 0..3);
    (headers(), headers(), remove)
        .prop_filter("an edit", |(set, add, remove)| !(set.is_empty() && add.is_empty() && remove.is_empty()))
        .prop_map(|(set, add, remove)| HeaderMutation { set, add, remove: remove.into_iter().collect() })
}

pub(crate) fn filters() -> impl Strategy<Value = Vec<HttpFilter>> {
    (option::of(mutation()), option::of(mutation()), any::<bool>()).prop_map(|(request, response, swap)| {
        let mut filters: Vec<_> = request.map(HttpFilter::RequestHeaders).into_iter().collect();
        filters.extend(response.map(HttpFilter::ResponseHeaders));
        if swap {
            filters.reverse();
        }
        filters
    })
}

fn request_timeout() -> impl Strategy<Value = Option<Duration>> {
    option::of(prop_oneof![Just(0), 1..86_400_000_u64].prop_map(Duration::from_millis))
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn external_traffic() -> impl Strategy<Value = ExternalTraffic> {
    select(vec![ExternalTraffic::Deny, ExternalTraffic::Connect443])
}

fn domain() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,5}(\\.[a-z0-9]([a-z0-9-]{0,4}[a-z0-9])?){0,3}"
}

pub(crate) fn proxy_config() -> impl Strategy<Value = ProxyConfig> {
    (
        spiffe_id(),
        domain(),
        millis(10..60_000),
        millis(1_000..1_000_000),
        external_traffic(),
        option::of(millis(1..86_400_000)),
        millis(1..60_000),
    )
        .prop_map(|(workload_id, cluster_domain, timeout, idle, external_traffic, request, connect)| {
            ProxyConfig {
                workload_id,
                cluster_domain,
                on_demand_timeout: timeout,
                on_demand_idle: idle,
                external_traffic,
                request_timeout: request,
                connect_timeout: connect,
            }
        })
}

fn set_name() -> impl Strategy<Value = Arc<str>> {
    "[!-~]{1,20}".prop_map(Arc::from)
}

fn route_rule() -> impl Strategy<Value = RouteRule> {
    let backend = (service_name(), 1..=u16::MAX, 0..=1_000_000_u32, set_name()).prop_map(
        |(service, port, weight, endpoint_set)| WeightedBackend { service, port, weight, endpoint_set },
    );
    let backends = collection::vec(backend, 1..4).prop_map(|mut backends| {
        backends[0].weight = backends[0].weight.max(1);
        backends
    });
    (set_name(), http_match(), filters(), backends, request_timeout()).prop_map(
        |(name, condition, filters, backends, request_timeout)| RouteRule {
            name,
            condition,
            filters,
            backends,
            request_timeout,
        },
    )
}

fn any_protocol() -> impl Strategy<Value = AppProtocol> {
    select(vec![
        AppProtocol::Detect,
        AppProtocol::Tcp,
        AppProtocol::Http1,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tls,
    ])
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let port = (any_protocol(), option::of(name()), set_name(), collection::vec(route_rule(), 0..3));
    (service_name(), collection::btree_map(1..=u16::MAX, port, 1..4), millis(0..60_000)).prop_map(
        |(name, ports, warm_timeout)| Service {
            name,
            ports: ports
                .into_iter()
                .map(|(port, (protocol, name, endpoint_set, rules))| ServicePort {
                    port,
                    protocol,
                    name,
                    endpoint_set,
                    rules,
                })
                .collect(),
            warm_timeout,
        },
    )
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        (1..0xE000_0000_u32).prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        (1..=u64::MAX).prop_map(|bits| Ipv6Addr::from_bits((0xfd00_u128 << 112) | u128::from(bits)).into()),
    ];
    (ip, 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

pub(crate) fn endpoint_set() -> impl Strategy<Value = EndpointSet> {
    let health = select(vec![Health::Healthy, Health::Draining, Health::Unhealthy]);
    let endpoint = (spiffe_id(), 1..=1_000_u32, health, set_name());
    let endpoints = collection::btree_map(address(), endpoint, 0..8);
    (service_name(), 1..=u16::MAX, endpoints, any::<bool>(), overrides()).prop_map(
        |(service, port, endpoints, panic, resilience)| EndpointSet {
            service,
            port,
            endpoints: endpoints
                .into_iter()
                .map(|(address, (identity, weight, health, workload))| Endpoint {
                    address,
                    identity,
                    weight,
                    health,
                    workload,
                })
                .collect(),
            panic,
            resilience: resilience.into(),
        },
    )
}

pub(crate) fn trust_bundle() -> impl Strategy<Value = TrustBundle> {
    let authorities = collection::vec(collection::vec(any::<u8>(), 1..64), 1..4);
    let hashes = || collection::vec(any::<[u8; 32]>(), 0..3);
    let outgoing = (hashes(), hashes(), hashes(), any::<bool>())
        .prop_map(|(retiring, tainted, revoked, at_once)| Outgoing { retiring, tainted, revoked, at_once });
    ("[a-z0-9._-]{1,20}", authorities, any::<u64>(), outgoing).prop_map(
        |(trust_domain, x509_authorities, sequence, outgoing)| TrustBundle {
            trust_domain: trust_domain.parse().unwrap(),
            x509_authorities,
            sequence,
            outgoing,
        },
    )
}

fn route_spec() -> impl Strategy<Value = RouteSpec> {
    let reference = || (option::of(name()), name(), 1..=u16::MAX);
    let parents = collection::btree_set((reference(), any::<bool>()), 1..4).prop_map(|parents| {
        let parents: BTreeSet<_> = parents
            .into_iter()
            .map(|((namespace, name, port), every)| ParentRef {
                namespace,
                name,
                port: (!every).then_some(port),
            })
            .collect();
        parents.into_iter().collect()
    });
    let backends = collection::btree_map(reference(), 0..=1_000_000_u32, 0..4).prop_map(|backends| {
        let mut backends: Vec<_> = backends
            .into_iter()
            .map(|((namespace, name, port), weight)| BackendRef { namespace, name, port, weight })
            .collect();
        if let Some(first) = backends.first_mut() {
            first.weight = first.weight.max(1);
        }
        backends
    });
    let matches = collection::vec(http_match(), 0..3);
    let rule = (matches, filters(), backends, request_timeout());
    let rules = collection::vec((any::<bool>(), rule), 1..4).prop_map(|rules| {
        rules
            .into_iter()
            .enumerate()
            .map(|(index, (named, (matches, filters, backends, request_timeout)))| PolicyRule {
                name: named.then(|| format!("rule-{index}").parse().unwrap()),
                matches,
                filters,
                backends,
                request_timeout,
            })
            .collect()
    });
    (parents, rules).prop_map(|(parents, rules)| RouteSpec { parents, rules })
}

fn service_spec() -> impl Strategy<Value = ServiceSpec> {
    let target = prop_oneof![(1..=u16::MAX).prop_map(TargetPort::Number), name().prop_map(TargetPort::Name),];
    let ports =
        collection::btree_map(1..=u16::MAX, (any_protocol(), option::of(target)), 1..4).prop_map(|ports| {
            let several = ports.len() > 1;
            ports
                .into_iter()
                .map(|(port, (protocol, target_port))| PortSpec {
                    port,
                    name: several.then(|| format!("p{port}").parse().unwrap()),
                    protocol,
                    target_port,
                })
                .collect()
        });
    (ports, collection::btree_set((name(), name()), 0..4), labels())
        .prop_map(|(ports, service_accounts, selector)| ServiceSpec { ports, service_accounts, selector })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let per_try = option::of(millis(1..86_400_001));
    (request_timeout(), per_try, option::of(millis(1..60_001)), request_timeout()).prop_map(
        |(request, per_try, connect, idle)| {
            let most = request.filter(|request| !request.is_zero()).unwrap_or(Duration::MAX);
            Timeouts { request, per_try: per_try.map(|per_try| per_try.min(most)), connect, idle }
        },
    )
}

fn retry() -> impl Strategy<Value = Retry> {
    let statuses = collection::btree_set(prop_oneof![Just(429), 500..600_u16], 0..5);
    let retry = (0..=10_u32, statuses, any::<bool>(), millis(1..60_001), millis(1..60_001));
    prop_oneof![
        Just(Retry::default()),
        Just(Retry::enabled()),
        retry.prop_map(|(attempts, statuses, reset, one, other)| Retry {
            attempts,
            statuses,
            reset,
            backoff_base: one.min(other),
            backoff_max: one.max(other),
        }),
    ]
}

fn budget() -> impl Strategy<Value = RetryBudget> {
    (0..=100_u32, millis(1_000..60_001), 0..=1_000_u32)
        .prop_map(|(percent, interval, min_per_second)| RetryBudget { percent, interval, min_per_second })
}

fn outlier() -> impl Strategy<Value = Outlier> {
    (0..=1_000_u32, millis(100..3_600_001), millis(100..86_400_001), 0..=50_u32).prop_map(
        |(consecutive_failures, base, max, max_ejected_percent)| Outlier {
            consecutive_failures,
            base_ejection: base.min(max),
            max_ejection: max,
            max_ejected_percent,
        },
    )
}

fn traffic_limits() -> impl Strategy<Value = TrafficLimits> {
    (1..=1_000_000_u32, 1..=1_000_000_u32, 0..=1_000_000_u32)
        .prop_map(|(connections, requests, pending)| TrafficLimits { connections, requests, pending })
}

/// Parts that are absent, as by default, or of any other value.
fn overrides() -> impl Strategy<Value = ResilienceOverrides> {
    fn part<T: Clone + Default + std::fmt::Debug + 'static>(
        value: impl Strategy<Value = T> + 'static,
    ) -> impl Strategy<Value = Option<T>> {
        option::of(prop_oneof![Just(T::default()), value])
    }
    let timeouts = prop_oneof![Just(Timeouts::default()), timeouts()];
    (timeouts, part(retry()), part(budget()), part(outlier()), part(traffic_limits())).prop_map(
        |(timeouts, retry, budget, outlier, limits)| ResilienceOverrides {
            timeouts,
            retry,
            budget,
            outlier,
            limits,
        },
    )
}

fn traffic_policy_spec() -> impl Strategy<Value = TrafficPolicySpec> {
    let target = (name(), option::of(1..=u16::MAX)).prop_map(|(name, port)| TargetRef { name, port });
    (collection::btree_set(target, 1..4), overrides()).prop_map(|(targets, overrides)| TrafficPolicySpec {
        targets: targets.into_iter().collect(),
        overrides,
    })
}

fn mesh_config_spec() -> impl Strategy<Value = MeshConfigSpec> {
    (external_traffic(), domain(), option::of(millis(1..86_400_000)), millis(1..60_000), millis(10..60_000))
        .prop_map(
            |(external_traffic, cluster_domain, request_timeout, connect_timeout, discovery_timeout)| {
                MeshConfigSpec {
                    external_traffic,
                    cluster_domain,
                    request_timeout,
                    connect_timeout,
                    discovery_timeout,
                }
            },
        )
}

fn labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    let value = prop_oneof![Just(String::new()), "[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?"];
    collection::btree_map("([a-z0-9]{1,4}\\.[a-z]{2}/)?[A-Za-z0-9]{1,8}(\\.[a-z])?", value, 0..3)
}

fn spec() -> impl Strategy<Value = Spec> {
    Union::new([
        service_spec().prop_map(Spec::Service).boxed(),
        route_spec().prop_map(Spec::Route).boxed(),
        traffic_policy_spec().prop_map(Spec::TrafficPolicy).boxed(),
        mesh_config_spec().prop_map(Spec::MeshConfig).boxed(),
    ])
}

/// An object as its author writes it: without what the server keeps.
pub(crate) fn written_object() -> impl Strategy<Value = Object> {
    let annotations = collection::btree_map("[a-z]{1,6}", "\\PC{0,20}|[ -~\n\t]{0,20}", 0..3);
    (name(), name(), labels(), annotations, spec()).prop_map(
        |(namespace, name, labels, annotations, mut spec)| {
            let (namespace, name) = match &mut spec {
                Spec::MeshConfig(_) => (None, Kind::MESH_CONFIG_NAME.parse().unwrap()),
                Spec::Service(service) => {
                    service.service_accounts.remove(&(namespace.clone(), name.clone()));
                    (Some(namespace), name)
                }
                Spec::Route(_) | Spec::TrafficPolicy(_) => (Some(namespace), name),
            };
            let metadata = Metadata { labels, annotations, ..Metadata::new(namespace, name) };
            Object { metadata, spec, conditions: Vec::new() }
        },
    )
}

/// The same with what the server keeps.
pub(crate) fn object() -> impl Strategy<Value = Object> {
    let time =
        || option::of((0..4_000_000_000_u64).prop_map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)));
    let condition = ("[A-Z][a-z]{1,8}", any::<bool>(), "[A-Z][a-z]{1,8}", "\\PC{0,20}", any::<u64>(), time())
        .prop_map(|(kind, status, reason, message, observed_generation, since)| Condition {
            kind,
            status,
            reason,
            message,
            observed_generation,
            since,
        });
    let kept = (any::<u64>(), any::<u64>(), time(), time(), "[a-z]{0,8}", "[a-f0-9]{0,8}");
    (written_object(), kept, collection::vec(condition, 0..3)).prop_map(
        |(mut object, (revision, generation, created, updated, updated_by, uid), conditions)| {
            object.metadata =
                Metadata { revision, generation, created, updated, updated_by, uid, ..object.metadata };
            Object { conditions, ..object }
        },
    )
}
