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

/// With the debug form as its bytes: good enough to tell one from another.
fn held<T: std::fmt::Debug>(value: T) -> Held<T> {
    let content = format!("{value:?}").into_bytes();
    let raw = Raw { version: "1".into(), content: content.into() };
    Held::new(value, raw)
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
        self.catalog.put_service(held(service), self.now);
        self.catalog.received(type_url::SERVICE, nonce.to_owned(), 1);
        self.turn()
    }

    fn set(&mut self, name: &str, nonce: &str) {
        self.catalog.put_endpoint_set(name, held(set("demo/price")));
        self.catalog.received(type_url::ENDPOINT_SET, nonce.to_owned(), 1);
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
    test.catalog.put_endpoint_set("two", held(set("demo/price")));
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
    test.catalog.received(type_url::SERVICE, "2-1".to_owned(), 1);
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

fn raw(version: &str) -> Raw {
    Raw { version: version.into(), content: bytes::Bytes::from_static(b"content") }
}

fn config() -> ProxyConfig {
    ProxyConfig {
        workload_id: "spiffe://outrigger.local/ns/demo/sa/front".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        on_demand_timeout: Duration::from_secs(1),
        on_demand_idle: Duration::from_secs(60),
        external_traffic: outrigger_core::model::ExternalTraffic::Deny,
        request_timeout: None,
        connect_timeout: Duration::from_secs(1),
    }
}

impl Test {
    /// With an own side and somebody to trust.
    fn configured() -> Self {
        let mut test = Self::new();
        test.catalog.put_config(Held::new(config(), raw("c")));
        test.catalog.put_bundle("outrigger.local".to_owned(), raw("b"));
        test
    }

    /// Names of services and endpoint sets that would be kept, and of services that do not exist.
    fn kept(&self) -> (Vec<String>, Vec<String>) {
        let names: Vec<_> = self.catalog.names().cloned().collect();
        let contents = self.catalog.contents(&names).unwrap();
        let others = contents.items.iter().skip(2).map(|item| item.name.to_string()).collect();
        (others, contents.absent.iter().map(ToString::to_string).collect())
    }
}

#[test]
fn what_is_visible_is_kept_and_its_successor_is_not_before_it_is() {
    let mut test = Test::configured();
    assert!(Catalog::default().contents(&[]).is_none(), "without an own side there is nothing worth it");
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    assert_eq!(test.kept(), (vec![], vec![]));
    test.set("one", "1-2");
    assert_eq!(test.kept().0, ["demo/price", "one"]);
    test.service(service("demo/price", &["two"]), "1-3");
    let names = [name("demo/price")];
    let version = |test: &Test| {
        let contents = test.catalog.contents(&names).unwrap();
        String::from_utf8(contents.items[2].raw.content.to_vec()).unwrap()
    };
    assert!(version(&test).contains("one"));
    test.set("two", "1-4");
    assert!(version(&test).contains("two"));
    assert_eq!(test.kept().0, ["demo/price", "two"]);
}

#[test]
fn what_is_kept_changes_with_what_is_visible_and_with_what_does_not_exist() {
    let mut test = Test::configured();
    assert!(test.catalog.take_unkept());
    assert!(!test.catalog.take_unkept());
    test.catalog.want(&name("demo/nobody"));
    assert!(!test.catalog.take_unkept());
    test.catalog.remove_service(&name("demo/nobody"));
    assert!(test.catalog.take_unkept());
    test.catalog.remove_service(&name("demo/nobody"));
    assert!(!test.catalog.take_unkept(), "again says nothing new");
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    assert!(!test.catalog.take_unkept(), "it is warming");
    test.set("one", "1-2");
    assert!(test.catalog.take_unkept());
    test.catalog.give_up(&name("demo/price"));
    assert!(test.catalog.take_unkept());
}

#[test]
fn a_thousand_names_are_kept_those_that_exist_first() {
    let mut test = Test::configured();
    for number in 0..600 {
        for kind in ["a", "s"] {
            test.catalog.want(&name(&format!("demo/{kind}{number}")));
        }
        test.catalog.remove_service(&name(&format!("demo/a{number}")));
        test.catalog.put_service(held(service(&format!("demo/s{number}"), &["one"])), test.now);
    }
    test.turn();
    test.set("one", "1-1");
    let (kept, absent) = test.kept();
    assert_eq!((kept.len(), absent.len()), (601, 400), "a set that all name is kept once");
}

#[test]
fn a_stream_confirms_what_was_held_with_an_answer_to_each_type_wanted() {
    let mut test = Test::configured();
    test.catalog.restore_service(held(service("demo/price", &["one"])));
    test.catalog.reconcile_sets();
    assert!(test.catalog.restore_endpoint_set("one", held(set("demo/price"))));
    assert!(!test.catalog.restore_endpoint_set("two", held(set("demo/price"))), "nobody names it");
    test.catalog.restored(7);
    test.turn();
    assert_eq!(test.visible(), ["demo/price"], "at once");
    assert_eq!(test.catalog.newest_revision(), 7);
    for (number, kind) in TYPES.iter().enumerate() {
        assert!(!test.catalog.is_confirmed(), "{}", kind.url);
        test.catalog.received(kind.url, format!("1-{number}"), 3);
        test.turn();
    }
    assert!(test.catalog.is_confirmed());
    assert_eq!(test.catalog.newest_revision(), 3, "of a store that was restored");
}

#[test]
fn what_nobody_uses_any_more_is_kept_as_its_last_answer_until_there_is_a_newer_one() {
    let mut test = Test::configured();
    let retired = |test: &Test| {
        let contents = test.catalog.contents(&[]).unwrap();
        contents.retired.iter().map(|item| item.name.to_string()).collect::<Vec<_>>()
    };
    test.catalog.want(&name("demo/price"));
    test.service(service("demo/price", &["one"]), "1-1");
    test.catalog.give_up(&name("demo/price"));
    assert!(retired(&test).is_empty(), "it was never visible");
    for gone in [false, true] {
        test.catalog.want(&name("demo/price"));
        test.service(service("demo/price", &["one"]), "1-2");
        test.set("one", "1-3");
        test.catalog.give_up(&name("demo/price"));
        assert_eq!(retired(&test), ["demo/price", "one"]);
        test.turn();
        test.catalog.want(&name("demo/price"));
        if gone {
            test.catalog.remove_service(&name("demo/price"));
        } else {
            test.service(service("demo/price", &["one"]), "1-4");
        }
        assert!(retired(&test).is_empty());
    }
}
