//! Where the time went along the chain, and what its slowest 1 % were made of.

use std::time::Duration;

use outrigger_proto::status::v1alpha1::HopsRequest;
use tokio::time::{Instant, sleep};

use crate::{
    command::hops,
    demo::{
        app::SLOW,
        mesh::{Mesh, NAMESPACE},
        stage::Judged,
    },
    duration::latency,
    failure::Failure,
    output::Output,
    view::{Hop, Hops},
};

/// How long the hop table may lag behind the traffic.
const TELEMETRY: Duration = Duration::from_secs(15);
/// How often it is looked at until then.
const POLL: Duration = Duration::from_millis(250);
/// The share that a hop table takes apart: the slowest 1 %.
const SLOWEST_PPM: u32 = 10_000;

/// The hops of the chain.
#[derive(Debug)]
pub(crate) struct Table {
    hops: Vec<Hop>,
}

impl Table {
    /// Waits until the table has all of `delivered` requests at each hop, as long as it may lag.
    pub(crate) async fn complete(mesh: &Mesh, delivered: u64) -> Result<Self, Failure> {
        let deadline = Instant::now() + TELEMETRY;
        loop {
            let (table, _) = Self::since(mesh, Vec::new()).await?;
            let counted = table.requests("cart").min(table.requests("price"));
            if counted > delivered || Instant::now() > deadline {
                return Ok(table);
            }
            sleep(POLL).await;
        }
    }

    /// The hops since `cursor`, and the cursor after them.
    pub(crate) async fn since(mesh: &Mesh, cursor: Vec<u8>) -> Result<(Self, Vec<u8>), Failure> {
        let service = format!("{NAMESPACE}/cart");
        let request = HopsRequest { service, slowest_ppm: SLOWEST_PPM, since: cursor };
        let response = mesh.control_plane.hops(request).await?;
        Ok((Self { hops: Hops::new(&response).hops }, response.cursor))
    }

    /// As `outrigger hops` shows it.
    pub(crate) fn people(&self, output: &Output) -> String {
        hops::people(output, &self.hops, SLOWEST_PPM)
    }

    /// The hops to a service, or to its versions.
    fn to<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Hop> {
        self.hops.iter().filter(move |hop| {
            let name = hop.destination.strip_prefix(NAMESPACE).and_then(|name| name.strip_prefix('/'));
            name.is_some_and(|name| name.starts_with(service))
        })
    }

    fn requests(&self, service: &str) -> u64 {
        self.to(service).map(|hop| hop.requests).sum()
    }

    /// The promises, of `delivered` requests and of at most `warm` ones before them, of which one had an answer.
    pub(crate) fn judge(&self, delivered: u64, warm: u64) -> Vec<Judged> {
        vec![
            ("hops: every request is counted, at cart and at price".to_owned(), self.counts(delivered, warm)),
            ("hops: the phases add up to the whole".to_owned(), self.adds_up()),
            (
                "hops: the slowest 1 % of price-v2 are slow where that was put, in the app".to_owned(),
                self.slow_app(),
            ),
            ("hops: the slowest 1 % of cart are explained: it waited for price".to_owned(), self.slow_wait()),
        ]
    }

    fn counts(&self, delivered: u64, warm: u64) -> Result<String, String> {
        let (cart, price) = (self.requests("cart"), self.requests("price"));
        let failed: u64 = self.hops.iter().map(|hop| hop.failures).sum();
        let expected = delivered + 1..=delivered + warm;
        let seen = format!("{cart} and {price}, {failed} failed");
        // Those before the load may have met a proxy that knew nothing yet.
        if expected.contains(&cart) && expected.contains(&price) && failed < 2 * warm {
            Ok(seen)
        } else {
            Err(format!("{seen}; {delivered} were delivered"))
        }
    }

    fn adds_up(&self) -> Result<String, String> {
        let shares = self.hops.iter().map(|hop| hop.mean.unexplained / hop.mean.total.max(0.001));
        let most = shares.fold(0.0, f64::max);
        let seen = format!("at most {:.1} % is unexplained", most * 100.0);
        if most <= 0.05 && !self.hops.is_empty() { Ok(seen) } else { Err(seen) }
    }

    /// Some answers of v2 are slow: the slowest 1 % are of that kind, but for what the machine held up for longer.
    fn slow_app(&self) -> Result<String, String> {
        let hop = self.to("price-v2").next().ok_or("there is no hop to price-v2")?;
        let (total, app) = (hop.slowest.total, hop.slowest.phase("app"));
        let seen = format!("{} of {}", milliseconds(app), milliseconds(total));
        let largest = hop.slowest.phases.iter().all(|(_, time)| *time <= app);
        if largest && app >= SLOW.as_secs_f64() * 1e3 * 0.95 { Ok(seen) } else { Err(seen) }
    }

    /// The largest part of what a slow answer of `cart` took, it waited for its own call.
    fn slow_wait(&self) -> Result<String, String> {
        let hop = self.to("cart").next().ok_or("there is no hop to cart")?;
        let (total, waited) = (hop.slowest.total, hop.slowest.app.waiting);
        let seen = format!("{} of {}", milliseconds(waited), milliseconds(total));
        let largest = hop.slowest.parts().iter().all(|(_, time)| *time <= waited);
        if largest && waited > 0.0 { Ok(seen) } else { Err(seen) }
    }
}

fn milliseconds(time: f64) -> String {
    latency(Duration::try_from_secs_f64(time / 1e3).ok())
}

#[cfg(test)]
mod tests {
    use super::{Hop, Table};
    use crate::view::{Makeup, hops::App};

    fn table(destination: &str, app: f64, network: f64, waiting: f64) -> Table {
        let makeup = Makeup {
            requests: 1,
            total: app + network,
            phases: vec![("app".to_owned(), app), ("network".to_owned(), network)],
            app: App { requests: 1, own: app - waiting, waiting },
            unexplained: 0.0,
        };
        let hop = Hop {
            source: String::new(),
            destination: destination.to_owned(),
            port: 80,
            rule: String::new(),
            class: "request",
            depth: 0,
            requests: 10,
            failures: 0,
            p50: 1.0,
            p99: 1.0,
            mean: makeup.clone(),
            slowest: makeup,
        };
        Table { hops: vec![hop] }
    }

    #[test]
    fn a_tail_must_be_charged_to_the_app_that_caused_it() {
        let slow = |app, network| table("demo/price-v2", app, network, 0.0).slow_app();
        assert!(slow(150.2, 0.3).is_ok());
        assert!(slow(1.0, 150.0).is_err(), "charged elsewhere");
        assert!(slow(75.0, 75.0).is_err(), "half of it is charged elsewhere");
        assert!(slow(160.0, 170.0).is_err(), "most of it is something else");
        assert!(table("demo/price-v1", 150.0, 0.0, 0.0).slow_app().is_err(), "there is no such hop");
    }

    #[test]
    fn a_tail_of_cart_must_be_what_it_waited_for() {
        assert!(table("demo/cart", 100.0, 1.0, 98.0).slow_wait().is_ok());
        assert!(table("demo/cart", 100.0, 1.0, 2.0).slow_wait().is_err());
    }

    #[test]
    fn every_request_must_be_counted_at_both_hops() {
        let mut both = table("demo/cart", 1.0, 0.1, 0.0);
        assert!(both.counts(9, 1).is_err(), "nothing at price");
        both.hops.extend(table("demo/price-v1", 1.0, 0.1, 0.0).hops);
        assert!(both.counts(9, 1).is_ok());
        assert!(both.counts(8, 1).is_err() && both.counts(10, 1).is_err());
    }
}
