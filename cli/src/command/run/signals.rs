//! The signals that reach `run`: which of them ask it to stop, and which are the command's own.

use futures_util::future::select_all;
use rustix::{process::Signal, termios};
use tokio::signal::unix::{self, SignalKind};

use crate::{failure::Failure, interrupts};

/// Those that people and supervisors send to a service.
const PASSED: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Every signal that is passed on, from now on.
#[derive(Debug)]
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Listens.
    ///
    /// # Errors
    /// The system has no room for one more listener.
    pub(super) fn new() -> Result<Self, Failure> {
        let listen =
            |signal: Signal| Ok((signal, interrupts::listen(SignalKind::from_raw(signal.as_raw()))?));
        Ok(Self(PASSED.into_iter().map(listen).collect::<Result<_, _>>()?))
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        let each = self.0.iter_mut().map(|(signal, listener)| {
            Box::pin(async move {
                listener.recv().await;
                *signal
            })
        });
        select_all(each).await.0
    }

    /// Returns when one arrives that asks to stop; others are nobody's yet.
    pub(super) async fn stop(&mut self) {
        while !asks_to_stop(self.next().await) {}
    }
}

/// Whether it asks a service to end in order.
pub(super) fn asks_to_stop(signal: Signal) -> bool {
    signal == Signal::TERM || signal == Signal::INT
}

/// Whether the command had it without us: what is typed at a terminal goes to everybody in the foreground.
pub(super) fn typed(signal: Signal) -> bool {
    (signal == Signal::INT || signal == Signal::QUIT) && is_in_foreground().unwrap_or(false)
}

/// Of the terminal that controls this process, wherever its input comes from; an error without one.
fn is_in_foreground() -> std::io::Result<bool> {
    let terminal = std::fs::File::open("/dev/tty")?;
    Ok(termios::tcgetpgrp(terminal)? == rustix::process::getpgrp())
}
