//! How a proxy sees the endpoints that it calls, what of it is told, and its form on the wire.

use std::{borrow::Cow, cmp::Reverse, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_proto::telemetry::v1alpha1 as proto;

use crate::{
    model::{ServiceName, Violation},
    wire::time::{decode_duration, encode_duration},
};

/// A proxy tells of so many endpoints at most.
pub const MAX_ENDPOINTS: usize = 1000;

/// Longest name of a workload and longest reason, bytes.
const MAX_TEXT: usize = 2 * 63 + 1;

/// One endpoint, as one proxy sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFigures {
    /// The backend it belongs to.
    pub service: ServiceName,
    /// Which port of that.
    pub port: u16,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// `<namespace>/<id>` of the instance behind it.
    pub workload: Arc<str>,
    /// Requests sent to it whose last byte has not been delivered yet.
    pub in_flight: u64,
    /// Moving average of its latency; `None` before the first answer.
    pub latency: Option<Duration>,
    /// Open connections to it.
    pub connections: u64,
    /// Whether it is picked.
    pub health: EndpointHealth,
}

/// Whether an endpoint is picked, as its failures say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Yes.
    #[default]
    Healthy,
    /// No, for its failures.
    Ejected {
        /// A stable word, such as `consecutive_failures`.
        reason: Cow<'static, str>,
        /// From now until it is probed.
        until: Duration,
        /// How often in a row.
        times: u32,
    },
    /// Its ejection is over: the next request decides.
    Probing,
}

impl EndpointFigures {
    /// Whether there is something to tell: traffic, or that it is not healthy.
    pub fn is_worth_telling(&self) -> bool {
        self.in_flight > 0
            || self.connections > 0
            || self.latency.is_some()
            || self.health != EndpointHealth::Healthy
    }

    /// Whether `other` says the same; that an ejection's end comes nearer is nothing new.
    pub fn is_as(&self, other: &Self) -> bool {
        let name = |of: &Self| (of.port, of.address);
        let load = |of: &Self| (of.in_flight, of.latency, of.connections);
        name(self) == name(other)
            && load(self) == load(other)
            && self.health.is_as(&other.health)
            && self.service == other.service
            && self.workload == other.workload
    }
}

impl EndpointHealth {
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Ejected { reason, times, .. },
                Self::Ejected { reason: others, times: other_times, .. },
            ) => (reason, times) == (others, other_times),
            (one, other) => one == other,
        }
    }
}

/// The endpoints worth telling, at most [`MAX_ENDPOINTS`], by service, port and address; and how many more there are.
/// The ones that are not healthy have room first, then those with the most requests in flight.
pub fn within_bound(mut all: Vec<EndpointFigures>) -> (Vec<EndpointFigures>, usize) {
    all.retain(EndpointFigures::is_worth_telling);
    let omitted = all.len().saturating_sub(MAX_ENDPOINTS);
    if omitted > 0 {
        all.sort_by_key(|one| (one.health == EndpointHealth::Healthy, Reverse(one.in_flight)));
        all.truncate(MAX_ENDPOINTS);
    }
    all.sort_by(|one, other| {
        (&one.service, one.port, one.address).cmp(&(&other.service, other.port, other.address))
    });
    (all, omitted)
}

impl From<&EndpointFigures> for proto::EndpointState {
    fn from(figures: &EndpointFigures) -> Self {
        use proto::endpoint_state::{Ejected, Health, Healthy, Probing};
        let health = match &figures.health {
            EndpointHealth::Healthy => Health::Healthy(Healthy {}),
            EndpointHealth::Ejected { reason, until, times } => Health::Ejected(Ejected {
                reason: reason.clone().into_owned(),
                until: Some(encode_duration(*until)),
                times: *times,
            }),
            EndpointHealth::Probing => Health::Probing(Probing {}),
        };
        Self {
            service: figures.service.to_string(),
            port: figures.port.into(),
            address: figures.address.to_string(),
            workload: figures.workload.as_ref().to_owned(),
            in_flight: figures.in_flight,
            latency: figures.latency.map(encode_duration),
            connections: figures.connections,
            health: Some(health),
        }
    }
}

impl TryFrom<proto::EndpointState> for EndpointFigures {
    type Error = Violation;

