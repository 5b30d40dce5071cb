//! `status`: which proxy runs which revision, what it waits for, and what it rejected; of a service, how its endpoints
//! are.

mod endpoints;

use std::time::SystemTime;

use outrigger_proto::status::v1alpha1::ListProxiesResponse;

use crate::{
    args::{Global, StatusArgs},
    connect::ControlPlane,
    duration,
    failure::Failure,
    output::{Colour, Output},
    view::{self, Endpoints, Proxy, Status},
};

/// Shows every proxy, or every endpoint of one service.
pub(crate) async fn run(global: &Global, output: &Output, args: StatusArgs) -> Result<(), Failure> {
    let control = ControlPlane::new(global)?;
    if let Some(service) = args.service {
        let response = control.endpoints(&service).await?;
        let endpoints = Endpoints::new(service, response);
        return output.result(&endpoints, || endpoints::people(output, &endpoints));
    }
    let response = control.proxies().await?;
    let status = Status::new(&response);
    output.result(&status, || people(output, &status, &response))
}

/// The table of all proxies, and below it everything that is not as it should be.
pub(crate) fn people(output: &Output, status: &Status, response: &ListProxiesResponse) -> String {
    let now = SystemTime::now();
    let expiry = |node_id: &str| {
        let state = response.proxies.iter().find(|state| state.node_id == node_id);
        duration::until(state.and_then(|state| view::instant(state.svid_not_after.as_ref())), now)
    };
    let rows = status
        .proxies
        .iter()
        .map(|proxy| {
            vec![
                view::node(&proxy.node_id),
                proxy.version.clone(),
                if proxy.connected { "yes" } else { "no" }.to_owned(),
                applied(proxy),
                proxy.pending.len().to_string(),
                proxy.rejections.len().to_string(),
                expiry(&proxy.node_id),
            ]
        })
        .collect();
    let current = status.proxies.iter().filter(|proxy| proxy.is_current()).count();
    let mut lines = vec![format!(
        "revision {}: {current} of {} proxies are current",
        status.revision,
        status.proxies.len()
    )];
    if !status.proxies.is_empty() {
        lines.push(String::new());
        lines.push(output.table(
            &["PROXY", "VERSION", "CONNECTED", "APPLIED", "PENDING", "REJECTED", "CERTIFICATE EXPIRES"],
            rows,
            &[3, 4, 5],
        ));
    }
    for proxy in &status.proxies {
        let name = view::node(&proxy.node_id);
        if let Some(kept) = &proxy.last_known_good {
            lines.push(output.paint(Colour::Yellow, &format!("{name}: {}", kept.sentence())));
        } else if !proxy.connected {
            let text = format!("{name}: is not connected, and runs on what it applied last");
            lines.push(output.paint(Colour::Yellow, &text));
        }
        for pending in &proxy.pending {
            lines.push(format!("{name}: {} is pending: {}", pending.resource, pending.cause));
        }
        for rejection in &proxy.rejections {
            let text = format!("{name}: rejected {}", rejection.sentence());
            lines.push(output.paint(Colour::Yellow, &text));
        }
    }
    lines.join("\n")
}

/// The revision that it runs, and the one that it should, while that is a newer one.
fn applied(proxy: &Proxy) -> String {
    match (proxy.applied_revision, proxy.target_revision) {
        (applied, target) if applied >= target => applied.to_string(),
        (applied, target) => format!("{applied} of {target}"),
    }
}
