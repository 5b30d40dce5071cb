//! The figures of the mesh's side.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters without labels: no client can make more of them. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Open discovery streams.
    pub streams: Gauge,
    /// Discovery streams ended because the client neither read nor answered.
    pub slow_streams: Counter,
    /// Discovery responses sent.
    pub responses: Counter,
    /// Resources in them: what a proxy was told that it did not know.
    pub resources: Counter,
    /// Discovery responses that were rejected, in whole or in part.
    pub rejections: Counter,
}

impl Metrics {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("discovery_streams", "Open discovery streams", self.streams.clone());
        registry.register(
            "discovery_slow_streams",
            "Discovery streams ended because the proxy neither read nor answered",
            self.slow_streams.clone(),
        );
        registry.register("discovery_responses", "Discovery responses sent", self.responses.clone());
        registry.register(
            "discovery_resources",
            "Resources in discovery responses: what a proxy did not have yet",
            self.resources.clone(),
        );
        registry.register(
            "discovery_rejections",
            "Discovery responses that a proxy rejected, in whole or in part",
            self.rejections.clone(),
        );
    }
}
