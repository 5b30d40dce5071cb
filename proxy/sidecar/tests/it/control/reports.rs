//! What the proxy tells: applied revisions, registration, figures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger_core::telemetry::{Bucket, Edge, EdgeKey, Sparse};
use outrigger_proto::type_url;
use outrigger_proxy::report::{Figures, Reporter};
use outrigger_tls::grpc::{ServerTrust, channel_lazy};
use tonic::transport::Channel;

use super::fake::{Fake, config};

fn channel(fake: &Fake) -> Channel {
    let identity = fake.authority.identity(fake.authority.workload("demo", "price"));
    let trust = ServerTrust::Bundle(identity.clone());
    channel_lazy(&fake.address.to_string(), trust, Some(&identity)).unwrap()
}

/// One edge with as many requests as the test says.
#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl Figures for Counted {
    fn edges(&self) -> Vec<Edge> {
        let requests = self.0.load(Ordering::Relaxed);
        let mut total = Sparse::default();
        if requests > 0 {
            total.add(0, &Bucket { count: requests, total_us: requests, ..Bucket::default() });
        }
        let key = EdgeKey { destination: Some(("demo/price".parse().unwrap(), 80)), ..EdgeKey::OTHER };
        vec![Edge { key, requests, failures: 0, total }]
    }

    fn overflowed(&self) -> u64 {
        0
    }
}

/// What a control plane counts: a repeat of a sequence is none.
fn counted(fake: &Fake) -> u64 {
    fake.look(|seen| {
        let mut last = 0;
        let mut sum = 0;
        for report in &seen.reports {
            if report.sequence > last {
                last = report.sequence;
                sum += report.edges.iter().map(|edge| edge.requests).sum::<u64>();
            }
        }
        sum
    })
}

#[tokio::test]
async fn figures_are_neither_lost_nor_doubled_when_streams_break() {
    let fake = Fake::start();
    fake.change(|seen| seen.acknowledge = false);
    let figures = Arc::new(Counted::default());
    figures.0.store(3, Ordering::Relaxed);
    let reporter = Reporter::start(channel(&fake), Arc::clone(&figures) as Arc<dyn Figures>);
    fake.until("a report", |seen| !seen.reports.is_empty()).await;
    figures.0.store(5, Ordering::Relaxed);
    fake.until("the same report again", |seen| seen.reports.len() >= 2).await;
    fake.look(|seen| assert_eq!(seen.reports[0], seen.reports[1]));
    fake.change(|seen| seen.acknowledge = true);
    fake.until("the next report", |seen| seen.reports.iter().any(|report| report.sequence == 2)).await;
    figures.0.store(9, Ordering::Relaxed);
    reporter.finish(Duration::from_secs(10)).await;
    assert_eq!(counted(&fake), 9);
}

#[tokio::test]
async fn what_is_applied_is_told_after_each_swap_and_on_each_stream() {
    let mut fake = Fake::start();
    let proxy = super::lifecycle::Proxy::start(&fake, &[]).await;
    proxy.ready().await;
    fake.until("the first configuration applied", |seen| {
        seen.applied.last().is_some_and(|report| {
            report.applied.iter().any(|applied| applied.type_url == type_url::PROXY_CONFIG)
        })
    })
    .await;
    let (generation, stream) = fake.look(|seen| {
        let last = seen.applied.last().unwrap();
        assert!(last.svid_not_after.is_some());
        assert!(last.applied.iter().all(|applied| applied.nonce.starts_with(&last.stream)));
        (last.generation, last.stream.clone())
    });
    let mut next = config(&fake.authority.workload_id("demo", "price"));
    next.cluster_domain = "other.local".to_owned();
    fake.change(|seen| seen.put(type_url::PROXY_CONFIG, "self", &next));
    fake.until("the next one applied", |seen| {
        seen.applied.last().is_some_and(|report| report.generation > generation)
    })
    .await;
    fake.kill();
    fake.change(|seen| seen.applied.clear());
    fake.resume();
    fake.until("told again on another stream", |seen| {
        seen.applied.last().is_some_and(|report| report.stream != stream && report.generation > generation)
    })
    .await;
    proxy.stop().await;
}
