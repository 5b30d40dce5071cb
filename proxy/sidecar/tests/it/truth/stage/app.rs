//! The application.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use super::length;
use crate::{
    support::{header, raw::Raw},
    truth::measure::Delay,
};

/// See the module.
#[derive(Default)]
pub(in crate::truth) struct App {
    /// Between a request's last byte and the answer's head.
    pub(in crate::truth) answering: Delay,
    /// In the middle of the answer's body, once the caller has its head.
    pub(in crate::truth) streaming: Delay,
    /// In the middle of the request's body, once the application has its head.
    pub(in crate::truth) uploading: Delay,
    /// Requests whose head was read here, and answers whose head was read by the caller.
    pub(in crate::truth) asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
    /// Says `103` first.
    pub(in crate::truth) hints: AtomicBool,
    /// Answers the next request 503, after `refusing`.
    pub(in crate::truth) refuses: AtomicBool,
    pub(in crate::truth) refusing: Delay,
    /// Answers before it has read the request's body, and closes.
    pub(in crate::truth) early: AtomicBool,
    /// Closes instead of answering.
    pub(in crate::truth) closes: AtomicBool,
    /// Says so instead of answering the next request.
    pub(in crate::truth) silent: AtomicBool,
    pub(in crate::truth) silenced: Notify,
    /// Answers with so many bytes, if not 0.
    pub(in crate::truth) large: AtomicUsize,
    arrivals: Mutex<Vec<Instant>>,
}

impl App {
    /// When the heads of the requests came, since it was asked last.
    pub(in crate::truth) fn arrivals(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.arrivals.lock())
    }

    /// The caller has read the head of an answer.
    pub(in crate::truth) fn is_heard(&self) {
        self.answered.send_modify(|answered| *answered += 1);
    }

    pub(in crate::truth) async fn listen(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&self).serve(Raw::new(stream)));
        }
    }

    async fn serve(self: Arc<Self>, mut raw: Raw) {
        while !raw.is_over().await {
            let head = raw.head().await;
            self.arrivals.lock().push(Instant::now());
            self.asked.send_modify(|asked| *asked += 1);
            if self.early.load(Ordering::Relaxed) {
                self.answering.spend().await;
                raw.send("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                    .await;
                return;
            }
            match header(&head, "transfer-encoding") {
                Some(_) => drop(raw.until("0\r\n\r\n").await),
                None => drop(raw.exactly(length(&head)).await),
            }
            if self.refuses.swap(false, Ordering::Relaxed) {
                self.refusing.spend().await;
                raw.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
                continue;
            }
            if self.hints.load(Ordering::Relaxed) {
                raw.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
            }
            self.answering.spend().await;
            if self.closes.load(Ordering::Relaxed) {
                return;
            }
            if self.silent.swap(false, Ordering::Relaxed) {
                self.silenced.notify_one();
                let _closed = raw.is_over().await;
                return;
            }
            let large = self.large.load(Ordering::Relaxed);
            if large > 0 {
                // The head is not to stand in line with all of the body.
                let mut answered = self.answered.subscribe();
                raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {large}\r\n\r\n")).await;
                answered.changed().await.unwrap();
                raw.send(vec![b'x'; large]).await;
            } else if self.streaming.is_set() {
                let mut answered = self.answered.subscribe();
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
                answered.changed().await.unwrap();
                self.streaming.spend().await;
                raw.send("k").await;
            } else {
                // In one piece all the way: of two, the second one may have to wait for the machine.
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    }
}
