//! What is known of a head's fields, and that nobody decides otherwise by it than by looking everything up.

use http::{Method, Request, Version, header};
use outrigger_core::deadline::header as timeouts;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    headers::{self, Hop, names, strip_all},
    http::{check_head, expects_continue, length},
};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
/// Fields that nobody asks for, and others that are almost ones that somebody does.
const OTHERS: [&str; 12] = [
    "accept",
    "cookie",
    "x-one",
    "x-two",
    "hosts",
    "hot",
    "authorization",
    "outrigger",
    "outriggers-x",
    "outrigger-timing",
    "outrigger-retry",
    "outrigger-hops",
];
const VALUES: [&str; 24] = [
    "",
    "close",
    "te, x-one",
    "Upgrade, keep-alive",
    "content-length, expect, tracestate, outrigger-timeout",
    "websocket, h2c",
    "chunked",
    "gzip",
    "0",
    "3",
    "2",
    "100-continue",
    "trailers",
    "timeout=5, max=3",
    "1s",
    "5S",
    "draining",
    "upstream_reset",
    "0123456789abcdef",
    "application/grpc",
    "price.demo:80",
    "user@price",
    TRACE,
    "a b",
];

/// Heads that have most of what is asked for now and then, some of it twice.
fn heads() -> impl Strategy<Value = HeaderMap> {
    let names: Vec<HeaderName> = Field::ALL.iter().map(|field| field.name()).collect();
    let name = prop_oneof![3 => select(names), 1 => select(&OTHERS[..]).prop_map(HeaderName::from_static)];
    let value = prop_oneof![4 => select(&VALUES[..]).prop_map(str::to_owned), 1 => "[ -~]{0,12}"];
    vec((name, value), 0..12).prop_map(|lines| {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name, HeaderValue::try_from(value).unwrap());
        }
        map
    })
}

fn versions() -> impl Strategy<Value = Version> {
    select(&[Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][..])
}

/// A head of which nothing is known, so that every value is looked up; and whether there is one, where that decides.
fn unknown(map: &HeaderMap) -> Fields<'_> {
    let decide = [Field::TransferEncoding, Field::ContentLength];
    let absent: Vec<Field> = decide.into_iter().filter(|field| !map.contains_key(field.name())).collect();
    Fields { map, there: Set(u32::MAX).without(Set::of(&absent)) }
}

/// What a message loses on a leg, found by a look at each name: in a set, but `kept`.
fn stripped(map: &HeaderMap, also: &[&str], kept: &[&str]) -> HeaderMap {
    let of_connection =
        ["connection", "te", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"];
    let goes = |name: &str| {
        of_connection.contains(&name)
            || also.contains(&name)
            || name.starts_with("outrigger-") && !kept.contains(&name)
    };
    let named: Vec<HeaderName> = headers::list(map, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !headers::is_kept(name))
        .collect();
    let mut left = HeaderMap::new();
    for (name, value) in map {
        if !goes(name.as_str()) && !named.contains(name) {
            left.append(name, value.clone());
        }
    }
    left
}

#[test]
fn each_field_is_known_by_its_name_and_has_a_bit_of_its_own() {
    for field in Field::ALL {
        let map = HeaderMap::from_iter([(field.name(), HeaderValue::from_static("x"))]);
        let there = Field::ALL.iter().filter(|other| Fields::of(&map).has(**other));
        assert_eq!(there.collect::<Vec<_>>(), [field]);
        assert!(!Set::only(*field).has_of(Set::OTHERS_OF_OURS));
    }
}

proptest! {
    #[test]
    fn a_field_is_known_to_be_there_exactly_if_it_is(map in heads()) {
        let fields = Fields::of(&map);
        for field in Field::ALL {
            prop_assert_eq!(fields.has(*field), map.contains_key(field.name()), "{:?}", field);
            prop_assert_eq!(fields.get(*field), map.get(field.name()));
            prop_assert!(fields.all(*field).eq(map.get_all(field.name())));
        }
        let other = |name: &HeaderName| is_own(name.as_str()) && !Field::ALL.iter().any(|field| field.name() == name);
        prop_assert_eq!(!fields.among(Set::OTHERS_OF_OURS).is_empty(), map.keys().any(other));
    }

    #[test]
    fn what_is_known_of_a_head_changes_nothing_that_is_read_from_it(
        map in heads(),
        version in versions(),
        method in select(&[Method::GET, Method::POST, Method::CONNECT, Method::OPTIONS][..]),
        target in select(&["/", "*", "price:80", "http://price/a"][..]),
    ) {
        let (known, unknown) = (Fields::of(&map), unknown(&map));
        let request = Request::builder().method(method).uri(target).version(version).body(()).unwrap();
        prop_assert_eq!(check_head(&request, known), check_head(&request, unknown));
        prop_assert_eq!(expects_continue(known), expects_continue(unknown));
        let lengths = |fields: Fields<'_>| length(fields.all(Field::ContentLength)).map(Option::<&_>::cloned).ok();
        prop_assert_eq!(lengths(known), lengths(unknown));
        prop_assert_eq!(headers::asked_upgrade(version, known), headers::asked_upgrade(version, unknown));
        prop_assert_eq!(headers::wants_http2(known), headers::wants_http2(unknown));
        prop_assert_eq!(headers::idle(known), headers::idle(unknown));
        prop_assert_eq!(headers::peer_reason(known), headers::peer_reason(unknown));
        prop_assert_eq!(headers::says_close(known), headers::says_close(unknown));
        prop_assert_eq!(headers::accepts_trailers(known), headers::accepts_trailers(unknown));
        prop_assert_eq!(headers::keep_alive_timeout(known), headers::keep_alive_timeout(unknown));
        let hop = Hop(HeaderValue::from_static("0123456789abcdef"));
        prop_assert_eq!(hop.is_in(known), hop.is_in(unknown));
        for grpc in [false, true] {
            prop_assert_eq!(headers::timeout(known, grpc), timeouts::read(&map, grpc));
        }
    }

    #[test]
    fn each_leg_strips_what_a_look_at_each_name_would(map in heads()) {
        for (goes, also, kept) in [
            (headers::NOT_OUT, &["proxy-authorization", "x-forwarded-client-cert"][..], &[][..]),
            (headers::NOT_IN, &[], &["outrigger-hop", "outrigger-timeout"]),
            (headers::NEVER_CROSS, &[], &[]),
            (headers::NOT_TRAILING, &["content-length", "host"], &[]),
        ] {
            let mut left = map.clone();
            strip_all(&mut left, goes);
            prop_assert_eq!(left, stripped(&map, also, kept));
        }
    }

    #[test]
    fn a_request_is_named_by_what_it_came_with(map in heads()) {
        for name in [names::make, names::complete] {
            let named = [Fields::of(&map), unknown(&map)].map(|fields| {
                let given = names::given(fields);
                let mut headers = map.clone();
                let names = name(&mut headers, given);
                prop_assert_eq!(outrigger_core::telemetry::traces::trace_id(&names.traceparent), Some(names.trace));
                // What is random is another one each time.
                let came = |name: HeaderName| headers.get_all(&name).iter().eq(map.get_all(&name));
                let keeps = [headers::REQUEST_ID, headers::TRACEPARENT].map(came);
                let left: Vec<_> = headers.keys().map(HeaderName::to_string).collect();
                Ok((keeps, std::collections::BTreeSet::from_iter(left)))
            });
            let [known, unknown] = named;
            prop_assert_eq!(known?, unknown?);
        }
    }
}
