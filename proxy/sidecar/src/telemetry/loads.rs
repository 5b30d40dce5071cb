//! How much the applications and the workers have to do, read where it is kept when somebody asks.

use std::{fmt, net::SocketAddr, sync::Arc};

use outrigger_core::overload::{Concurrency, Pressure};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use tokio::time::Instant;

/// What is read. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loads(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By where they listen, which the settings say: in their order.
    applications: Mutex<Vec<(SocketAddr, Arc<Concurrency>)>>,
    workers: Mutex<Vec<Arc<Pressure>>>,
}

/// What is read of an application.
type Read = fn(&Concurrency) -> u32;

impl Loads {
    /// The application at `address`.
    pub(crate) fn add_application(&self, address: SocketAddr, concurrency: &Arc<Concurrency>) {
        self.0.applications.lock().push((address, Arc::clone(concurrency)));
    }

    /// One worker more.
    pub(crate) fn add_worker(&self, pressure: &Arc<Pressure>) {
        self.0.workers.lock().push(Arc::clone(pressure));
    }
}

impl Collector for Loads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let applications = self.0.applications.lock().clone();
        let figures: [(_, _, Read); 2] = [
            (
                "outrigger_application_requests",
                "Requests at the application, from their head to the head of its answer",
                Concurrency::inside,
            ),
            (
                "outrigger_application_limit",
                "How many there may be; 0 while there is no limit; one that is over goes with the next request",
                |concurrency| concurrency.limit().unwrap_or_default(),
            ),
        ];
        for (name, help, read) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (address, concurrency) in &applications {
                let labels = [("application", address.to_string())];
                ConstGauge::new(i64::from(read(concurrency))).encode(family.encode_family(&labels)?)?;
            }
        }
        let now = Instant::now().into_std();
        let delay = self.0.workers.lock().iter().map(|pressure| pressure.delay(now)).max();
        ConstGauge::new(delay.unwrap_or_default().as_secs_f64()).encode(encoder.encode_descriptor(
            "outrigger_worker_delay",
            "How long what is ready to run waits for its turn on the worker that is most behind",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)
    }
}
