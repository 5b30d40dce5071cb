//! Warming, and what counts as applied.

use std::time::Duration;

use outrigger_core::model::{AppProtocol, ServicePort};

use super::*;

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn service(text: &str, sets: &[&str]) -> Service {
    let ports = (80..).zip(sets).map(|(port, set)| ServicePort {
        port,
        protocol: AppProtocol::Http1,
        name: None,
        endpoint_set: Arc::from(*set),
        rules: Vec::new(),
    });
    Service { name: name(text), ports: ports.collect(), warm_timeout: Duration::from_secs(5) }
}

fn set(text: &str) -> EndpointSet {
    EndpointSet {
        service: name(text),
        port: 80,
        endpoints: Vec::new(),
        panic: false,
        resilience: Default::default(),
    }
}

struct Test {
    catalog: Catalog,
    now: Instant,
    generation: u64,
}

impl Test {
    fn new() -> Self {
        Self { catalog: Catalog::default(), now: Instant::now(), generation: 0 }
    }

    /// As the task does after each event: settle, reconcile, publish.
    fn turn(&mut self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        self.catalog.settle(self.now);
        let sets = self.catalog.reconcile_sets();
        self.generation += u64::from(self.catalog.take_changed());
        self.catalog.published();
        sets
    }

    fn visible(&self) -> Vec<String> {
        let snapshot = self.catalog.snapshot(&States::default(), self.generation);
        let mut names: Vec<_> = snapshot.services.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn service(&mut self, service: Service, nonce: &str) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        self.catalog.put_service(service, self.now);
        self.catalog.received(type_url::SERVICE, nonce.to_owned());
        self.turn()
    }

    fn set(&mut self, name: &str, nonce: &str) {
        self.catalog.put_endpoint_set(name, set("demo/price"));
        self.catalog.received(type_url::ENDPOINT_SET, nonce.to_owned());
        self.turn();
    }

    fn applied(&self) -> Vec<String> {
        self.catalog.applied().into_values().collect()
    }
}

#[test]
fn a_service_is_visible_when_its_endpoint_sets_are_there() {
    let mut test = Test::new();
    assert!(test.catalog.want(&name("demo/price")));
    assert!(!test.catalog.want(&name("demo/price")));
    let (wanted, _) = test.service(service("demo/price", &["one", "two"]), "1-1");
    assert_eq!(wanted, [Arc::from("one"), Arc::from("two")]);
    test.set("one", "1-2");
    assert!(test.visible().is_empty());
    assert_eq!(test.catalog.pending()[0].cause, "waiting for EndpointSet two");
    test.set("two", "1-3");
    assert_eq!(test.visible(), ["demo/price"]);
    assert!(test.catalog.pending().is_empty());
    assert_eq!(test.catalog.answer(&name("demo/price")), Some(Answer::Visible));
}

#[test]
fn an_endpoint_set_that_does_not_exist_is_not_waited_for() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    test.catalog.remove_endpoint_set("one");
    test.turn();
    assert_eq!(test.visible(), ["demo/price"]);
}

#[test]
fn a_service_is_visible_at_the_warm_timeout_at_the_latest() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    assert_eq!(test.catalog.deadline(), Some(test.now + Duration::from_secs(5)));
    test.now += Duration::from_secs(5);
    test.turn();
    assert_eq!(test.visible(), ["demo/price"]);
    assert_eq!(test.catalog.deadline(), None);
    // The set still counts when it comes.
    let before = test.generation;
    test.set("one", "1-2");
    assert_eq!(test.generation, before + 1);
}

#[test]
fn the_old_version_stays_visible_while_the_new_one_warms() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    test.set("one", "1-2");
    let (added, dropped) = test.service(service("demo/price", &["two"]), "1-3");
    assert_eq!((added, dropped), (vec![Arc::from("two")], Vec::new()));
    let ports = |test: &Test| {
        let snapshot = test.catalog.snapshot(&States::default(), 0);
        snapshot.services[&name("demo/price")].service.ports[0].endpoint_set.to_string()
    };
    assert_eq!(ports(&test), "one");
    test.catalog.put_endpoint_set("two", set("demo/price"));
    let (_, dropped) = test.turn();
    assert_eq!(ports(&test), "two");
    assert_eq!(dropped, [Arc::from("one")]);
}

#[test]
fn a_response_is_applied_when_all_of_it_is_in_the_snapshot() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.catalog.want(&name("demo/front"));
    test.service(service("demo/price", &["one"]), "1-1");
    assert!(test.applied().is_empty(), "received is not applied");
    test.service(service("demo/front", &[]), "1-2");
    assert!(test.applied().is_empty(), "nor is what comes after something that is not");
    test.set("one", "1-3");
    assert_eq!(test.applied(), ["1-3", "1-2"]);
}

#[test]
fn after_a_reconnect_what_is_still_warming_holds_back_an_empty_response() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    test.catalog.forget_nonces();
    test.catalog.received(type_url::SERVICE, "2-1".to_owned());
    test.turn();
    assert!(test.applied().is_empty());
    test.set("one", "2-2");
    assert_eq!(test.applied(), ["2-2", "2-1"]);
}

#[test]
fn a_removed_service_is_absent_and_its_sets_are_given_up() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    test.set("one", "1-2");
    test.catalog.remove_service(&name("demo/price"));
    let (_, dropped) = test.turn();
    assert_eq!(dropped, [Arc::from("one")]);
    assert_eq!(test.catalog.answer(&name("demo/price")), Some(Answer::Absent));
    assert!(test.visible().is_empty());
    // It springs into existence later.
    test.service(service("demo/price", &[]), "1-3");
    assert_eq!(test.visible(), ["demo/price"]);
}

#[test]
fn a_late_answer_for_a_name_given_up_is_ignored() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.catalog.give_up(&name("demo/price"));
    let (wanted, _) = test.service(service("demo/price", &["one"]), "1-1");
    assert!(wanted.is_empty());
    assert_eq!(test.applied(), ["1-1"]);
}

#[test]
fn a_cause_names_one_endpoint_set_and_counts_the_others() {
    let mut test = Test::new();
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one", "three", "two"]), "1-1");
    assert_eq!(test.catalog.pending()[0].cause, "waiting for EndpointSet one and 2 more");
}
