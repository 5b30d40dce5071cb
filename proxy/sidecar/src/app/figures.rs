//! What is reported: the edges' figures, and the endpoints of the snapshot in force.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::telemetry::{Edge, EndpointFigures, EndpointHealth};

use crate::{
    report::Figures,
    snapshot::{EndpointSetEntry, Handle},
    telemetry::Telemetry,
};

/// Where it is read.
#[derive(Debug)]
pub(super) struct DataPathFigures {
    pub(super) telemetry: Telemetry,
    pub(super) snapshot: Handle,
}

impl Figures for DataPathFigures {
    fn edges(&self) -> Vec<Edge> {
        self.telemetry.edges()
    }

    fn overflowed(&self) -> u64 {
        self.telemetry.overflowed()
    }

    fn endpoints(&self) -> Vec<EndpointFigures> {
        let snapshot = self.snapshot.load();
        // Several services may name one set.
        let sets = snapshot.services.values().flat_map(|service| &service.endpoint_sets);
        let sets: BTreeMap<_, _> = sets.collect();
        sets.values().flat_map(|entry| of_set(entry)).collect()
    }
}

fn of_set(entry: &EndpointSetEntry) -> impl Iterator<Item = EndpointFigures> {
    entry.set.endpoints.iter().zip(&entry.states).map(|(endpoint, state)| EndpointFigures {
        service: entry.set.service.clone(),
        port: entry.set.port,
        address: endpoint.address,
        workload: Arc::clone(&endpoint.workload),
        in_flight: state.in_flight(),
        latency: None,
        connections: 0,
        health: EndpointHealth::Healthy,
    })
}
