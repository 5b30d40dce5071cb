//! The truth about where a request's time goes (SEMANTICS F.4): a delay that is put into exactly one place shows up in that
//! phase, and nowhere else.

use std::time::Duration;

use outrigger_core::telemetry::Phase;

use measure::Times;
use stage::{By, Stage};

mod classes;
mod ends;
mod measure;
mod phases;
mod split;
mod stage;
mod waits;

#[tokio::test]
async fn an_edge_tells_its_requests_and_their_phases_to_whoever_scrapes() {
    let stage = Stage::start().await;
    let delay = Duration::from_millis(20);
    stage.app.answering.set(delay);
    stage.caller(By::Shared).await.call("scraped").await;
    assert!(Times::of("scraped").await.get(Phase::App) >= delay);
    let labels = "destination=\"demo/price\",port=\"80\",rule=\"\",class=\"request\"";
    let app = format!("outrigger_edge_phase_seconds_total{{{labels},phase=\"app\"}}");
    assert!(stage.front.metric(&app) >= delay.as_secs_f64(), "{}", stage.front.metrics());
    let text = stage.front.metrics();
    for line in [
        "# TYPE outrigger_edge_duration_seconds histogram",
        "# UNIT outrigger_edge_phase_seconds seconds",
        &format!("outrigger_edge_duration_seconds_count{{{labels}}} 1"),
        &format!("outrigger_edge_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 1"),
        "outrigger_requests_total{direction=\"outbound\",status=\"2xx\",reason=\"\"} 1",
        "phase=\"unexplained\"}",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let edges = stage.front.telemetry.edges();
    assert_eq!((edges.len(), edges[0].requests, edges[0].failures, edges[0].total.count()), (1, 1, 0, 1));
}
