//! `hops --watch`: again and again, what happened since the last time.

use std::time::Duration;

use outrigger_proto::status::v1alpha1::HopsRequest;
use tokio::time::{Instant, sleep};

use super::people;
use crate::{
    args::Format,
    connect::ControlPlane,
    duration,
    failure::Failure,
    output::{Colour, Output, Screen},
    view::Hops,
};

/// How often the control plane is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Proxies report every two seconds: a shorter silence means nothing, and the last table stands.
const SILENCE: Duration = Duration::from_secs(5);

/// Shows the hops of `request` until the future is dropped.
///
/// # Errors
/// The control plane cannot be reached any more, refuses, or knows no such service.
pub(super) async fn run(
    control: &ControlPlane,
    output: &Output,
    mut request: HopsRequest,
) -> Result<(), Failure> {
    let mut screen = Screen::new(output);
    let mut since = Instant::now();
    request.since = control.hops(request.clone()).await?.cursor;
    if output.format() == Format::Table {
        screen.draw(&output.paint(Colour::Dim, "waiting for requests; Ctrl-C ends this"))?;
    }
    loop {
        sleep(INTERVAL).await;
        let asked = Instant::now();
        let Some(response) = control.hops_since(request.clone()).await? else {
            // Another run of the control plane, or it looked at many others meanwhile: what came between is lost.
            request.since = Vec::new();
            request.since = control.hops(request.clone()).await?.cursor;
            since = asked;
            continue;
        };
        let passed = asked - since;
        if response.hops.is_empty() && passed < SILENCE {
            continue;
        }
        let hops = Hops::new(&response).within(passed);
        match output.format() {
            Format::Table => screen.draw(&block(output, &hops, passed, request.slowest_ppm))?,
            Format::Json | Format::Yaml => output.document(&hops)?,
        }
        request.since = response.cursor;
        since = asked;
    }
}

fn block(output: &Output, hops: &Hops, passed: Duration, slowest_ppm: u32) -> String {
    let passed = duration::latency(Some(passed));
    if hops.hops.is_empty() {
        return output.paint(Colour::Dim, &format!("no request in the last {passed}"));
    }
    let table = people(output, &hops.hops, slowest_ppm);
    format!("{}\n\n{table}", output.paint(Colour::Dim, &format!("requests of the last {passed}")))
}
