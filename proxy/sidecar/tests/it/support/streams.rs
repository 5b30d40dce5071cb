//! HTTP/2 peers: well-formed ones, and frames written by hand.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use super::{
    log,
    raw::{Raw, Server, soon},
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113 §6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// A client that keeps to the rules.
pub(crate) struct Client {
    pub(crate) sender: client::SendRequest<Bytes>,
    pub(crate) address: SocketAddr,
    driver: AbortOnDropHandle<Result<(), h2::Error>>,
}

/// A request that was sent.
pub(crate) struct Sent {
    pub(crate) response: client::ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &client::Builder::new()).await
    }

    pub(crate) async fn with(address: SocketAddr, builder: &client::Builder) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let address = stream.local_addr().unwrap();
        log::forget(address);
        let (sender, connection) = soon("a handshake", builder.handshake(stream)).await.unwrap();
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        Self { sender, address, driver }
    }

    /// Sends a head; its body follows, unless it is the `end`.
    pub(crate) async fn send(&mut self, request: Request<()>, end: bool) -> Sent {
        let mut ready = soon("room for a stream", self.sender.clone().ready()).await.unwrap();
        let (response, body) = ready.send_request(request, end).unwrap();
        Sent { response, body }
    }

    /// Says that it leaves, and waits for the end.
    pub(crate) async fn leave(self) {
        drop(self.sender);
        soon("the end of a connection", self.driver).await.unwrap().unwrap();
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

impl Sent {
    /// The whole response.
    pub(crate) async fn answer(self) -> Result<Answer, h2::Error> {
        let Self { response, body: _body } = self;
        let (head, stream) = soon("a response", response).await?.into_parts();
        let (body, _trailers) = whole(stream).await?;
        Ok(Answer { head: Response::from_parts(head, ()), body })
    }
}

/// A request for `http://price{path}`.
pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://price{path}")).body(()).unwrap()
}

pub(crate) fn post(path: &str) -> Request<()> {
    Request::post(format!("http://price{path}")).body(()).unwrap()
}

/// The next piece of a body, with room made for as much again.
pub(crate) async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = soon("a piece of a body", body.data()).await;
    if let Some(Ok(data)) = &piece {
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    piece
}

pub(crate) async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = piece(&mut body).await {
        all.extend_from_slice(&data?);
    }
    let trailers = soon("trailers", body.trailers()).await?;
    Ok((all, trailers))
}

/// A connection to an application that speaks HTTP/2 and keeps to the rules.
pub(crate) struct App {
    calls: mpsc::Receiver<Call>,
    pub(crate) driver: JoinHandle<Result<(), h2::Error>>,
}

/// A request at the application.
pub(crate) struct Call {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: server::SendResponse<Bytes>,
}

impl App {
    pub(crate) async fn accept(server: &Server) -> Self {
        Self::with(server, &server::Builder::new()).await
    }

    pub(crate) async fn with(server: &Server, builder: &server::Builder) -> Self {
        let stream = server.accept_stream().await;
        let mut connection = soon("a handshake", builder.handshake(stream)).await.unwrap();
        let (sender, calls) = mpsc::channel(4096);
        let driver = tokio::spawn(async move {
            while let Some(accepted) = connection.accept().await {
                let (request, respond) = accepted?;
                let _over = sender.send(Call { request, respond }).await;
            }
            Ok(())
        });
        Self { calls, driver }
    }