    fn try_from(wire: proto::EndpointState) -> Result<Self, Violation> {
        let invalid = |field: &str, what: String| Violation::error(field, "invalid", what);
        let text = |field: &str, text: String| {
            let plain = text.len() <= MAX_TEXT && text.bytes().all(|byte| byte.is_ascii_graphic());
            if plain { Ok(text) } else { Err(invalid(field, "not a word of ours".to_owned())) }
        };
        let time = |field: &str, time: &prost_types::Duration| {
            decode_duration(time).ok_or_else(|| invalid(field, "not a duration".to_owned()))
        };
        Ok(Self {
            service: wire.service.parse().map_err(|error: crate::model::InvalidName| {
                Violation::error("service", "invalid_name", error.to_string())
            })?,
            port: u16::try_from(wire.port)
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| Violation::error("port", "out_of_range", "a port is 1 to 65535"))?,
            address: wire
                .address
                .parse()
                .map_err(|_unreadable| invalid("address", "not an address with a port".to_owned()))?,
            workload: text("workload", wire.workload)?.into(),
            in_flight: wire.in_flight,
            latency: wire.latency.as_ref().map(|latency| time("latency", latency)).transpose()?,
            connections: wire.connections,
            health: match wire.health {
                Some(proto::endpoint_state::Health::Healthy(_)) => EndpointHealth::Healthy,
                Some(proto::endpoint_state::Health::Ejected(ejected)) => EndpointHealth::Ejected {
                    reason: text("ejected.reason", ejected.reason)?.into(),
                    until: time("ejected.until", &ejected.until.unwrap_or_default())?,
                    times: ejected.times,
                },
                Some(proto::endpoint_state::Health::Probing(_)) => EndpointHealth::Probing,
                None => {
                    return Err(Violation::error(
                        "health",
                        "required",
                        "missing, or unknown to this version",
                    ));
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(port: u16) -> EndpointFigures {
        EndpointFigures {
            service: "demo/price".parse().unwrap(),
            port: 80,
            address: SocketAddr::from(([192, 0, 2, 7], port)),
            workload: "demo/price-1".into(),
            in_flight: 0,
            latency: None,
            connections: 0,
            health: EndpointHealth::Healthy,
        }
    }

    fn ejected(until: u64, times: u32) -> EndpointHealth {
        let until = Duration::from_millis(until);
        EndpointHealth::Ejected { reason: "consecutive_failures".into(), until, times }
    }

    #[test]
    fn an_endpoint_without_traffic_is_told_of_only_when_it_is_not_healthy() {
        let idle = endpoint(1);
        let busy = [
            EndpointFigures { in_flight: 1, ..endpoint(2) },
            EndpointFigures { connections: 1, ..endpoint(3) },
            EndpointFigures { latency: Some(Duration::ZERO), ..endpoint(4) },
            EndpointFigures { health: ejected(1, 1), ..endpoint(5) },
            EndpointFigures { health: EndpointHealth::Probing, ..endpoint(6) },
        ];
        let all = busy.iter().rev().cloned().chain([idle]).collect();
        assert_eq!(within_bound(all), (busy.to_vec(), 0));
    }

    #[test]
    fn the_bound_leaves_out_the_healthy_ones_with_the_least_traffic() {
        let mut all: Vec<_> =
            (1..=1002).map(|port| EndpointFigures { in_flight: port.into(), ..endpoint(port) }).collect();
        all[0].health = ejected(500, 1);
        let (told, omitted) = within_bound(all);
        assert_eq!((told.len(), omitted), (MAX_ENDPOINTS, 2));
        let ports: Vec<_> = told.iter().map(|one| one.address.port()).collect();
        assert_eq!(ports, [1].into_iter().chain(4..=1002).collect::<Vec<_>>());
    }

    #[test]
    fn the_end_of_an_ejection_that_comes_nearer_is_no_news() {
        let of = |health| EndpointFigures { health, ..endpoint(1) };
        assert!(of(ejected(900, 2)).is_as(&of(ejected(800, 2))));
        assert!(!of(ejected(900, 2)).is_as(&of(ejected(900, 3))));
        assert!(!of(ejected(900, 2)).is_as(&of(EndpointHealth::Probing)));
        assert!(!endpoint(1).is_as(&EndpointFigures { in_flight: 1, ..endpoint(1) }));
        assert!(endpoint(1).is_as(&endpoint(1)));
    }

    #[test]
    fn a_wrong_message_names_its_field() {
        let good = proto::EndpointState::from(&EndpointFigures { health: ejected(1, 1), ..endpoint(1) });
        let field = |change: fn(&mut proto::EndpointState)| {
            let mut wire = good.clone();
            change(&mut wire);
            EndpointFigures::try_from(wire).unwrap_err().field
        };
        assert_eq!(field(|wire| wire.service = "price".to_owned()), "service");
        assert_eq!(field(|wire| wire.port = 65536), "port");
        assert_eq!(field(|wire| wire.address = "price:80".to_owned()), "address");
        assert_eq!(field(|wire| wire.workload = "a\nb".to_owned()), "workload");
        assert_eq!(field(|wire| wire.workload = "a".repeat(128)), "workload");
        assert_eq!(
            field(|wire| wire.latency = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
            "latency"
        );
        assert_eq!(field(|wire| wire.health = None), "health");
        let mut wire = good.clone();
        if let Some(proto::endpoint_state::Health::Ejected(ejected)) = &mut wire.health {
            ejected.reason = "a b".to_owned();
        }
        assert_eq!(EndpointFigures::try_from(wire).unwrap_err().field, "ejected.reason");
    }

    proptest! {
        #[test]
        fn figures_survive_a_round_trip(
            counts in proptest::array::uniform2(any::<u64>()),
            latency in proptest::option::of(0..u64::from(u32::MAX)),
            (kind, until, times) in (0..3_u8, any::<u32>(), any::<u32>()),
        ) {
            let [in_flight, connections] = counts;
            let health = match kind {
                0 => EndpointHealth::Healthy,
                1 => ejected(until.into(), times),
                _ => EndpointHealth::Probing,
            };
            let latency = latency.map(Duration::from_nanos);
            let figures = EndpointFigures { in_flight, connections, latency, health, ..endpoint(1) };
            let wire = proto::EndpointState::from(&figures);
            prop_assert_eq!(EndpointFigures::try_from(wire), Ok(figures));
        }
    }
}
