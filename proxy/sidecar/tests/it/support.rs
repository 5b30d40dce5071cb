//! A pair of data paths in one process, configured from memory, with hand-written peers on both ends.

pub(crate) mod log;
pub(crate) mod raw;
pub(crate) mod streams;
pub(crate) mod strict;

use std::{net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use futures_util::future::select_all;
use outrigger_core::model::{
    AppProtocol, Endpoint, EndpointSet, ExternalTraffic, Health, ProxyConfig, Resilience, RouteRule, Service,
    ServiceName, ServicePort,
};
use outrigger_proxy::{
    data_path::{DataPath, DataPathHandles, DataPathSettings},
    endpoint::States,
    http::Limits,
    outbound::{Discover, DiscoverError, Resolving},
    settings,
    snapshot::{Builder, Handle},
    telemetry::Telemetry,
};
use outrigger_tls::{Identity, testing::Authority};
use prometheus_client::registry::Registry;
use raw::{Raw, Server};

pub(crate) const TRUST_DOMAIN: &str = "outrigger.local";

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: price\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Knows nothing beyond the snapshot.
#[derive(Debug)]
struct Nothing(DiscoverError);

impl Discover for Nothing {
    fn resolve<'a>(&'a self, _service: &'a ServiceName, _timeout: Duration) -> Resolving<'a> {
        Box::pin(async { Err(self.0) })
    }

    fn touch(&self, _service: &ServiceName) {}
}

/// One sidecar's data path.
pub(crate) struct Side {
    pub(crate) path: DataPath,
    pub(crate) snapshot: Handle,
    pub(crate) states: States,
    pub(crate) identity: Identity,
    pub(crate) telemetry: Telemetry,
    registry: Registry,
}

/// What may be different from the usual.
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) overload: settings::Overload,
    pub(crate) workers: u16,
    /// What the applications speak.
    pub(crate) protocol: settings::InboundProtocol,
    pub(crate) undiscovered: DiscoverError,
    /// Who is asked for what the snapshot does not hold; `None`: nobody knows anything.
    pub(crate) discover: Option<Arc<dyn Discover>>,
    /// `LISTEN=SERVICE[:PORT]` each.
    pub(crate) services: Vec<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            overload: settings::Overload::default(),
            workers: 1,
            protocol: settings::InboundProtocol::Detect,
            undiscovered: DiscoverError::NotFound,
            discover: None,
            services: Vec::new(),
        }
    }
}

impl Side {
    pub(crate) fn start(identity: Identity, apps: &[SocketAddr], options: &Options) -> Self {
        log::capture();
        let mut registry = Registry::default();
        let telemetry = Telemetry::new(&mut registry, Some(log::access()));
        let snapshot = Handle::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let inbound = apps
            .iter()
            .map(|app| settings::Inbound {
                name: None,
                listen: any,
                app: *app,
                protocol: options.protocol,
                advertise: None,
            })
            .collect();
        let settings = DataPathSettings {
            workers: NonZeroU16::new(options.workers).unwrap(),
            outbound: any,
            services: options.services.iter().map(|pair| pair.parse().unwrap()).collect(),
            inbound,
            limits: options.limits.clone(),
            overload: options.overload,
            never_dialled: Vec::new(),
        };
        let discover = options.discover.clone();
        let handles = DataPathHandles {
            identity: identity.clone(),
            snapshot: snapshot.clone(),
            discover: discover.unwrap_or_else(|| Arc::new(Nothing(options.undiscovered))),
            telemetry: telemetry.clone(),
        };
        let path = DataPath::start(&settings, handles).unwrap();
        Self { path, snapshot, states: States::default(), identity, telemetry, registry }
    }

