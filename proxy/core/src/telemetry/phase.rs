//! The phases of a request over one edge, and the time spent in each.

use std::{fmt, time::Duration};

/// How many phases there are.
pub const PHASES: usize = Phase::ALL.len();

/// Where time goes. Intervals do not overlap; what lies between them is unexplained, and exported as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Head read -> attempt may start, and the handling of the response's head. Outbound.
    ClientProxy,
    /// Waiting for a pooled connection or a stream slot. Outbound.
    Queue,
    /// Start of the first attempt -> start of the one whose answer is delivered, and what came after its answer until it
    /// was settled that there is no better one. Outbound.
    Retry,
    /// A new connection being made, of the attempt delivered. Outbound.
    Connect,
    /// Head handed on -> last request byte or response head, whichever comes first. Both.
    Upload,
    /// The outbound's wait for the head, without the inbound sidecar's whole time. Both.
    Network,
    /// The inbound sidecar's time, without the application's. Inbound.
    ServerProxy,
    /// Request handed over -> final response head. Inbound.
    App,
    /// Response head -> last byte that the downstream accepted. Outbound.
    Stream,
    /// Everything after the hand-over, when no valid figures of an inbound came. Outbound.
    Upstream,
}

impl Phase {
    /// All of them, in the order of a request, which is the order on the wire.
    pub const ALL: [Self; 10] = [
        Self::ClientProxy,
        Self::Queue,
        Self::Retry,
        Self::Connect,
        Self::Upload,
        Self::Network,
        Self::ServerProxy,
        Self::App,
        Self::Stream,
        Self::Upstream,
    ];

    /// As in metrics, tables and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientProxy => "client_proxy",
            Self::Queue => "queue",
            Self::Retry => "retry",
            Self::Connect => "connect",
            Self::Upload => "upload",
            Self::Network => "network",
            Self::ServerProxy => "server_proxy",
            Self::App => "app",
            Self::Stream => "stream",
            Self::Upstream => "upstream",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Time per phase: whole nanoseconds, at most 584 years.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseTimes([u64; PHASES]);

impl PhaseTimes {
    /// Time in `phase`.
    pub fn get(&self, phase: Phase) -> Duration {
        Duration::from_nanos(self.0.get(phase as usize).copied().unwrap_or_default())
    }

    /// Adds `time` to `phase`; saturates.
    pub fn add(&mut self, phase: Phase, time: Duration) {
        self.add_nanos(phase, nanos(time));
    }

    pub(super) fn add_nanos(&mut self, phase: Phase, time: u64) {
        if let Some(slot) = self.0.get_mut(phase as usize) {
            *slot = slot.saturating_add(time);
        }
    }

    /// Sum of all phases; saturates.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.0.iter().fold(0, |sum, time| sum.saturating_add(*time)))
    }

    /// Each phase with its time, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Phase, Duration)> + '_ {
        Phase::ALL.into_iter().zip(self.0.iter().copied().map(Duration::from_nanos))
    }
}

/// Saturates after 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into())
}

impl FromIterator<(Phase, Duration)> for PhaseTimes {
    fn from_iter<I: IntoIterator<Item = (Phase, Duration)>>(times: I) -> Self {
        let mut all = Self::default();
        for (phase, time) in times {
            all.add(phase, time);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::telemetry::v1alpha1 as proto;

    use super::*;

    #[test]
    fn the_order_is_the_wires() {
        for (number, phase) in (1..).zip(Phase::ALL) {
            let wire = proto::Phase::try_from(number).unwrap();
            assert_eq!(wire.as_str_name(), format!("PHASE_{}", phase.as_str().to_uppercase()));
            assert_eq!(Phase::ALL[phase as usize], phase);
        }
        assert!(proto::Phase::try_from(11).is_err());
    }
}
