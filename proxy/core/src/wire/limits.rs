//! The bounds that the operator's API and the resources share, and the checks that apply them.

use std::time::Duration;

use super::Findings;
use crate::model::Name;

/// Ports of a service.
pub(super) const MAX_PORTS: usize = 32;
/// Backends of a rule.
pub(super) const MAX_BACKENDS: usize = 16;
/// Weight of a backend.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;
/// Less than one round trip on a machine would refuse every connection.
pub(super) const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(1);
/// Less would refuse every first request.
pub(super) const MIN_DISCOVERY_TIMEOUT: Duration = Duration::from_millis(10);
/// Nobody waits longer for a connection, a name or an endpoint set.
pub(super) const MAX_SETUP_TIMEOUT: Duration = Duration::from_secs(60);
/// What may take longer has no timeout.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A timeout that there need not be: zero, or 1 ms to 24 h.
pub(super) fn timeout(
    findings: &mut Findings,
    field: &str,
    value: Option<&prost_types::Duration>,
) -> Option<Duration> {
    let timeout = findings.duration(field, value, Duration::ZERO, MAX_TIMEOUT)?;
    if timeout.is_zero() || timeout >= Duration::from_millis(1) {
        return Some(timeout);
    }
    let remedy = "write 0s for none, or at least 1ms";
    findings.error(field, "out_of_range", format!("{} is too short", describe(timeout)), remedy);
    None
}

/// The name of a domain: DNS labels and dots, at most 253 bytes, without the final dot.
pub(super) fn domain(findings: &mut Findings, field: &str, value: &str) -> Option<String> {
    if value.is_empty() {
        return findings.required(field, None);
    }
    if value.len() <= 253 && value.split('.').all(|label| label.parse::<Name>().is_ok()) {
        return Some(value.to_owned());
    }
    let message = format!("'{}' is not the name of a domain", super::matches::cut(value));
    let remedy = "write lower-case labels with dots between them, such as cluster.local";
    findings.error(field, "invalid_name", message, remedy);
    None
}

/// A duration that an operator can write: the finest unit of GEP-2257 is the millisecond.
pub(super) fn whole_milliseconds(findings: &mut Findings, field: &str, value: Option<Duration>) {
    if let Some(value) = value
        && !value.subsec_nanos().is_multiple_of(1_000_000)
    {
        let message = format!("{} is not a whole number of milliseconds", describe(value));
        findings.error(field, "invalid_duration", message, "write it in ms, s, m or h");
    }
}

/// A duration as an operator would write it, if one can.
pub(super) fn describe(duration: Duration) -> String {
    if duration.subsec_nanos().is_multiple_of(1_000_000) {
        crate::policy::duration::format(duration)
    } else {
        format!("{duration:?}")
    }
}
