//! More work than can be done, here: the applications' limits, which all workers share, and each worker's own line. What
//! decides is `core::overload`; here it is told what happens.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use outrigger_core::{
    overload::{Admission, Concurrency, Ended, Pressure},
    reason::Reason,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    settings::{self, Limiting},
    telemetry::Telemetry,
};

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// Its caller is not to send it here again.
    pub(crate) lasting: bool,
}

/// The limits on the applications, by where they listen.
#[derive(Debug, Default)]
pub(crate) struct Applications(Vec<(SocketAddr, Arc<Concurrency>)>);

impl Applications {
    /// One for each application that requests are told apart for; none if there are to be none.
    pub(crate) fn new(inbound: &[settings::Inbound], limiting: Limiting, telemetry: &Telemetry) -> Self {
        let mut limits: Vec<(SocketAddr, Arc<Concurrency>)> = Vec::new();
        let enforced = match limiting {
            Limiting::Off => return Self(limits),
            Limiting::Shadow => false,
            Limiting::On => true,
        };
        let now = Instant::now().into_std();
        for pair in inbound.iter().filter(|pair| pair.protocol != settings::InboundProtocol::Tcp) {
            // Several pairs may lead to one.
            if limits.iter().all(|(address, _)| *address != pair.app) {
                let concurrency = Arc::new(Concurrency::new(now, enforced));
                telemetry.loads().add_application(pair.app, &concurrency);
                limits.push((pair.app, concurrency));
            }
        }
        Self(limits)
    }

    /// The limit on the application at `address`.
    pub(crate) fn of(&self, address: SocketAddr) -> Option<Arc<Concurrency>> {
        self.0.iter().find(|(known, _)| *known == address).map(|(_, concurrency)| Arc::clone(concurrency))
    }
}

/// A request's place at the application, until the head of its answer. Dropped before, it says nothing.
#[derive(Debug)]
pub(crate) struct Place {
    concurrency: Arc<Concurrency>,
    taken: std::time::Instant,
    told: bool,
}

impl Place {
    /// Takes one at `now`, for a request that may be refused or must not be.
    pub(crate) fn take(
        concurrency: &Arc<Concurrency>,
        now: std::time::Instant,
        refusable: bool,
        telemetry: &Telemetry,
    ) -> Result<Self, Refused> {
        if !refusable {
            concurrency.enter();
        } else {
            match concurrency.admit(now) {
                Admission::Admitted => {}
                Admission::Tolerated => {
                    telemetry.metrics().tolerated.inc();
                }
                Admission::Refused { lasting } => {
                    return Err(Refused { reason: Reason::Overloaded, lasting });
                }
            }
        }
        Ok(Self { concurrency: Arc::clone(concurrency), taken: now, told: false })
    }

    /// The head of an answer came at `now`, so long after the application had the whole request, with the wait for a connection to it. An
    /// answer that refuses, or tells of a failure, is none: it may come the quicker the more there is to do.
    pub(crate) fn answered(self, status: StatusCode, now: std::time::Instant, took: Duration) {
        let failed = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        self.end(now, if failed { Ended::GivenUp(took) } else { Ended::Answered(took) });
    }

    /// Nobody waits any longer, at `now`, so long after the application had the whole request, likewise. If it never had, it was not
    /// it that was waited for: a client may take its time with a body, and leave in the middle of it.
    pub(crate) fn given_up(self, now: std::time::Instant, took: Option<Duration>) {
        if let Some(took) = took {
            self.end(now, Ended::GivenUp(took));
        }
    }

    /// At `now`, the application had no connection for it, for so long.
    pub(crate) fn not_taken(self, now: std::time::Instant, waited: Duration) {
        self.end(now, Ended::NotTaken(waited));
    }

    fn end(mut self, now: std::time::Instant, ended: Ended) {
        self.told = true;
        self.concurrency.end(now, ended);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.told {
            // The moment is not looked at then.
            self.concurrency.end(self.taken, Ended::Untold);
        }
    }
}

/// What is ready to run on one worker, and how long it waits for its turn.
#[derive(Debug)]
pub(crate) struct Line {
    pressure: Arc<Pressure>,
    probe: Notify,
}

impl Line {
    /// Of the worker that this runs on, until it ends; `None` if delays are not bounded.
    pub(crate) fn start(bound: Duration, telemetry: &Telemetry) -> Option<Arc<Self>> {
        if bound.is_zero() {
            return None;
        }
        let pressure = Arc::new(Pressure::new(Instant::now().into_std(), bound));
        telemetry.loads().add_worker(&pressure);
        let line = Arc::new(Self { pressure, probe: Notify::new() });
        let probed = Arc::clone(&line);
        // A task like those of requests: it stands in line with them.
        tokio::spawn(async move {
            loop {
                probed.probe.notified().await;
                probed.pressure.observe(Instant::now().into_std());
            }
        });
        Some(line)
    }

    /// Whether a new request may be taken at `now`.
    pub(crate) fn admit(&self, now: std::time::Instant) -> Result<(), Refused> {
        if self.pressure.probe(now) {
            self.probe.notify_one();
        }
        match self.pressure.admit(now, rand::random) {
            Admission::Admitted | Admission::Tolerated => Ok(()),
            Admission::Refused { lasting } => Err(Refused { reason: Reason::ProxyOverloaded, lasting }),
        }
    }
}
