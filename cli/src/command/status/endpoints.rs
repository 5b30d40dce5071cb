//! `status SERVICE`: each endpoint as each proxy sees it that calls it.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    duration,
    output::{Colour, Output},
    view::{self, Endpoint, Endpoints, Health},
};

/// The table of one service's endpoints, with their totals above it.
pub(super) fn people(output: &Output, endpoints: &Endpoints) -> String {
    let all = &endpoints.endpoints;
    if all.is_empty() {
        let text = format!("no proxy has anything to tell of the endpoints of {}", endpoints.service);
        return [output.paint(Colour::Dim, &text), omitted(endpoints)].concat();
    }
    let rows = all
        .iter()
        .map(|endpoint| {
            vec![
                endpoint.address.clone(),
                endpoint.port.to_string(),
                endpoint.workload.clone(),
                view::node(&endpoint.proxy),
                told(endpoint.age),
                health(&endpoint.health),
                endpoint.in_flight.to_string(),
                milliseconds(endpoint.latency),
                endpoint.connections.to_string(),
            ]
        })
        .collect();
    let header =
        ["ENDPOINT", "PORT", "WORKLOAD", "SEEN BY", "TOLD", "HEALTH", "IN FLIGHT", "LATENCY", "CONNECTIONS"];
    let table = output.table(&header, rows, &[1, 6, 7, 8]);
    format!("{}\n\n{table}{}", totals(endpoints), omitted(endpoints))
}

/// `demo/price: 3 endpoints as 2 proxies see them, 1 of 6 views not healthy; 5 requests in flight, 7 connections`
fn totals(endpoints: &Endpoints) -> String {
    let all = &endpoints.endpoints;
    let places: BTreeSet<_> = all.iter().map(|endpoint| (endpoint.port, &endpoint.address)).collect();
    let proxies: BTreeSet<_> = all.iter().map(|endpoint| &endpoint.proxy).collect();
    let sick = all.iter().filter(|endpoint| !matches!(endpoint.health, Health::Healthy)).count();
    let sick = if sick > 0 { format!(", {sick} of {} views not healthy", all.len()) } else { String::new() };
    let sum = |figure: fn(&Endpoint) -> u64| -> u64 { all.iter().map(figure).sum() };
    format!(
        "{}: {} as {} them{sick}; {} in flight, {}",
        endpoints.service,
        count(places.len() as u64, "endpoint"),
        if proxies.len() == 1 { "1 proxy sees".to_owned() } else { format!("{} proxies see", proxies.len()) },
        count(sum(|endpoint| endpoint.in_flight), "request"),
        count(sum(|endpoint| endpoint.connections), "connection"),
    )
}

fn count(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

fn omitted(endpoints: &Endpoints) -> String {
    match endpoints.omitted {
        0 => String::new(),
        more => format!("\n{more} endpoints, of this or other services, are left out for want of room"),
    }
}

/// `ejected for consecutive failures, 24s left, 2 times in a row`
fn health(health: &Health) -> String {
    match health {
        Health::Healthy => "healthy".to_owned(),
        Health::Probing => "probing".to_owned(),
        Health::Unknown => "unknown".to_owned(),
        Health::Ejected { reason, milliseconds_left, times } => {
            let left = Duration::try_from_secs_f64(milliseconds_left / 1e3).unwrap_or_default();
            let left = if left.as_secs() > 0 { duration::span(left) } else { duration::latency(Some(left)) };
            let times = if *times > 1 { format!(", {times} times in a row") } else { String::new() };
            format!("ejected for {}, {left} left{times}", reason.replace('_', " "))
        }
    }
}

/// `3s ago`
fn told(age: Option<f64>) -> String {
    let age = age.and_then(|age| Duration::try_from_secs_f64(age / 1e3).ok());
    age.map_or_else(|| "-".to_owned(), |age| format!("{} ago", duration::span(age)))
}

fn milliseconds(time: Option<f64>) -> String {
    duration::latency(time.and_then(|time| Duration::try_from_secs_f64(time / 1e3).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, health: Health) -> Endpoint {
        Endpoint {
            proxy: "spiffe://outrigger.local/ns/demo/sa/front#front-1".to_owned(),
            age: Some(3_400.0),
            port: 80,
            address: address.to_owned(),
            workload: "demo/price-1".to_owned(),
            in_flight: 1,
            latency: Some(1.31),
            connections: 2,
            health,
        }
    }

    fn endpoints(endpoints: Vec<Endpoint>) -> Endpoints {
        Endpoints { service: "demo/price".to_owned(), endpoints, omitted: 0 }
    }

    #[test]
    fn an_ejection_says_why_and_for_how_long() {
        let ejected = |times| {
            health(&Health::Ejected {
                reason: "consecutive_failures".to_owned(),
                milliseconds_left: 24_000.0,
                times,
            })
        };
        assert_eq!(ejected(1), "ejected for consecutive failures, 24s left");
        assert_eq!(ejected(3), "ejected for consecutive failures, 24s left, 3 times in a row");
    }

    #[test]
    fn the_totals_count_each_endpoint_once_and_each_view() {
        let mut other = endpoint("10.0.0.1:80", Health::Probing);
        other.proxy.push('2');
        let all = endpoints(vec![endpoint("10.0.0.1:80", Health::Healthy), other]);
        assert_eq!(
            totals(&all),
            "demo/price: 1 endpoint as 2 proxies see them, 1 of 2 views not healthy; 2 requests in flight, 4 connections"
        );
    }

    #[test]
    fn what_was_left_out_is_said() {
        let mut none = endpoints(Vec::new());
        none.omitted = 3;
        assert!(
            people(&Output::plain(), &none)
                .ends_with("\n3 endpoints, of this or other services, are left out for want of room")
        );
    }
}
