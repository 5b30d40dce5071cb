//! Matching, precedence and weights, as the Gateway API words them.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::model::Pattern;

fn condition(path: Option<PathMatch>) -> HttpMatch {
    HttpMatch { path, ..HttpMatch::default() }
}

fn prefix(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Prefix(path.to_owned()))
}

fn exact(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Exact(path.to_owned()))
}

fn regex(source: &str) -> Pattern {
    Pattern::new(source).unwrap()
}

fn backend(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        service: format!("demo/{name}").parse().unwrap(),
        port: 80,
        weight,
        endpoint_set: format!("demo/{name}:80").into(),
    }
}

fn rule(name: &str, condition: HttpMatch) -> RouteRule {
    RouteRule {
        name: name.into(),
        condition,
        filters: Vec::new(),
        backends: vec![backend("a", 1)],
        request_timeout: None,
    }
}

fn covered(condition: &HttpMatch, target: &str, headers: &[(&str, &[u8])]) -> bool {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    let head = RequestHead { method: &Method::GET, path, query, headers: &map };
    covers(condition, &head)
}

#[test]
fn a_prefix_covers_whole_segments() {
    for (path, target, expected) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1", "/v1/x", true),
        ("/v1", "/v1x", false),
        ("/v1", "/v", false),
        ("/v1", "/V1", false),
        ("/v1/", "/v1", true),
        ("/v1/", "/v1/x", true),
        ("/v1/", "/v1x", false),
        ("/", "/", true),
        ("/", "/anything", true),
        ("/", "*", true),
        ("/", "", true),
    ] {
        assert_eq!(covered(&condition(prefix(path)), target, &[]), expected, "{path} {target}");
    }
}

#[test]
fn exact_and_regular_expression_cover_the_whole_path() {
    assert!(covered(&condition(exact("/a")), "/a?q=1", &[]));
    assert!(!covered(&condition(exact("/a")), "/a/", &[]));
    let pattern = condition(Some(PathMatch::Regex(regex("/v[0-9]+|/w"))));
    assert!(covered(&pattern, "/v12", &[]));
    assert!(!covered(&pattern, "/v12/x", &[]));
    assert!(!covered(&pattern, "/x/w", &[]));
}

#[test]
fn headers_are_joined_before_they_are_compared() {
    let mut wanted = condition(None);
    wanted.headers = vec![HeaderMatch {
        name: HeaderName::from_static("x-canary"),
        value: ValueMatch::Exact("a,b".to_owned()),
    }];
    assert!(covered(&wanted, "/", &[("x-canary", b"a"), ("X-Canary", b"b")]));
    assert!(covered(&wanted, "/", &[("x-canary", b"a,b")]));
    assert!(!covered(&wanted, "/", &[("x-canary", b"a")]));
    assert!(!covered(&wanted, "/", &[]));
}

#[test]
fn a_value_that_is_not_text_matches_no_regular_expression() {
    let mut wanted = condition(None);
    wanted.headers = vec![HeaderMatch {
        name: HeaderName::from_static("x-canary"),
        value: ValueMatch::Regex(regex(".*")),
    }];
    assert!(covered(&wanted, "/", &[("x-canary", b"")]));
    assert!(!covered(&wanted, "/", &[("x-canary", b"\xff")]));
}

#[test]
fn the_first_query_parameter_of_a_name_counts() {
    let mut wanted = condition(None);
    wanted.query_params = vec![QueryMatch { name: "v".to_owned(), value: ValueMatch::Exact("2".to_owned()) }];
    for (target, expected) in [
        ("/?v=2", true),
        ("/?a=1&v=2&v=3", true),
        ("/?v=3&v=2", false),
        ("/?v", false),
        ("/?V=2", false),
        ("/?", false),
        ("/", false),
        ("/?v=2=3", false),
    ] {
        assert_eq!(covered(&wanted, target, &[]), expected, "{target}");
    }
}