    /// What holds for it where nothing else is said.
    fn config(&self) -> ProxyConfig {
        ProxyConfig {
            workload_id: self.identity.id().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            on_demand_timeout: Duration::from_secs(1),
            on_demand_idle: Duration::from_secs(60),
            external_traffic: ExternalTraffic::Deny,
            request_timeout: None,
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The exposition.
    pub(crate) fn metrics(&self) -> String {
        exposition(&self.registry)
    }

    /// Ends it in order, with all of its connections; the exposition of everything that it did.
    pub(crate) async fn ended(self) -> String {
        let Self { mut path, registry, .. } = self;
        assert_eq!(path.drain(Duration::from_secs(10)).await.cut, 0);
        exposition(&registry)
    }

    /// The value of the first metric whose line begins so; 0 if there is none.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics();
        let found = text.lines().find_map(|candidate| candidate.strip_prefix(line));
        found.map_or(0.0, |rest| rest.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

fn exposition(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// `front` calls `demo/price`, which listens behind a sidecar of its own.
pub(crate) struct Pair {
    pub(crate) authority: Authority,
    pub(crate) front: Side,
    pub(crate) price: Side,
    pub(crate) app: Server,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::with(&Options::default()).await
    }

    pub(crate) async fn with(options: &Options) -> Self {
        let app = Server::listen().await;
        let authority = Authority::new(TRUST_DOMAIN);
        let identity = |account| authority.identity(authority.workload("demo", account));
        let front = Side::start(identity("front"), &[], options);
        let price = Side::start(identity("price"), &[app.address()], options);
        let pair = Self { authority, front, price, app };
        pair.publish(1, pair.service(Vec::new()), &[pair.endpoint()]);
        pair
    }

    /// The one instance of `price`.
    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(self.price.path.inbound()[0], &self.authority, "price")
    }

    /// `demo/price`, port 80, with `rules`.
    pub(crate) fn service(&self, rules: Vec<RouteRule>) -> Service {
        service(rules)
    }

    /// Puts a configuration in force at `front`.
    pub(crate) fn publish(&self, generation: u64, service: Service, endpoints: &[Endpoint]) {
        self.publish_with(generation, service, endpoints, |_| {});
    }

    pub(crate) fn publish_with(
        &self,
        generation: u64,
        service: Service,
        endpoints: &[Endpoint],
        change: impl FnOnce(&mut ProxyConfig),
    ) {
        self.publish_set(generation, service, endpoint_set(endpoints), change);
    }

    pub(crate) fn publish_set(
        &self,
        generation: u64,
        service: Service,
        set: EndpointSet,
        change: impl FnOnce(&mut ProxyConfig),
    ) {
        let mut config = self.front.config();
        change(&mut config);
        let snapshot = Builder::new(&self.front.states)
            .config(Arc::new(config))
            .endpoint_set(Arc::from("demo/price:80"), Arc::new(set))
            .service(Arc::new(service))
            .build(generation);
        self.front.snapshot.publish(snapshot);
    }

    /// `demo/stock`, port 80, which `price` may call from now on: its sidecar, and its application.
    pub(crate) async fn stock(&self, options: &Options) -> (Side, Server) {
        let app = Server::listen().await;
        let identity = self.authority.identity(self.authority.workload("demo", "stock"));
        let stock = Side::start(identity, &[app.address()], options);
        let mut set = endpoint_set(&[endpoint(stock.path.inbound()[0], &self.authority, "stock")]);
        let mut service = service(Vec::new());
        service.name = "demo/stock".parse().unwrap();
        service.ports[0].endpoint_set = Arc::from("demo/stock:80");
        set.service = service.name.clone();
        let snapshot = Builder::new(&self.price.states)
            .config(Arc::new(self.price.config()))
            .endpoint_set(Arc::from("demo/stock:80"), Arc::new(set))
            .service(Arc::new(service))
            .build(1);
        self.price.snapshot.publish(snapshot);
        (stock, app)
    }

    /// A connection of the own workload to the forward proxy.
    pub(crate) async fn client(&self) -> Raw {
        Raw::connect(self.front.path.outbound()).await
    }

    /// A client, and the application that has the head of its `request`.
    pub(crate) async fn asked(&self, request: impl AsRef<[u8]>) -> (Raw, Raw) {
        let mut client = self.client().await;
        client.send(request).await;
        let mut app = self.app.accept().await;
        app.head().await;
        (client, app)
    }

    /// A client and an application whose connections have one whole exchange behind them.
    pub(crate) async fn acquainted(&self) -> (Raw, Raw) {
        let (mut client, mut app) = self.asked(GET).await;
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(client.exactly(2).await, b"ok");
        (client, app)
    }

    /// Waits until so much `time` has passed at `front`, as its own timers have it: a request that has no more is given up.
    pub(crate) async fn passed(&self, time: Duration) {
        let mut client = self.client().await;
        let timeout = time.as_millis();
        client
            .send(format!("GET /held HTTP/1.1\r\nhost: price\r\noutrigger-timeout: {timeout}ms\r\n\r\n"))
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    }

    /// A client that speaks HTTP/2.
    pub(crate) async fn streams(&self) -> streams::Client {
        streams::Client::connect(self.front.path.outbound()).await
    }

    /// The same, with frames written by hand.
    pub(crate) async fn frames(&self) -> streams::Frames {
        streams::Frames::client(self.front.path.outbound()).await
    }

    /// Puts the one instance of `price` in force at `front`, dealt with by `resilience`.
    pub(crate) fn resilient(&self, generation: u64, endpoints: &[Endpoint], resilience: Resilience) {
        let set = EndpointSet { resilience, ..endpoint_set(endpoints) };
        self.publish_set(generation, self.service(Vec::new()), set, |_| {});
    }

    /// The head of the next request at the application, on the connection that it has or on a new one, which is `app` then:
    /// one that was idle for a moment may not be used again, and one that was made for nothing may be used later.
    pub(crate) async fn next_head(&self, app: &mut Raw) -> String {
        let mut others: Vec<Raw> = Vec::new();
        loop {
            let all = std::iter::once(&mut *app).chain(&mut others).map(|raw| Box::pin(raw.try_head()));
            let found = tokio::select! {
                (head, at, _) = select_all(all) => Ok((head, at.checked_sub(1))),
                new = self.app.accept() => Err(new),
            };
            match found {
                Err(new) => others.push(new),
                Ok((Some(head), None)) => return head,
                Ok((Some(head), Some(at))) => {
                    *app = others.swap_remove(at);
                    return head;
                }
                Ok((None, Some(at))) => drop(others.swap_remove(at)),
                Ok((None, None)) => match others.pop() {
                    Some(other) => *app = other,
                    None => *app = self.app.accept().await,
                },
            }
        }
    }

    /// One whole exchange; returns what the application and what the client saw.
    pub(crate) async fn exchange(&self, client: &mut Raw, request: &str, response: &str) -> (String, String) {
        client.send(request).await;
        let mut app = self.app.accept().await;
        let seen = app.head().await;
        app.send(response).await;
        (seen, client.head().await)
    }
}

pub(crate) fn endpoint(address: SocketAddr, authority: &Authority, account: &str) -> Endpoint {
    Endpoint {
        address,
        identity: authority.workload_id("demo", account),
        weight: 1,
        health: Health::Healthy,
        workload: Arc::from("demo/price-1"),
    }
}

pub(crate) fn endpoint_set(endpoints: &[Endpoint]) -> EndpointSet {
    EndpointSet {
        service: "demo/price".parse().unwrap(),
        port: 80,
        endpoints: endpoints.to_vec(),
        panic: false,
        resilience: Default::default(),
    }
}

pub(crate) fn service(rules: Vec<RouteRule>) -> Service {
    Service {
        name: "demo/price".parse().unwrap(),
        ports: vec![ServicePort {
            port: 80,
            protocol: AppProtocol::Detect,
            name: None,
            endpoint_set: Arc::from("demo/price:80"),
            rules,
        }],
        warm_timeout: Duration::from_secs(1),
    }
}

/// The value of a header in a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
