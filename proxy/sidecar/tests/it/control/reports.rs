//! What the proxy tells: applied revisions, registration, figures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger_core::telemetry::{Bucket, Edge, EdgeKey, EndpointFigures, EndpointHealth, Sparse};
use outrigger_proto::type_url;
use outrigger_proxy::report::{Activity, Figures, Reporter};
use outrigger_tls::grpc::{ServerTrust, channel_lazy};
use tonic::transport::Channel;

use super::fake::{Fake, config};

fn channel(fake: &Fake) -> Channel {
    let identity = fake.authority.identity(fake.authority.workload("demo", "price"));
    let trust = ServerTrust::Bundle(identity.clone());
    channel_lazy(&fake.address.to_string(), trust, Some(&identity)).unwrap()
}

/// One edge with as many requests as the test says, and one endpoint with as many in flight.
#[derive(Debug, Default)]
struct Counted(AtomicU64, AtomicU64, Activity);

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

    fn activity(&self) -> &Activity {
        &self.2
    }

    fn endpoints(&self) -> Vec<EndpointFigures> {
        vec![EndpointFigures {
            service: "demo/price".parse().unwrap(),
            port: 80,
            address: "192.0.2.7:17006".parse().unwrap(),
            workload: "demo/price-1".into(),
            in_flight: self.1.load(Ordering::Relaxed),
            latency: None,
            connections: 0,
            health: EndpointHealth::Healthy,
        }]
    }
}

fn start(fake: &Fake, figures: &Arc<Counted>) -> Reporter {
    let figures = Arc::clone(figures) as Arc<dyn Figures>;
    Reporter::start(channel(fake), figures, &"front-1".parse().unwrap())
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
    figures.2.note();
    let reporter = start(&fake, &figures);
    fake.until("a report", |seen| !seen.reports.is_empty()).await;
    figures.0.store(5, Ordering::Relaxed);
    figures.2.note();
    fake.until("the same report again", |seen| seen.reports.len() >= 2).await;
    fake.look(|seen| assert_eq!(seen.reports[0], seen.reports[1]));
    fake.change(|seen| seen.acknowledge = true);
    fake.until("the next report", |seen| seen.reports.iter().any(|report| report.sequence == 2)).await;
    figures.0.store(9, Ordering::Relaxed);
    figures.2.note();
    reporter.finish(Duration::from_secs(10)).await;
    assert_eq!(counted(&fake), 9);
}

/// The requests in flight that each report on endpoints tells of.
fn told(seen: &super::fake::Seen) -> Vec<u64> {
    let reports = seen.reports.iter().filter_map(|report| report.endpoints.as_ref());
    reports.map(|report| report.endpoints.iter().map(|endpoint| endpoint.in_flight).sum()).collect()
}

#[tokio::test]
async fn endpoints_are_told_of_when_they_changed_and_to_each_stream_anew() {
    let mut fake = Fake::start();
    let figures = Arc::new(Counted::default());
    let reporter = start(&fake, &figures);
    // Nothing is told of an endpoint without traffic, nor is anything told twice.
    figures.0.store(1, Ordering::Relaxed);
    figures.2.note();
    fake.until("the edge", |seen| seen.reports.len() == 1).await;
    for in_flight in [3, 5, 0] {
        figures.1.store(in_flight, Ordering::Relaxed);
        figures.2.note();
        fake.until("the endpoint", |seen| told(seen).last() == Some(&in_flight)).await;
        figures.0.fetch_add(1, Ordering::Relaxed);
        figures.2.note();
        let counted = figures.0.load(Ordering::Relaxed);
        fake.until("a round without news of it", |seen| seen.reports.last().unwrap().sequence == counted)
            .await;
    }
    fake.look(|seen| {
        assert_eq!(told(seen), [3, 5, 0]);
        let of_endpoints = seen.reports.iter().filter(|report| report.endpoints.is_some());
        for report in of_endpoints {
            assert_eq!((report.sequence, report.instance.as_str()), (0, "front-1"), "nothing to count");
        }
    });
    figures.1.store(7, Ordering::Relaxed);
    figures.2.note();
    fake.until("the endpoint", |seen| told(seen).last() == Some(&7)).await;
    fake.kill();
    fake.change(|seen| seen.reports.clear());
    fake.resume();
    fake.until("told again on another stream", |seen| told(seen) == [7]).await;
    reporter.finish(Duration::from_secs(10)).await;
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
