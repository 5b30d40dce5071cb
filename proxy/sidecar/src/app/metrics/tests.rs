//! Every metric, with a sample of each, against the reference.

use std::{fs, net::SocketAddr};

use outrigger_core::{
    model::ServiceName,
    overload::Concurrency,
    reason::Reason,
    telemetry::{
        EdgeKey,
        hop::{Stamps, split},
    },
};
use outrigger_process::{
    logging::{self, Destination, Format},
    metrics,
};
use outrigger_tls::{PeerRejected, Refusal, testing::Authority};
use prometheus_client::{encoding::text::encode, registry::Registry};

use super::*;
use crate::{
    http::Overheard,
    telemetry::{AccessLog, Direction, Party, Role, Telemetry},
};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");

/// Makes a sample of each family that has labels: without one it is not exposed.
fn touch(telemetry: &Telemetry) {
    let peer: SocketAddr = ([127, 0, 0, 1], 1).into();
    telemetry.refused_head(Direction::Inbound, Party::downstream(peer, None), Reason::BadRequest);
    drop(telemetry.metrics().accepted(Direction::Inbound));
    telemetry.metrics().opened(Direction::Outbound);
    telemetry.metrics().rejected(Direction::Inbound, PeerRejected::NoCertificate);
    telemetry.metrics().handshake_failed(Direction::Inbound);
    telemetry.metrics().detection_timed_out(Direction::Outbound);
    let refusal = Refusal { reason: PeerRejected::NoCertificate, presented: None };
    telemetry.distrusted(Direction::Inbound, peer, &refusal);
    telemetry.refused(Direction::Inbound, Role::Downstream, peer, &Overheard::sample());
    let concurrency = Concurrency::new(std::time::Instant::now(), true);
    telemetry.loads().add_application(peer, &Arc::new(concurrency));
    let service: ServiceName = "demo/price".parse().unwrap();
    let edge = telemetry.edge_table().of(EdgeKey { destination: Some((service, 80)), ..EdgeKey::OTHER });
    edge.record(&split(&Stamps::new(std::time::Instant::now()), None), false);
}

#[test]
fn the_reference_is_what_the_proxy_exposes() {
    let mut registry = Registry::default();
    logging::register(registry.sub_registry_with_prefix("outrigger"));
    let log = AccessLog::start(Format::Json, Destination::new(std::io::sink())).unwrap();
    let telemetry = Telemetry::new(&mut registry, Some(log));
    let authority = Authority::new("outrigger.local");
    let kept = Arc::<KeptFigures>::default();
    registry.register_collector(Box::new(ControlMetrics {
        identity: authority.identity(authority.workload("demo", "price")),
        status: watch::channel(Status::default()).1,
        renewal_failures: Arc::default(),
        kept: Arc::clone(&kept),
    }));
    kept.note_written(SystemTime::now());
    kept.note_refused("too_old");
    touch(&telemetry);
    let mut exposition = String::new();
    encode(&mut exposition, &registry).unwrap();
    let table = metrics::reference(&exposition);
    let page = fs::read_to_string(REFERENCE).unwrap_or_default();
    assert!(
        metrics::section(&page, "Proxy") == Some(&table),
        "the section 'Proxy' of docs/reference/metrics.md is not what is exposed; write this to it:\n{table}"
    );
}
