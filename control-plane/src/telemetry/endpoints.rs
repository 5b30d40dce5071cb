//! How the proxies see the endpoints that they call: what each one told last, for as long as its stream is open.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_core::{
    model::{Name, ServiceName, SpiffeId},
    telemetry::{EndpointFigures, EndpointHealth},
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Endpoints kept of all proxies together; of one that finds no room for its own, the rest is only counted.
const MAX_KEPT: usize = 100_000;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Endpoints(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// By the number of the stream: of two of one proxy, the newer one counts.
    streams: BTreeMap<u64, Told>,
    opened: u64,
    kept: usize,
}

#[derive(Debug)]
struct Told {
    node_id: String,
    at: Instant,
    endpoints: Vec<EndpointFigures>,
    omitted: usize,
}

/// A proxy's stream; dropped, what it told is forgotten.
#[derive(Debug)]
pub struct Stream {
    all: Endpoints,
    source: SpiffeId,
    number: u64,
}

/// One service's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// By port, address and proxy.
    pub endpoints: Vec<View>,
    /// How many endpoints, of any service, were left out for want of room.
    pub omitted: usize,
}

/// One endpoint as one proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The node id of whoever sees it so.
    pub proxy: String,
    /// How long ago it said so.
    pub age: Duration,
    /// How it is; an ejection ends so long from now.
    pub figures: EndpointFigures,
}

impl Endpoints {
    /// A proxy of `source` opened its stream.
    pub fn open(&self, source: SpiffeId) -> Stream {
        let mut inner = self.0.lock();
        inner.opened += 1;
        Stream { all: self.clone(), source, number: inner.opened }
    }

    /// How the endpoints of `service` are seen at `now`.
    pub fn of(&self, service: &ServiceName, now: Instant) -> Seen {
        let inner = self.0.lock();
        let newest: BTreeMap<&str, &Told> =
            inner.streams.values().map(|told| (told.node_id.as_str(), told)).collect();
        let mut seen = Seen::default();
        for (node_id, told) in newest {
            let age = now.saturating_duration_since(told.at);
            let wanted = told.endpoints.iter().filter(|endpoint| endpoint.service == *service);
            seen.endpoints.extend(wanted.map(|endpoint| View {
                proxy: node_id.to_owned(),
                age,
                figures: aged(endpoint, age),
            }));
            seen.omitted += told.omitted;
        }
        drop(inner);
        seen.endpoints.sort_by(|one, other| {
            let place = |of: &View| (of.figures.port, of.figures.address);
            (place(one), &one.proxy).cmp(&(place(other), &other.proxy))
        });
        seen
    }
}

/// As it is so long after it was told.
fn aged(endpoint: &EndpointFigures, age: Duration) -> EndpointFigures {
    let mut endpoint = endpoint.clone();
    if let EndpointHealth::Ejected { until, .. } = &mut endpoint.health {
        *until = until.saturating_sub(age);
    }
    endpoint
}

impl Stream {
    /// Whose it is, as proven.
    pub fn source(&self) -> &SpiffeId {
        &self.source
    }

    /// All that its proxy, `instance`, has to tell now; it had `omitted` more.
    pub fn replace(
        &self,
        instance: &Name,
        mut endpoints: Vec<EndpointFigures>,
        omitted: usize,
        now: Instant,
    ) {
        let mut inner = self.all.0.lock();
        inner.forget(self.number);
        let room = MAX_KEPT.saturating_sub(inner.kept);
        let omitted = omitted.saturating_add(endpoints.len().saturating_sub(room));
        endpoints.truncate(room);
        inner.kept += endpoints.len();
        let node_id = format!("{}#{instance}", self.source);
        inner.streams.insert(self.number, Told { node_id, at: now, endpoints, omitted });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.all.0.lock().forget(self.number);
    }
}

