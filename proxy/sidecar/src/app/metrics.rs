//! Metrics of the control thread, read where they are kept when somebody asks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use outrigger_tls::Identity;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use tokio::sync::watch;

use crate::discovery::{Status, last_known_good::KeptFigures};

/// Where they are kept.
#[derive(Debug)]
pub(super) struct ControlMetrics {
    pub(super) identity: Identity,
    pub(super) status: watch::Receiver<Status>,
    pub(super) renewal_failures: Arc<AtomicU64>,
    pub(super) kept: Arc<KeptFigures>,
}

impl ControlMetrics {
    fn encode_kept(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(since) = self.kept.written() {
            ConstGauge::new(since.as_secs_f64()).encode(encoder.encode_descriptor(
                "outrigger_last_known_good_written",
                "When what is in force was last written to disk, since the epoch",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?)?;
        }
        ConstCounter::new(self.kept.failures()).encode(encoder.encode_descriptor(
            "outrigger_last_known_good_write_failures",
            "Attempts to write what is in force to disk that failed",
            None,
            MetricType::Counter,
        )?)?;
        if let Some(reason) = self.kept.refused() {
            let mut family = encoder.encode_descriptor(
                "outrigger_last_known_good_refused",
                "1 if this start found a last known good that it did not use, by the reason",
                None,
                MetricType::Gauge,
            )?;
            ConstGauge::new(1_i64).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}

impl Collector for ControlMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(svid) = self.identity.svid() {
            let since = svid.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            ConstGauge::new(since.as_secs_f64()).encode(encoder.encode_descriptor(
                "outrigger_svid_not_after",
                "When this proxy's certificate expires, since the epoch",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?)?;
        }
        ConstCounter::new(self.renewal_failures.load(Ordering::Relaxed)).encode(
            encoder.encode_descriptor(
                "outrigger_svid_renewal_failures",
                "Attempts to renew the certificate that failed",
                None,
                MetricType::Counter,
            )?,
        )?;
        self.encode_kept(&mut encoder)?;
        let status = self.status.borrow().clone();
        let gauges = [
            (
                "outrigger_discovery_connected",
                "1 while a configuration stream is open",
                u64::from(status.connected),
            ),
            (
                "outrigger_last_known_good_in_force",
                "1 while the configuration in force is an earlier start's and not confirmed by the control plane",
                u64::from(status.last_known_good.is_some()),
            ),
            (
                "outrigger_control_plane_overdue",
                "1 while the control plane has been away for half of the time that this certificate had left",
                u64::from(self.kept.overdue()),
            ),
            ("outrigger_snapshot_generation", "Generation of the configuration in force", status.generation),
            (
                "outrigger_discovery_pending",
                "Resources received and not in force yet",
                u64::try_from(status.pending.len()).unwrap_or(u64::MAX),
            ),
        ];
        for (name, help, value) in gauges {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        ConstCounter::new(status.refused).encode(encoder.encode_descriptor(
            "outrigger_discovery_refused",
            "Resources that were refused",
            None,
            MetricType::Counter,
        )?)
    }
}

#[cfg(test)]
mod tests;
