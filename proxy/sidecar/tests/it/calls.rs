//! gRPC over the mesh: calls of each kind, how they end, and who is told.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use outrigger_core::model::{Resilience, Timeouts};
use outrigger_proxy::settings::InboundProtocol;

use crate::support::{
    Options, Pair, log,
    raw::soon,
    streams::{App, Call, Sent, piece, post, whole},
};

const STATUS: &str = "grpc-status";

async fn pair() -> Pair {
    Pair::with(&Options { protocol: InboundProtocol::Grpc, ..Options::default() }).await
}

/// A call, named in the logs.
fn call(id: &'static str) -> Request<()> {
    let mut request = post("/shop.Price/Quote");
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers"), ("x-request-id", id)] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    request
}

/// A message with its prefix (`PROTOCOL-HTTP2.md`, "Length-Prefixed-Message").
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(STATUS), HeaderValue::from_static(code))])
}

/// The head of a response, with its body to come.
fn begin(call: &mut Call) -> SendStream<Bytes> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    call.respond.send_response(head, false).unwrap()
}

async fn response(sent: Sent) -> (Response<()>, RecvStream) {
    let (head, body) = soon("a response", sent.response).await.unwrap().into_parts();
    (Response::from_parts(head, ()), body)
}

async fn logged(direction: &str, id: &str) -> log::Line {
    log::line(&[("direction", direction), ("request_id", id)]).await
}

#[tokio::test]
async fn a_unary_call_crosses_with_its_trailers_and_is_no_stream() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut sent = client.send(call("unary"), false).await;
    sent.body.send_data(message("how much?"), true).unwrap();
    let mut app = App::accept(&pair.app).await;
    let mut called = app.call().await;
    assert_eq!(called.request.headers()["te"], "trailers");
    assert_eq!(piece(called.request.body_mut()).await.unwrap().unwrap(), message("how much?"));
    assert!(piece(called.request.body_mut()).await.is_none());
    let mut body = begin(&mut called);
    body.send_data(message("that much"), false).unwrap();
    body.send_trailers(status("0")).unwrap();
    let (head, body) = response(sent).await;
    assert_eq!(head.headers()["content-type"], "application/grpc");
    let (body, trailers) = whole(body).await.unwrap();
    assert_eq!(
        (body, &trailers.unwrap()[STATUS]),
        (message("that much").to_vec(), &HeaderValue::from_static("0"))
    );
    for direction in ["inbound", "outbound"] {
        let line = logged(direction, "unary").await;
        assert_eq!((line["grpc_status"].as_str(), line.get("class"), line.get("reason")), ("0", None, None));
    }
}

#[tokio::test]
async fn streams_of_each_kind_cross_message_by_message() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    // Both directions at once: each answer depends on what was asked before it.
    let mut sent = client.send(call("both"), false).await;
    let mut app = App::accept(&pair.app).await;
    let mut called = app.call().await;
    let mut answers = begin(&mut called);
    let (_, mut received) = soon("a response", &mut sent.response).await.unwrap().into_parts();
    for number in 0..10 {
        let question = message(&format!("question {number}"));
        sent.body.send_data(question.clone(), false).unwrap();
        assert_eq!(piece(called.request.body_mut()).await.unwrap().unwrap(), question);
        let answer = message(&format!("answer {number}"));
        answers.send_data(answer.clone(), false).unwrap();
        assert_eq!(piece(&mut received).await.unwrap().unwrap(), answer);
    }
    sent.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(whole(called.request.into_body()).await.unwrap().0, b"");
    answers.send_trailers(status("0")).unwrap();
    assert_eq!(whole(received).await.unwrap().1.unwrap()[STATUS], "0");
    assert_eq!(logged("outbound", "both").await["class"], "stream");

    // Only the client streams, and only the server does.
    let mut sent = client.send(call("client-stream"), false).await;
    let mut called = app.call().await;
    for _ in 0..3 {
        sent.body.send_data(message("more"), false).unwrap();
        assert_eq!(piece(called.request.body_mut()).await.unwrap().unwrap(), message("more"));
    }
    sent.body.send_data(Bytes::new(), true).unwrap();
    let mut body = begin(&mut called);
    body.send_data(message("enough"), false).unwrap();
    body.send_trailers(status("0")).unwrap();
    let (_, received) = response(sent).await;
    assert_eq!(whole(received).await.unwrap().0, message("enough"));
    assert_eq!(logged("outbound", "client-stream").await["class"], "stream");

    let mut sent = client.send(call("server-stream"), false).await;
    sent.body.send_data(message("all"), true).unwrap();
    let mut called = app.call().await;
    let mut body = begin(&mut called);
    let (_, mut received) = response(sent).await;
    for _ in 0..3 {
        body.send_data(message("one"), false).unwrap();
        assert_eq!(piece(&mut received).await.unwrap().unwrap(), message("one"));
    }
    body.send_trailers(status("0")).unwrap();
    assert_eq!(whole(received).await.unwrap().1.unwrap()[STATUS], "0");
    assert_eq!(logged("outbound", "server-stream").await["class"], "stream");
}

#[tokio::test]
async fn an_answer_that_is_only_trailers_is_one_head() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let sent = client.send(call("trailers-only"), true).await;
    let mut app = App::accept(&pair.app).await;
    let head = Response::builder().header("content-type", "application/grpc").header(STATUS, "5");
    app.call().await.respond.send_response(head.body(()).unwrap(), true).unwrap();
    let (head, body) = response(sent).await;
    assert_eq!(head.headers()[STATUS], "5");
    assert!(body.is_end_stream());
    assert_eq!(logged("outbound", "trailers-only").await["grpc_status"], "5");
}