#[test]
fn every_condition_must_hold() {
    let mut wanted = condition(prefix("/a"));
    wanted.method = Some(Method::POST);
    assert!(!covered(&wanted, "/a", &[]));
    wanted.method = Some(Method::GET);
    assert!(covered(&wanted, "/a", &[]));
    assert!(covered(&HttpMatch::default(), "/anything?x", &[]));
}

#[test]
fn rules_sort_as_the_gateway_api_says() {
    let header = |name: &'static str| HeaderMatch {
        name: HeaderName::from_static(name),
        value: ValueMatch::Exact(String::new()),
    };
    let query = || QueryMatch { name: "q".to_owned(), value: ValueMatch::Exact(String::new()) };
    let mut method = condition(prefix("/a"));
    method.method = Some(Method::GET);
    let mut two_headers = condition(prefix("/a"));
    two_headers.headers = vec![header("a"), header("b")];
    let mut one_header = condition(prefix("/a/"));
    one_header.headers = vec![header("a")];
    one_header.query_params = vec![query()];
    let mut one_query = condition(prefix("/a"));
    one_query.query_params = vec![query()];
    let order = [
        condition(exact("/")),
        condition(Some(PathMatch::Regex(regex("/abc")))),
        condition(Some(PathMatch::Regex(regex("/a")))),
        condition(prefix("/abc")),
        method,
        two_headers,
        one_header,
        one_query,
        condition(prefix("/a")),
        condition(None),
    ];
    assert!(order.is_sorted_by_key(precedence));
    for pair in order.windows(2) {
        assert!(precedence(&pair[0]) < precedence(&pair[1]), "{pair:?}");
    }
    assert_eq!(precedence(&condition(prefix("/"))), precedence(&condition(None)));
    assert_eq!(precedence(&condition(prefix("/a/"))), precedence(&condition(prefix("/a"))));
}

#[test]
fn the_first_rule_that_covers_wins() {
    let rules = [
        rule("one", condition(prefix("/a"))),
        rule("two", condition(None)),
        rule("three", condition(exact("/b"))),
    ];
    let headers = HeaderMap::new();
    let head = |path| RequestHead { method: &Method::GET, path, query: None, headers: &headers };
    assert_eq!(&*select(&rules, &head("/a/x")).unwrap().name, "one");
    assert_eq!(&*select(&rules, &head("/b")).unwrap().name, "two");
    assert!(select(&rules[..1], &head("/b")).is_none());
}

#[test]
fn edits_happen_in_the_order_set_add_remove() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let mutation = HeaderMutation {
        set: vec![(name("a"), value("set")), (name("c"), value("set"))],
        add: vec![(name("a"), value("added")), (name("b"), value("added"))],
        remove: vec![name("c")],
    };
    let mut headers = HeaderMap::new();
    for old in ["1", "2"] {
        headers.append("a", value(old));
        headers.append("b", value(old));
    }
    mutate(&mutation, &mut headers);
    let all = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("a"), ["set", "added"]);
    assert_eq!(all("b"), ["1", "2", "added"]);
    assert!(all("c").is_empty());
}

#[test]
fn weights_split_exactly_over_a_whole_round() {
    let backends = [backend("a", 90), backend("none", 0), backend("b", 10)];
    let mut counts = [0; 3];
    for random in 0..100 {
        let chosen = weighted(&backends, random).unwrap();
        counts[backends.iter().position(|backend| backend == chosen).unwrap()] += 1;
    }
    assert_eq!(counts, [90, 0, 10]);
    assert!(weighted(&backends[1..2], 7).is_none());
    assert!(weighted(&[], 7).is_none());
}

proptest! {
    #[test]
    fn a_backend_of_weight_0_is_never_chosen(weights in proptest::collection::vec(0..1_000_000_u32, 1..16), random: u64) {
        let backends: Vec<_> = weights.iter().map(|weight| backend("a", *weight)).collect();
        match weighted(&backends, random) {
            Some(chosen) => prop_assert!(chosen.weight > 0),
            None => prop_assert!(weights.iter().all(|weight| *weight == 0)),
        }
    }
}