impl Inner {
    fn forget(&mut self, number: u64) {
        if let Some(told) = self.streams.remove(&number) {
            self.kept = self.kept.saturating_sub(told.endpoints.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(account: &str) -> SpiffeId {
        format!("spiffe://outrigger.local/ns/demo/sa/{account}").parse().unwrap()
    }

    fn endpoint(service: &str, port: u16) -> EndpointFigures {
        EndpointFigures {
            service: service.parse().unwrap(),
            port: 80,
            address: ([192, 0, 2, 7], port).into(),
            workload: "demo/price-1".into(),
            in_flight: 1,
            latency: None,
            connections: 1,
            health: EndpointHealth::Healthy,
        }
    }

    fn ports(endpoints: &Endpoints, service: &str) -> Vec<(String, u16)> {
        let seen = endpoints.of(&service.parse().unwrap(), Instant::now());
        let name = |id: String| id.rsplit('/').next().unwrap_or_default().to_owned();
        seen.endpoints.into_iter().map(|view| (name(view.proxy), view.figures.address.port())).collect()
    }

    fn instance(name: &str) -> Name {
        name.parse().unwrap()
    }

    #[test]
    fn each_proxy_has_its_own_view_until_its_stream_ends() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let front = endpoints.open(source("front"));
        let till = endpoints.open(source("till"));
        front.replace(&instance("f-1"), vec![endpoint("demo/price", 2), endpoint("demo/stock", 3)], 0, now);
        till.replace(&instance("t-1"), vec![endpoint("demo/price", 1), endpoint("demo/price", 2)], 0, now);
        let of = |name: &str, port| (name.to_owned(), port);
        assert_eq!(
            ports(&endpoints, "demo/price"),
            [of("till#t-1", 1), of("front#f-1", 2), of("till#t-1", 2)]
        );
        front.replace(&instance("f-1"), vec![endpoint("demo/stock", 3)], 0, now);
        assert_eq!(ports(&endpoints, "demo/price"), [of("till#t-1", 1), of("till#t-1", 2)]);
        drop(till);
        assert_eq!(ports(&endpoints, "demo/price"), []);
        drop(front);
        let inner = endpoints.0.lock();
        assert_eq!((inner.kept, inner.streams.len()), (0, 0));
    }

    #[test]
    fn a_proxy_that_came_back_counts_once_and_its_old_stream_takes_nothing_along() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let old = endpoints.open(source("front"));
        old.replace(&instance("f-1"), vec![endpoint("demo/price", 1)], 0, now);
        let new = endpoints.open(source("front"));
        new.replace(&instance("f-1"), vec![endpoint("demo/price", 2)], 0, now);
        let only = [("front#f-1".to_owned(), 2)];
        assert_eq!(ports(&endpoints, "demo/price"), only);
        drop(old);
        assert_eq!(ports(&endpoints, "demo/price"), only);
    }

    #[test]
    fn an_ejection_comes_nearer_its_end_while_nobody_tells() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let ejected = |millis| EndpointHealth::Ejected {
            reason: "consecutive_failures".into(),
            until: Duration::from_millis(millis),
            times: 1,
        };
        let front = endpoints.open(source("front"));
        let told = EndpointFigures { health: ejected(900), ..endpoint("demo/price", 1) };
        front.replace(&instance("f-1"), vec![told], 0, now);
        for (passed, left) in [(0, 900), (400, 500), (2000, 0)] {
            let seen = endpoints.of(&"demo/price".parse().unwrap(), now + Duration::from_millis(passed));
            assert_eq!(seen.endpoints[0].figures.health, ejected(left));
            assert_eq!(seen.endpoints[0].age, Duration::from_millis(passed));
        }
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let full: Vec<_> = (1..=1000).map(|port| endpoint("demo/price", port)).collect();
        let streams: Vec<_> = (0..=MAX_KEPT / 1000).map(|_| endpoints.open(source("front"))).collect();
        for (number, stream) in streams.iter().enumerate() {
            stream.replace(&instance(&format!("f-{number}")), full.clone(), 2, now);
        }
        let seen = endpoints.of(&"demo/price".parse().unwrap(), now);
        assert_eq!((seen.endpoints.len(), seen.omitted), (MAX_KEPT, 2 * streams.len() + 1000));
        drop(streams);
        assert_eq!(endpoints.0.lock().kept, 0);
    }
}
