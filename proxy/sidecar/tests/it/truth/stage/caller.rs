//! Clients, with one request under way at a time.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};

use super::{App, length};
use crate::{
    support::raw::{Raw, soon},
    truth::measure::Delay,
};

/// What a client of HTTP/2 takes of an answer without saying so, bytes.
pub(in crate::truth) const WINDOW: usize = 65_535;

/// Its connection, by what it is used for; see [`By`](super::By).
pub(super) enum Way {
    Shared(Raw),
    Own(Raw),
    Http2(SendRequest<Bytes>),
}

/// See the module.
pub(in crate::truth) struct Caller {
    pub(super) way: Way,
    pub(super) app: Arc<App>,
}

impl Caller {
    /// Makes the request that is called `id`, to its last byte; returns the status of its answer.
    pub(in crate::truth) async fn call(&mut self, id: &str) -> u16 {
        self.call_host("price", id).await
    }

    /// The same, to somebody else. After the host there may be further headers; HTTP/1 only.
    pub(in crate::truth) async fn call_host(&mut self, host: &str, id: &str) -> u16 {
        match &mut self.way {
            Way::Shared(raw) => {
                raw.send(head("GET", host, id) + "\r\n").await;
                answer(raw, &self.app).await
            }
            Way::Own(raw) => {
                raw.send(chunked("PUT", host, id) + "2\r\nab\r\n0\r\n\r\n").await;
                answer(raw, &self.app).await
            }
            Way::Http2(sender) => {
                let mut sender = soon("a stream", sender.clone().ready()).await.unwrap();
                let (response, _) = sender.send_request(request(Method::GET, host, id), true).unwrap();
                stream_answer(response, &self.app).await
            }
        }
    }

    /// One that is not sent again once anything of it was: with a body, in the middle of which it may stop.
    pub(in crate::truth) async fn upload(&mut self, id: &str) -> u16 {
        let app = &self.app;
        match &mut self.way {
            Way::Shared(raw) => {
                let begin = head("POST", "price", id) + "content-length: 2\r\n\r\na";
                send_slowly(raw, begin, "b", app).await;
                answer(raw, app).await
            }
            Way::Own(raw) => {
                let begin = chunked("POST", "price", id) + "1\r\na\r\n";
                send_slowly(raw, begin, "1\r\nb\r\n0\r\n\r\n", app).await;
                answer(raw, app).await
            }
            Way::Http2(sender) => {
                let mut sender = soon("a stream", sender.clone().ready()).await.unwrap();
                let mut asked = app.asked.subscribe();
                let request = request(Method::POST, "price", id);
                let (response, mut body) = sender.send_request(request, false).unwrap();
                body.send_data(Bytes::from_static(b"a"), false).unwrap();
                asked.changed().await.unwrap();
                app.uploading.spend().await;
                body.send_data(Bytes::from_static(b"b"), true).unwrap();
                stream_answer(response, app).await
            }
        }
    }

    /// A window's worth of the answer is read, the rest after `pause`; HTTP/2 only.
    pub(in crate::truth) async fn read_slowly(&mut self, id: &str, pause: &Delay) {
        let Way::Http2(sender) = &mut self.way else {
            panic!("streams have windows");
        };
        let mut sender = soon("a stream", sender.clone().ready()).await.unwrap();
        let (response, _) = sender.send_request(request(Method::GET, "price", id), true).unwrap();
        let mut body = soon("an answer", response).await.unwrap().into_body();
        self.app.is_heard();
        let mut unreleased = 0;
        while unreleased < WINDOW {
            unreleased += soon("a body", body.data()).await.unwrap().unwrap().len();
        }
        pause.spend().await;
        body.flow_control().release_capacity(unreleased).unwrap();
        while let Some(data) = soon("a body", body.data()).await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
    }
}

async fn send_slowly(raw: &mut Raw, begin: String, end: &str, app: &App) {
    if app.uploading.is_set() {
        let mut asked = app.asked.subscribe();
        raw.send(begin).await;
        asked.changed().await.unwrap();
        app.uploading.spend().await;
        raw.send(end).await;
    } else {
        // As one, so that no part of it is on its way alone.
        raw.send(begin + end).await;
    }
}

/// Without the empty line.
pub(in crate::truth) fn head(method: &str, host: &str, id: &str) -> String {
    format!("{method} / HTTP/1.1\r\nhost: {host}\r\nx-request-id: {id}\r\n")
}

fn chunked(method: &str, host: &str, id: &str) -> String {
    head(method, host, id) + "transfer-encoding: chunked\r\n\r\n"
}

fn request(method: Method, host: &str, id: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("http://{host}/"));
    request.header("x-request-id", id).body(()).unwrap()
}

async fn answer(raw: &mut Raw, app: &App) -> u16 {
    let head = raw.head().await;
    app.is_heard();
    raw.exactly(length(&head)).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn stream_answer(response: ResponseFuture, app: &App) -> u16 {
    let (head, mut body) = soon("an answer", response).await.unwrap().into_parts();
    app.is_heard();
    while let Some(data) = soon("a body", body.data()).await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    head.status.as_u16()
}
