//! Adding up, counting once, and what happened in between.

use outrigger_core::telemetry::Bucket;

use super::*;

fn source(account: &str) -> SpiffeId {
    format!("spiffe://outrigger.local/ns/demo/sa/{account}").parse().unwrap()
}

fn edge(destination: &str, port: u16, requests: u64) -> Edge {
    let mut total = Sparse::default();
    total.add(-50, &Bucket { count: requests, total_us: requests * 10_000, ..Bucket::default() });
    let destination = Some((destination.parse().unwrap(), port));
    Edge { key: EdgeKey { destination, ..EdgeKey::OTHER }, requests, failures: 0, total }
}

/// What was counted since `cursor`, and the cursor of now.
fn since(edges: &Edges, cursor: &[u8]) -> (Vec<(Key, Figures)>, Vec<u8>) {
    let added = edges.since(cursor).unwrap();
    let figures = added.keys().filter_map(|key| Some((key.clone(), added.of(key)?)));
    (figures.collect(), added.cursor.clone())
}

fn is_gone(edges: &Edges, cursor: &[u8]) -> bool {
    matches!(edges.since(cursor), Err(CursorGone))
}

#[test]
fn reports_of_many_runs_add_up() {
    let (edges, now) = (Edges::new(1), Instant::now());
    edges.add(&source("front"), 7, 1, vec![edge("demo/price", 80, 10)], now);
    edges.add(&source("front"), 8, 1, vec![edge("demo/price", 80, 5)], now);
    edges.add(&source("till"), 9, 1, vec![edge("demo/price", 80, 1), edge("demo/stock", 80, 2)], now);
    let all = since(&edges, &[]).0;
    let requests: Vec<_> = all.iter().map(|(key, figures)| (&key.source, figures.requests)).collect();
    assert_eq!(requests, [(&source("front"), 15), (&source("till"), 1), (&source("till"), 2)]);
    assert_eq!(all[0].1.total.count(), 15);
}

#[test]
fn a_repeated_sequence_counts_once() {
    let (edges, now) = (Edges::new(1), Instant::now());
    let report = || vec![edge("demo/price", 80, 10)];
    assert_eq!(edges.add(&source("front"), 7, 1, report(), now), 1);
    assert_eq!(edges.add(&source("front"), 7, 1, report(), now), 1);
    assert_eq!(edges.add(&source("front"), 7, 2, report(), now), 2);
    assert_eq!(edges.add(&source("front"), 7, 1, report(), now), 2);
    assert_eq!(since(&edges, &[]).0[0].1.requests, 20);
}

#[test]
fn a_cursor_tells_what_happened_since() {
    let (edges, now) = (Edges::new(1), Instant::now());
    edges.add(&source("front"), 7, 1, vec![edge("demo/price", 80, 10), edge("demo/stock", 80, 1)], now);
    let cursor = since(&edges, &[]).1;
    assert_eq!(since(&edges, &cursor), (Vec::new(), cursor.clone()));
    edges.add(&source("front"), 7, 2, vec![edge("demo/price", 80, 3)], now);
    let added = since(&edges, &cursor).0;
    assert_eq!(added.len(), 1);
    assert_eq!((added[0].1.requests, added[0].1.total.count()), (3, 3));
}

#[test]
fn a_cursor_of_another_run_or_too_old_is_gone() {
    let (edges, now) = (Edges::new(1), Instant::now());
    let cursor = since(&edges, &[]).1;
    assert!(is_gone(&Edges::new(2), &cursor));
    for bytes in [&b"x"[..], &[0; 16], &[0; 17]] {
        assert!(is_gone(&edges, bytes));
    }
    for sequence in 0..=MAX_PICTURES as u64 {
        edges.add(&source("front"), 7, sequence + 1, vec![edge("demo/price", 80, 1)], now);
        since(&edges, &[]);
    }
    assert!(is_gone(&edges, &cursor));
}

#[test]
fn edges_beyond_the_bound_count_together() {
    let (edges, now) = (Edges::new(1), Instant::now());
    let many = (1..=u16::try_from(MAX_EDGES_PER_SOURCE + 5).unwrap()).map(|port| edge("demo/price", port, 1));
    edges.add(&source("front"), 7, 1, many.collect(), now);
    let all = since(&edges, &[]).0;
    assert_eq!(all.len(), MAX_EDGES_PER_SOURCE + 1);
    let other = all.iter().find(|(key, _)| key.edge.destination.is_none()).unwrap();
    assert_eq!(other.1.requests, 5);
}

#[test]
fn runs_are_bounded() {
    let (edges, now) = (Edges::new(1), Instant::now());
    for run in 0..=MAX_RUNS as u64 {
        edges.add(&source("front"), run, 1, vec![], now + std::time::Duration::from_millis(run));
    }
    assert_eq!(edges.inner.lock().runs.len(), MAX_RUNS);
}

#[test]
fn pictures_of_a_large_mesh_are_few() {
    let (edges, now) = (Edges::new(1), Instant::now());
    for number in 0..21 {
        let many = (1..=2000).map(|port| edge("demo/price", port, 1));
        edges.add(&source(&format!("front-{number}")), 7, 1, many.collect(), now);
    }
    let look = |sequence| {
        edges.add(&source("front-0"), 7, sequence, vec![edge("demo/price", 1, 1)], now);
        since(&edges, &[]).1
    };
    let (first, second) = (look(2), look(3));
    assert!(!is_gone(&edges, &first));
    look(4);
    assert!(is_gone(&edges, &first));
    assert!(!is_gone(&edges, &second));
}
