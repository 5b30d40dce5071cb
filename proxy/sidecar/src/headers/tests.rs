//! One table for all directions, on both legs.

use outrigger_core::telemetry::traces::trace_id;

use super::*;

const HOP_ID: &str = "0123456789abcdef";
const PEER: &str = "spiffe://outrigger.local/ns/demo/sa/front";
const OWN: &str = "spiffe://outrigger.local/ns/demo/sa/price";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Direction {
    WorkloadToMesh,
    MeshToApplication,
    ApplicationToMesh,
    MeshToWorkload,
    /// Both times that they cross.
    RequestTrailers,
    ResponseTrailers,
}
use Direction::{
    ApplicationToMesh, MeshToApplication, MeshToWorkload, RequestTrailers, ResponseTrailers, WorkloadToMesh,
};

const ALL: [Direction; 6] =
    [WorkloadToMesh, MeshToApplication, ApplicationToMesh, MeshToWorkload, RequestTrailers, ResponseTrailers];
const HEADS: [Direction; 4] = [WorkloadToMesh, MeshToApplication, ApplicationToMesh, MeshToWorkload];
const REQUESTS: [Direction; 2] = [WorkloadToMesh, MeshToApplication];
const RESPONSES: [Direction; 3] = [ApplicationToMesh, MeshToWorkload, ResponseTrailers];
const LEGS: [Leg; 2] = [Leg::Http1, Leg::Http2];

fn way(leg: Leg) -> Way {
    Way { leg, upgrade: None }
}

/// What a client speaks whose requests go on as they came.
fn version(leg: Leg) -> Version {
    match leg {
        Leg::Http1 => Version::HTTP_11,
        Leg::Http2 => Version::HTTP_2,
    }
}

fn peer() -> HeaderValue {
    client_cert(&PEER.parse().unwrap(), Some(&OWN.parse().unwrap()))
}

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    headers
}

fn crossed(direction: Direction, leg: Leg, lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = map(lines);
    match direction {
        WorkloadToMesh => drop(outbound_request(
            &mut headers,
            &Hop(HeaderValue::from_static(HOP_ID)),
            version(leg),
            &way(leg),
        )),
        MeshToApplication => drop(inbound_request(&mut headers, &peer(), &way(leg))),
        ApplicationToMesh => {
            inbound_response(&mut headers);
        }
        MeshToWorkload => outbound_response(&mut headers),
        RequestTrailers => request_trailers(&mut headers),
        ResponseTrailers => response_trailers(&mut headers),
    }
    headers
}

fn on_both_legs<const N: usize>(directions: [Direction; N]) -> impl Iterator<Item = (Direction, Leg)> {
    directions.into_iter().flat_map(|direction| LEGS.map(|leg| (direction, leg)))
}

/// Name, value, in which directions it crosses unchanged; everywhere else it must be gone.
const CROSSING: &[(&str, &str, &[Direction])] = &[
    // End to end.
    ("accept", "*/*", &ALL),
    ("content-length", "3", &HEADS),
    ("host", "price", &HEADS),
    ("cookie", "a=b", &ALL),
    ("set-cookie", "a=b", &ALL),
    ("trailer", "x-checksum", &ALL),
    ("x-forwarded-for", "192.0.2.1", &ALL),
    ("x-request-id", "mine", &ALL),
    ("traceparent", TRACE, &ALL),
    ("tracestate", "a=1", &[ApplicationToMesh, MeshToWorkload, RequestTrailers, ResponseTrailers]),
    ("authorization", "Bearer x", &ALL),
    ("www-authenticate", "Basic", &ALL),
    (
        "proxy-authorization",
        "Basic x",
        &[MeshToApplication, ApplicationToMesh, MeshToWorkload, ResponseTrailers],
    ),
    // Of one connection.
    ("connection", "close", &[]),
    ("keep-alive", "timeout=5", &[]),
    ("proxy-connection", "keep-alive", &[]),
    ("te", "gzip", &[]),
    ("transfer-encoding", "chunked", &[]),
    ("upgrade", "websocket", &[]),
    // Of the mesh.
    ("outrigger-timing", "forged", &[]),
    ("outrigger-anything", "forged", &[]),
    ("outrigger-version", "3", &[]),
    ("outrigger-timeout", "1s", &[MeshToApplication]),
    ("outrigger-idle", "1s", &[]),
    ("outrigger-unprocessed", "draining", &[]),
    ("outrigger-reason", "draining", &[]),
    ("outrigger-retry", "never", &[]),
    ("retry-after", "1", &ALL),
    ("grpc-retry-pushback-ms", "1000", &ALL),
    ("outrigger-hop", "fedcba9876543210", &[MeshToApplication]),
    ("x-forwarded-client-cert", "URI=forged", &RESPONSES),
];

