//! What is reported: the edges' figures, and the endpoints of the snapshot in force.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use outrigger_core::{
    outlier::Standing,
    telemetry::{Edge, EndpointFigures, EndpointHealth},
};

use crate::{
    report::{Activity, Figures},
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

    fn activity(&self) -> &Activity {
        self.telemetry.activity()
    }

    fn endpoints(&self) -> Vec<EndpointFigures> {
        let snapshot = self.snapshot.load();
        // Several services may name one set.
        let sets = snapshot.services.values().flat_map(|service| &service.endpoint_sets);
        let sets: BTreeMap<_, _> = sets.collect();
        let now = tokio::time::Instant::now().into_std();
        sets.values().flat_map(|entry| of_set(entry, now)).collect()
    }
}

fn of_set(entry: &EndpointSetEntry, now: Instant) -> impl Iterator<Item = EndpointFigures> {
    let states = entry.states.iter().zip(&entry.accruals);
    entry.set.endpoints.iter().zip(states).map(move |(endpoint, (state, accrual))| EndpointFigures {
        service: entry.set.service.clone(),
        port: entry.set.port,
        address: endpoint.address,
        workload: Arc::clone(&endpoint.workload),
        in_flight: state.in_flight(),
        latency: state.latency(now),
        connections: state.connections(),
        health: match accrual.standing(now) {
            Standing::Healthy => EndpointHealth::Healthy,
            Standing::Probing { .. } => EndpointHealth::Probing,
            Standing::Ejected { until, why, times } => EndpointHealth::Ejected {
                reason: why.as_str().into(),
                until: until.saturating_duration_since(now),
                times,
            },
        },
    })
}
