//! Figures of hops and endpoints, for the API.

use std::time::Duration;

use outrigger_core::{
    telemetry::{Makeup, PHASES, Phase},
    wire::time::encode_duration,
};
use outrigger_proto::{
    status::v1alpha1::{AppSplit, Hop, ListEndpointsResponse, PhaseShare, SeenEndpoint},
    telemetry::v1alpha1::Class,
};
use prost::Message;

use crate::{
    store::PAGE_BYTES,
    telemetry::{Figures, Key, Seen},
};

/// One hop, `depth` hops behind the service asked for.
pub(super) fn hop(depth: u32, key: &Key, figures: &Figures, slowest_ppm: u32) -> Hop {
    let (destination, port) = match &key.edge.destination {
        Some((service, port)) => (service.to_string(), u32::from(*port)),
        None => ("other".to_owned(), 0),
    };
    let all = Makeup::slowest(&figures.total, 1_000_000);
    let slowest = Makeup::slowest(&figures.total, slowest_ppm);
    Hop {
        source: key.source.to_string(),
        destination,
        port,
        rule: key.edge.rule.as_deref().unwrap_or_default().to_owned(),
        class: Class::from(key.edge.class).into(),
        depth,
        requests: figures.requests,
        failures: figures.failures,
        p50: figures.total.quantile(0.5).map(encode_duration),
        p99: figures.total.quantile(0.99).map(encode_duration),
        mean: Some(encode_duration(figures.total.mean())),
        mean_phases: all.map(|all| shares(all.phases())).unwrap_or_default(),
        mean_app: all.map(|all| app(&all)),
        slowest_phases: slowest.map(|slowest| shares(slowest.phases())).unwrap_or_default(),
        slowest_app: slowest.map(|slowest| app(&slowest)),
        slowest_mean: slowest.map(|slowest| encode_duration(slowest.mean())),
        slowest_requests: slowest.map_or(0, |slowest| slowest.requests),
    }
}

fn shares(phases: [(Phase, Duration); PHASES]) -> Vec<PhaseShare> {
    let share = |(phase, spent): (Phase, Duration)| PhaseShare {
        phase: phase.as_str().to_owned(),
        time: Some(encode_duration(spent)),
    };
    phases.into_iter().map(share).collect()
}

fn app(makeup: &Makeup) -> AppSplit {
    let app = makeup.app();
    AppSplit {
        requests: app.requests,
        own: Some(encode_duration(app.own)),
        waiting: Some(encode_duration(app.waiting)),
    }
}

/// One service's endpoints, as many as fit a message; the others are counted.
pub(super) fn endpoints(seen: Seen) -> ListEndpointsResponse {
    let all = seen.endpoints.len();
    let mut bytes = 0;
    let endpoints: Vec<SeenEndpoint> = seen
        .endpoints
        .into_iter()
        .map(|view| SeenEndpoint {
            node_id: view.proxy,
            state: Some((&view.figures).into()),
            age: Some(encode_duration(view.age)),
        })
        .take_while(|endpoint| {
            bytes += endpoint.encoded_len();
            bytes <= 2 * PAGE_BYTES
        })
        .collect();
    let omitted = seen.omitted.saturating_add(all.saturating_sub(endpoints.len()));
    ListEndpointsResponse { endpoints, omitted: u64::try_from(omitted).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_core::telemetry::{EndpointFigures, EndpointHealth};

    use super::*;
    use crate::telemetry::View;

    #[test]
    fn the_answer_fits_a_message_however_many_there_are() {
        let endpoint = EndpointFigures {
            service: "demo/price".parse().unwrap(),
            port: 80,
            address: "192.0.2.7:17006".parse().unwrap(),
            workload: "demo/price-1".into(),
            in_flight: 1,
            latency: None,
            connections: 1,
            health: EndpointHealth::Healthy,
        };
        let proxy = "spiffe://outrigger.local/ns/demo/sa/front#front-1".to_owned();
        let one = View { proxy, age: Duration::from_secs(1), figures: endpoint };
        let answer = endpoints(Seen { endpoints: vec![one; 50_000], omitted: 7 });
        assert!(answer.encoded_len() < 3 * PAGE_BYTES, "{}", answer.encoded_len());
        assert_eq!(answer.endpoints.len() as u64 + answer.omitted, 50_007);
    }
}