#[tokio::test]
async fn a_call_that_ends_without_a_status_is_delivered_and_told() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let sent = client.send(call("no-status"), true).await;
    let mut app = App::accept(&pair.app).await;
    let mut called = app.call().await;
    begin(&mut called).send_data(message("that much"), true).unwrap();
    let (_, body) = response(sent).await;
    assert_eq!(whole(body).await.unwrap().0, message("that much"));
    assert_eq!(logged("outbound", "no-status").await["reason"], "grpc_status_missing");
}

#[tokio::test]
async fn a_deadline_shrinks_on_its_way_and_ends_in_deadline_exceeded() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut request = call("deadline");
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("700m"));
    let sent = client.send(request, true).await;
    let mut app = App::accept(&pair.app).await;
    let mut called = app.call().await;
    let left = called.request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
    let micros: u64 = left.strip_suffix('u').unwrap_or_else(|| panic!("{left}")).parse().unwrap();
    assert!((1..700_000).contains(&micros), "{left}");
    let (head, body) = response(sent).await;
    assert_eq!((head.status().as_u16(), &head.headers()[STATUS]), (200, &HeaderValue::from_static("4")));
    assert!(body.is_end_stream());
    assert_eq!(logged("outbound", "deadline").await["reason"], "deadline_exceeded");
    // The application hears of it.
    let over = std::future::poll_fn(|cx| called.respond.poll_reset(cx));
    assert_eq!(soon("the end at the application", over).await.unwrap(), Code::CANCEL);

    // A malformed one is what gRPC calls internal.
    let mut request = call("malformed-deadline");
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("soon"));
    let (head, _) = response(client.send(request, true).await).await;
    assert_eq!(head.headers()[STATUS], "13");
}

#[tokio::test]
async fn a_configured_timeout_ends_a_call_in_deadline_exceeded_too() {
    let pair = pair().await;
    let timeouts = Timeouts { request: Some(Duration::from_millis(200)), ..Timeouts::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { timeouts, ..Resilience::default() });
    let mut client = pair.streams().await;
    let sent = client.send(call("configured"), true).await;
    let mut app = App::accept(&pair.app).await;
    let called = app.call().await;
    assert!(called.request.headers().contains_key("grpc-timeout"));
    let (head, _) = response(sent).await;
    assert_eq!(head.headers()[STATUS], "4");
    assert_eq!(logged("outbound", "configured").await["reason"], "request_timeout");
}

#[tokio::test]
async fn a_call_that_its_client_cancels_is_cancelled_at_the_application() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut app = None;
    // Before the answer, in the middle of the question, and in the middle of the answer.
    for (asked, answered) in [(true, false), (false, false), (true, true)] {
        let mut sent = client.send(call("cancelled"), false).await;
        sent.body.send_data(message("how much?"), asked).unwrap();
        let app = match &mut app {
            Some(app) => app,
            None => app.insert(App::accept(&pair.app).await),
        };
        let mut called = app.call().await;
        assert!(piece(called.request.body_mut()).await.unwrap().is_ok());
        let mut body = answered.then(|| begin(&mut called));
        if let Some(body) = &mut body {
            body.send_data(message("that"), false).unwrap();
            let (_, mut stream) = soon("a response", &mut sent.response).await.unwrap().into_parts();
            assert!(piece(&mut stream).await.unwrap().is_ok());
        }
        sent.body.send_reset(Code::CANCEL);
        let over = std::future::poll_fn(|cx| match &mut body {
            Some(body) => body.poll_reset(cx),
            None => called.respond.poll_reset(cx),
        });
        assert_eq!(
            soon("the end at the application", over).await.unwrap(),
            Code::CANCEL,
            "{asked} {answered}"
        );
    }
    assert_eq!(logged("outbound", "cancelled").await["reason"], "client_closed");
}

#[tokio::test]
async fn answers_of_the_proxys_own_are_in_the_form_of_grpc() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let own = async |client: &mut crate::support::streams::Client, request| {
        let (head, body) = response(client.send(request, true).await).await;
        assert_eq!(
            (head.status().as_u16(), head.headers()["content-type"].as_bytes()),
            (200, &b"application/grpc"[..])
        );
        assert!(body.is_end_stream());
        head.headers()[STATUS].to_str().unwrap().to_owned()
    };
    let to = |uri: &str| {
        let mut request = call("own");
        *request.uri_mut() = uri.parse().unwrap();
        request
    };
    assert_eq!(own(&mut client, to("http://nobody/shop.Price/Quote")).await, "14");
    assert_eq!(own(&mut client, to("http://example.org/shop.Price/Quote")).await, "7");
    // The other sidecar's, when its application is not there.
    let Pair { app, front: _front, price: _price, .. } = pair;
    drop(app);
    assert_eq!(own(&mut client, to("http://price/shop.Price/Quote")).await, "14");
}

#[tokio::test]
async fn a_status_that_the_application_resets_its_stream_with_reaches_the_client() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let sent = client.send(call("reset-stream"), true).await;
    let mut app = App::accept(&pair.app).await;
    let mut called = app.call().await;
    let mut body = begin(&mut called);
    body.send_data(message("that"), false).unwrap();
    let (_, mut received) = response(sent).await;
    assert!(piece(&mut received).await.unwrap().is_ok());
    body.send_reset(Code::ENHANCE_YOUR_CALM);
    let error = piece(&mut received).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Code::ENHANCE_YOUR_CALM));
    assert_eq!(logged("outbound", "reset-stream").await["reason"], "stream_reset");
}