#[test]
fn each_header_crosses_each_leg_as_the_table_says() {
    for (name, value, crosses) in CROSSING {
        for (direction, leg) in on_both_legs(ALL) {
            let headers = crossed(direction, leg, &[(name, value), ("x-kept", "yes")]);
            let does = headers.get_all(*name).iter().any(|found| found == value);
            assert_eq!(does, crosses.contains(&direction), "{name}: {direction:?} on {leg:?}");
            assert_eq!(headers["x-kept"], "yes");
        }
    }
}

#[test]
fn fields_named_by_connection_go_but_never_those_that_the_next_hop_relies_on() {
    for (direction, leg) in on_both_legs(HEADS) {
        let headers = crossed(
            direction,
            leg,
            &[
                ("connection", "x-one, Content-Length"),
                ("connection", "authorization,x-two"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("content-length", "3"),
                ("authorization", "Bearer x"),
            ],
        );
        assert!(!headers.contains_key("x-one") && !headers.contains_key("x-two"));
        assert_eq!(headers["content-length"], "3");
        assert_eq!(headers["authorization"], "Bearer x");
    }
    for leg in LEGS {
        let headers = crossed(
            MeshToApplication,
            leg,
            &[("connection", "x-forwarded-client-cert, outrigger-hop"), ("outrigger-hop", HOP_ID)],
        );
        assert!(headers.contains_key(CLIENT_CERT) && headers.contains_key(HOP));
    }
}

#[test]
fn the_peer_that_was_verified_replaces_the_one_that_was_claimed() {
    for leg in LEGS {
        let headers = crossed(
            MeshToApplication,
            leg,
            &[("x-forwarded-client-cert", "URI=a"), ("x-forwarded-client-cert", "URI=b")],
        );
        let values: Vec<_> = headers.get_all(CLIENT_CERT).iter().collect();
        assert_eq!(values, [format!("By={OWN};URI={PEER}").as_str()]);
    }
}

#[test]
fn a_request_carries_a_request_id_and_a_trace_even_if_it_came_with_none_or_with_nonsense() {
    let long = "a".repeat(129);
    for (direction, leg) in on_both_legs(REQUESTS) {
        for lines in [
            &[][..],
            &[("x-request-id", ""), ("traceparent", "00-0-0-0")][..],
            &[
                ("x-request-id", "a b"),
                ("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
            ],
            &[
                ("x-request-id", &long),
                ("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-00"),
            ],
            &[
                ("x-request-id", ""),
                ("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-00"),
            ],
        ] {
            let mut headers = crossed(direction, leg, lines);
            if direction == WorkloadToMesh {
                assert!(
                    !headers.contains_key(REQUEST_ID),
                    "made of the trace by the other side: {headers:?}"
                );
                inbound_request(&mut headers, &peer(), &way(leg));
            }
            let id = headers[REQUEST_ID].to_str().unwrap();
            assert_eq!(id.len(), 36, "{id}");
            assert_eq!(&id[14..15], "4");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
            assert!(trace_id(&headers[TRACEPARENT]).is_some());
        }
        let state = crossed(direction, leg, &[("tracestate", "a=1"), ("traceparent", TRACE)]);
        assert_eq!(state["tracestate"], "a=1");
        assert!(!crossed(direction, leg, &[("tracestate", "a=1")]).contains_key("tracestate"));
    }
}

#[test]
fn a_request_that_left_this_proxy_before_is_recognised() {
    let hop = Hop::new();
    let mut headers = HeaderMap::new();
    assert!(!hop.is_in(Fields::of(&headers)));
    outbound_request(&mut headers, &hop, Version::HTTP_11, &way(Leg::Http1));
    assert!(hop.is_in(Fields::of(&headers)));
    inbound_request(&mut headers, &peer(), &way(Leg::Http1));
    assert!(hop.is_in(Fields::of(&headers)));
    assert!(!Hop::new().is_in(Fields::of(&headers)));
}

#[test]
fn whoever_takes_trailers_is_said_to_take_them_on_each_hop() {
    for (direction, leg) in on_both_legs(REQUESTS) {
        let headers = crossed(direction, leg, &[("te", "gzip;q=1, trailers"), ("connection", "te")]);
        assert_eq!(headers["te"], "trailers");
        let said = headers.get("connection").map(HeaderValue::as_bytes);
        assert_eq!(said, (leg == Leg::Http1).then_some(&b"te"[..]), "{direction:?} on {leg:?}");
        assert!(!crossed(direction, leg, &[("te", "gzip")]).contains_key("te"));
    }
}

#[test]
fn a_keep_alive_timeout_is_found_among_other_parameters() {
    for (value, expected) in [
        ("timeout=5", Some(5)),
        ("max=100, Timeout = 7", Some(7)),
        ("max=100", None),
        ("timeout=soon", None),
        ("timeout=-1", None),
    ] {
        assert_eq!(keep_alive_timeout(Fields::of(&map(&[("keep-alive", value)]))), expected, "{value}");
    }
    assert_eq!(keep_alive_timeout(Fields::of(&HeaderMap::new())), None);
    assert!(says_close(Fields::of(&map(&[("connection", "te, Close")]))));
    assert!(!says_close(Fields::of(&map(&[("connection", "keep-alive")]))));
}

#[test]
fn a_request_has_one_name_and_one_trace_and_of_two_neither() {
    for (direction, leg) in on_both_legs(REQUESTS) {
        let headers = crossed(
            direction,
            leg,
            &[
                ("x-request-id", "one"),
                ("x-request-id", "two"),
                ("traceparent", TRACE),
                ("traceparent", TRACE),
            ],
        );
        for name in [REQUEST_ID, TRACEPARENT] {
            let values: Vec<_> = headers.get_all(&name).iter().collect();
            let made_there = direction == WorkloadToMesh && name == REQUEST_ID;
            assert_eq!(values.len(), usize::from(!made_there), "{values:?}");
            assert!(
                values.iter().all(|value| !["one", "two", TRACE].contains(&value.to_str().unwrap())),
                "{values:?}"
            );
        }
    }
}

/// What a client asks for, and whether it can be had.
fn asked(version: Version, lines: &[(&str, &str)]) -> Option<HeaderValue> {
    asked_upgrade(version, Fields::of(&map(lines)))
}

#[test]
fn an_upgrade_is_passed_on_where_it_can_be_made_and_nowhere_else() {
    let socket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket, h2c")];
    assert_eq!(asked(Version::HTTP_11, &socket).unwrap(), "WebSocket");
    for (version, lines) in [
        (Version::HTTP_10, &socket[..]),
        (Version::HTTP_2, &socket),
        (Version::HTTP_11, &[("upgrade", "websocket")]),
        (Version::HTTP_11, &[("connection", "upgrade")]),
        (Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")]),
    ] {
        assert_eq!(asked(version, lines), None, "{version:?} {lines:?}");
    }
    let way = |leg| Way { leg, upgrade: Some(HeaderValue::from_static("WebSocket")) };
    let mut headers = map(&[("te", "trailers"), socket[0], socket[1]]);
    outbound_request(&mut headers, &Hop::new(), Version::HTTP_11, &way(Leg::Http1));
    assert_eq!(headers["connection"], "te, upgrade");
    assert_eq!(headers["upgrade"], "WebSocket");
    let mut headers = map(&socket);
    inbound_request(&mut headers, &peer(), &way(Leg::Http2));
    assert!(!headers.contains_key("connection") && !headers.contains_key("upgrade"));
    // An answer may choose among what was asked for.
    let asked = HeaderValue::from_static("foo/2, WebSocket");
    for (answer, agreed) in [("websocket", true), ("foo/2", true), ("bar", false), ("websocket, bar", false)]
    {
        assert_eq!(agrees(&asked, &map(&[("upgrade", answer)])), agreed, "{answer}");
    }
    assert!(!agrees(&asked, &HeaderMap::new()));
}

#[test]
fn a_stream_has_no_connection_of_its_own_to_speak_of() {
    let mut headers = map(&[("te", "trailers, gzip"), ("connection", "te, x-one"), ("x-one", "1")]);
    outbound_request(&mut headers, &Hop::new(), Version::HTTP_2, &way(Leg::Http2));
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["outrigger-version"], "2");
    assert!(!headers.contains_key("connection") && !headers.contains_key("x-one"));
    assert!(wants_http2(Fields::of(&headers)));
}

#[test]
fn a_reason_is_believed_if_it_is_one_of_ours() {
    for (name, value, expected) in [
        ("outrigger-unprocessed", "draining", Some((Reason::Draining, true))),
        ("outrigger-reason", "upstream_reset", Some((Reason::UpstreamReset, false))),
        ("outrigger-reason", "because", None),
        ("outrigger-unprocessed", "", None),
    ] {
        assert_eq!(peer_reason(Fields::of(&map(&[(name, value)]))), expected, "{name}: {value}");
    }
}

#[test]
fn a_cookie_in_pieces_becomes_one_field() {
    let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
    join_cookies(&mut headers);
    let values: Vec<_> = headers.get_all("cookie").iter().collect();
    assert_eq!(values, ["a=1; b=2; c=3"]);
}