    pub(crate) async fn call(&mut self) -> Call {
        soon("a request at the application", self.calls.recv()).await.unwrap()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Call {
    pub(crate) fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Answers with a head; a body follows, unless it is the `end`.
    pub(crate) fn answer(&mut self, status: u16, end: bool) -> SendStream<Bytes> {
        self.respond.send_response(Response::builder().status(status).body(()).unwrap(), end).unwrap()
    }

    /// Answers 200 with `text`.
    pub(crate) fn ok(mut self, text: &'static str) {
        self.answer(200, false).send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
    }
}

/// A peer that sends whatever frames a test says.
pub(crate) struct Frames {
    raw: Raw,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or a GOAWAY.
    pub(crate) fn code(&self) -> h2::Reason {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()).into()
    }

    /// The status of a response's HEADERS, which is the first field of it.
    pub(crate) fn status(&self) -> u16 {
        // Where the table was resized it says so first.
        let fields = self.payload.strip_prefix(b"\x20").unwrap_or(&self.payload);
        match fields[0] {
            0x88 => 200,
            0x89 => 204,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            0x08 | 0x18 | 0x48 => status(&fields[1..]),
            other => panic!("no status: {other:#x}"),
        }
    }
}

/// Three digits, plain or in HPACK's Huffman code (RFC 7541 §5.2, appendix B).
fn status(literal: &[u8]) -> u16 {
    let text = &literal[1..=usize::from(literal[0] & 0x7f)];
    if literal[0] & 0x80 == 0 {
        return str::from_utf8(text).unwrap().parse().unwrap();
    }
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |number, bit| number * 2 + bit);
    (0..3).fold(0, |number, _| {
        let short = take(5);
        let digit = if short < 3 { short } else { (short * 2 + take(1)) - 0b011_001 + 3 };
        number * 10 + digit
    })
}

impl Frames {
    pub(crate) fn new(raw: Raw) -> Self {
        Self { raw }
    }

    /// A client that has said its preface and its settings: default ones, except that fields are not to be remembered.
    pub(crate) async fn client(address: SocketAddr) -> Self {
        let mut frames = Self::new(Raw::connect(address).await);
        frames.raw.send(PREFACE).await;
        frames.send(SETTINGS, 0, 0, b"\0\x01\0\0\0\0").await;
        frames
    }

    /// A server to which a client has said its preface; says default settings.
    pub(crate) async fn server(raw: Raw) -> Self {
        let mut frames = Self::server_without_settings(raw).await;
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    pub(crate) async fn server_without_settings(mut raw: Raw) -> Self {
        assert_eq!(raw.exactly(PREFACE.len()).await, PREFACE);
        Self::new(raw)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.raw.address()
    }

    /// The connection below.
    pub(crate) fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) {
        self.raw.send(frame(kind, flags, stream, payload.as_ref())).await;
    }

    /// One HEADERS frame with all of `fields`.
    pub(crate) async fn headers(&mut self, flags: u8, stream: u32, fields: &[(&str, &str)]) {
        self.send(HEADERS, flags | END_HEADERS, stream, block(fields)).await;
    }

    /// A whole request without a body.
    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        self.headers(END_STREAM, stream, &request("GET", path)).await;
    }

    /// The next frame that is no SETTINGS, PING or WINDOW_UPDATE; `None` when the connection is over, in whatever way.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next_of_any_kind().await?;
            if ![SETTINGS, PING, WINDOW_UPDATE].contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    pub(crate) async fn next_of_any_kind(&mut self) -> Option<Frame> {
        let head = self.raw.try_exactly(9).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & !(1 << 31);
        let payload = self.raw.try_exactly(length).await?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind; panics if there is none.
    pub(crate) async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next_of_any_kind().await.unwrap();
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The first frame of this kind, if it has arrived already; what arrived before it is forgotten.
    pub(crate) async fn waiting(&mut self, kind: u8) -> Option<Frame> {
        tokio::task::yield_now().await;
        loop {
            let arrived = self.raw.arrived();
            let length = arrived.get(..3)?;
            let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
            if arrived.len() < 9 + length {
                return None;
            }
            let frame = self.next_of_any_kind().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads to the end; the code of the GOAWAY, if there was one.
    pub(crate) async fn goaway(&mut self) -> Option<h2::Reason> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", method), (":scheme", "http"), (":authority", "price"), (":path", path)]
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Literal fields that are not indexed, as they are.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            integer(text.len(), &mut block);
            block.extend(text);
        }
    }
    block
}

/// With a prefix of seven bits (RFC 7541 §5.1).
fn integer(number: usize, to: &mut Vec<u8>) {
    if number < 127 {
        to.push(u8::try_from(number).unwrap());
        return;
    }
    to.push(127);
    let mut rest = number - 127;
    while rest >= 128 {
        to.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    to.push(u8::try_from(rest).unwrap());
}
