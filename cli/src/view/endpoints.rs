//! The shape of `status SERVICE`. Times in milliseconds.

use outrigger_proto::{
    status::v1alpha1 as status,
    telemetry::v1alpha1::{EndpointState, endpoint_state},
};
use serde::Serialize;

use super::milliseconds;

/// What `status SERVICE` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoints {
    pub(crate) service: String,
    /// By port, address and proxy.
    pub(crate) endpoints: Vec<Endpoint>,
    /// How many more there are, of any service.
    pub(crate) omitted: u64,
}

/// One endpoint as one proxy sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// The node id of whoever sees it so.
    pub(crate) proxy: String,
    /// How long ago it said so, milliseconds; absent from an older control plane.
    pub(crate) age: Option<f64>,
    pub(crate) port: u32,
    pub(crate) address: String,
    pub(crate) workload: String,
    pub(crate) in_flight: u64,
    /// Absent before the first answer.
    pub(crate) latency: Option<f64>,
    pub(crate) connections: u64,
    pub(crate) health: Health,
}

/// Whether it is picked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub(crate) enum Health {
    /// Yes.
    Healthy,
    /// Not for a while.
    Ejected { reason: String, milliseconds_left: f64, times: u32 },
    /// The next request decides.
    Probing,
    /// A word of a later version.
    Unknown,
}

impl Endpoints {
    /// From the wire, in its order.
    pub(crate) fn new(service: String, response: status::ListEndpointsResponse) -> Self {
        let endpoints = response.endpoints.into_iter().map(|seen| {
            let status::SeenEndpoint { node_id, state, age } = seen;
            Endpoint::new(node_id, age.map(|age| milliseconds(Some(age))), state.unwrap_or_default())
        });
        Self { service, endpoints: endpoints.collect(), omitted: response.omitted }
    }
}

impl Endpoint {
    fn new(proxy: String, age: Option<f64>, state: EndpointState) -> Self {
        Self {
            proxy,
            age,
            port: state.port,
            address: state.address,
            workload: state.workload,
            in_flight: state.in_flight,
            latency: state.latency.map(|latency| milliseconds(Some(latency))),
            connections: state.connections,
            health: match state.health {
                Some(endpoint_state::Health::Healthy(_)) => Health::Healthy,
                Some(endpoint_state::Health::Ejected(ejected)) => Health::Ejected {
                    reason: ejected.reason,
                    milliseconds_left: milliseconds(ejected.until),
                    times: ejected.times,
                },
                Some(endpoint_state::Health::Probing(_)) => Health::Probing,
                None => Health::Unknown,
            },
        }
    }
}
