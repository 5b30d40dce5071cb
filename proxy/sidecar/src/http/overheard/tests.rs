//! What costs nothing, and what is heard.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

use super::*;

/// Counts what is said at the places that are switched on.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU32>);

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn on_this_thread() -> (Dispatch, Count) {
    let count = Count::default();
    let filter = FilterFn::new(speaks_of_refusals).with_max_level_hint(LevelFilter::DEBUG);
    let subscriber = Registry::default().with(count.clone().with_filter(filter)).with(listening());
    (Dispatch::new(subscriber), count)
}

async fn serve(io: DuplexStream) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let Ok((request, mut respond)) = accepted else {
            return;
        };
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data.unwrap().len()).unwrap();
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(&[0; 1000]), false).unwrap();
            stream.send_trailers(http::HeaderMap::new()).unwrap();
        });
    }
}

#[tokio::test]
async fn frames_that_are_in_order_pass_no_place_that_is_switched_on() {
    let (dispatch, count) = on_this_thread();
    let _default = dispatcher::set_default(&dispatch);
    let (client, server) = duplex(64 * 1024);
    let server = tokio::spawn(serve(server));
    let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut before = None;
    for _ in 0..100 {
        sender = sender.ready().await.unwrap();
        let request = Request::post("http://price/").body(()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(&[0; 1000]), false).unwrap();
        body.send_data(Bytes::from_static(&[0; 1000]), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        body.trailers().await.unwrap();
        let said = count.0.load(Ordering::Relaxed);
        assert_eq!(*before.get_or_insert(said), said, "said of a request");
    }
    // A connection says a little of its beginning.
    assert!(before.is_some_and(|said| said < 10), "{before:?}");
    drop(sender);
    connection.await.unwrap().unwrap();
    server.await.unwrap();
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// What is heard of a connection that brings `frames`.
async fn heard(frames: &[Vec<u8>]) -> Vec<(Refusal, u32, String)> {
    let (dispatch, _) = on_this_thread();
    let _default = dispatcher::set_default(&dispatch);
    let (mut client, server) = duplex(64 * 1024);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(4, 0, 0, b"")).await.unwrap();
    client.write_all(&frames.concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let tell = |overheard: &Overheard| {
        heard.push((overheard.refusal, overheard.times, overheard.words.clone()));
    };
    let (_, answer) = tokio::join!(overhear(serve(server), tell), async {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.map(|_| answer)
    });
    assert!(!answer.unwrap().is_empty());
    heard
}

#[tokio::test]
async fn streams_that_are_reset_in_one_poll_are_told_of_together() {
    // No :method, by the index of `:path: /`.
    let heads: Vec<_> = [1, 3, 5].map(|stream| frame(1, 5, stream, b"\x84")).into();
    let refusal = Refusal { ended: Ended::Stream, fault: Fault::MalformedHead };
    assert_eq!(heard(&heads).await, [(refusal, 3, "malformed headers: missing method".to_owned())]);
}

#[tokio::test]
async fn a_connection_that_is_ended_is_told_of_once_with_its_cause() {
    let refusal = Refusal { ended: Ended::Connection, fault: Fault::MalformedFrame };
    let ping = heard(&[frame(6, 0, 0, b"short")]).await;
    assert_eq!(ping, [(refusal, 1, "failed to load PING frame".to_owned())]);
    // The parser says no cause of this one.
    let refusal = Refusal { ended: Ended::Connection, fault: Fault::FlowControl };
    let window = heard(&[frame(8, 0, 0, b"\x7f\xff\xff\xff")]).await;
    assert_eq!(window, [(refusal, 1, "no cause given".to_owned())]);
}

#[tokio::test]
async fn what_is_said_before_a_panic_is_not_said_of_the_next_connection() {
    let (dispatch, _) = on_this_thread();
    let _default = dispatcher::set_default(&dispatch);
    let say = || tracing::debug!(target: "h2::server", "malformed headers: missing method");
    let first = tokio::spawn(overhear(
        async move {
            say();
            panic!("in the middle of a poll");
        },
        |_| {},
    ));
    assert!(first.await.unwrap_err().is_panic());
    assert_eq!(EAR.get(), Ear::Shut);
    say();
    let mut times = Vec::new();
    overhear(async { say() }, |overheard| times.push(overheard.times)).await;
    assert_eq!(times, [1]);
}

#[tokio::test]
async fn a_connection_that_the_peer_leaves_is_told_of_as_nothing() {
    for code in [0, 1, 11, 0xff] {
        let goaway = frame(7, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, code]);
        assert_eq!(heard(std::slice::from_ref(&goaway)).await, [], "{code}");
        // What is wrong after it is wrong all the same.
        let refusal = Refusal { ended: Ended::Connection, fault: Fault::MalformedFrame };
        let ping = heard(&[goaway, frame(6, 0, 0, b"short")]).await;
        assert_eq!(ping, [(refusal, 1, "failed to load PING frame".to_owned())], "{code}");
    }
}

#[test]
fn what_is_said_of_no_connection_of_ours_is_nobody_s() {
    let (dispatch, count) = on_this_thread();
    dispatcher::with_default(
        &dispatch,
        || tracing::debug!(target: "h2::server", "malformed headers: missing method"),
    );
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(EAR.get(), Ear::Shut);
}

#[test]
fn no_more_than_the_beginning_of_a_message_is_kept() {
    let mut words = Words::default();
    assert!(write!(words, "{}", "é".repeat(MOST)).is_err());
    assert_eq!(words.0, "é".repeat(MOST / 2));
    let mut words = Words::default();
    assert!(write!(words, "{}", "x".repeat(MOST)).is_ok());
    assert_eq!(words.0.len(), MOST);
}

#[test]
fn the_end_of_an_error_is_kept_whatever_comes_before_it() {
    let mut sentence = Sentence::default();
    let data = Bytes::from(vec![0xe9; 64 * 1024]);
    write!(sentence.error, "GoAway({data:?}, NO_ERROR, Library)").unwrap();
    assert_eq!(sentence.error.0.len(), MOST);
    assert!(sentence.error.0.ends_with("\\xe9\", NO_ERROR, Library)"), "{}", sentence.error.0);
    let mut end = Tail::default();
    write!(end, "{}x", "é".repeat(MOST)).unwrap();
    assert_eq!(end.0, format!("{}x", "é".repeat(MOST / 2 - 1)));
}
