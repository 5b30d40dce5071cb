//! Each rule by itself, with requests as any client might write them.

use outrigger_proto::{
    envoy::service::discovery::v3::Resource, google::rpc::Status, mesh::v1alpha1::RejectedResources, type_url,
};
use prost::Message as _;
use prost_types::Any;

use super::*;
use crate::delta::{
    TYPES,
    world::{BUNDLE, CONFIG, Entry, SERVICE, SET, World},
};

mod order;

struct Stream {
    session: Session,
    world: World,
    now: Instant,
}

impl Stream {
    fn over(world: World) -> Self {
        let session = Session::new(7, &TYPES, world.revision);
        Self { session, world, now: Instant::now() }
    }

    fn new(entries: &[(&'static str, &str, &str)]) -> Self {
        let mut world = World::default();
        for (url, name, content) in entries {
            world.put(url, name, content);
        }
        Self::over(world)
    }

    fn send(&mut self, request: DeltaDiscoveryRequest) -> Received {
        self.session.on_request(request).unwrap()
    }

    fn subscribe(&mut self, url: &str, names: &[&str]) {
        self.send(subscription(url, names));
    }

    fn poll(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.session.poll(&self.world, self.world.revision, self.now)
    }

    fn next(&mut self) -> DeltaDiscoveryResponse {
        self.poll().expect("a response is due")
    }

    fn ack(&mut self, response: &DeltaDiscoveryResponse) {
        let received = self.send(answer(response));
        assert_eq!(received.answer, Some(Answer::Ack));
    }

    fn ack_all(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut all = Vec::new();
        while let Some(response) = self.poll() {
            self.ack(&response);
            all.push(response);
        }
        all
    }

    /// Subscribes, takes everything and reports it as applied.
    fn at_rest(entries: &[(&'static str, &str, &str)]) -> Self {
        let mut stream = Self::new(entries);
        for (url, name, _) in entries {
            stream.subscribe(url, &[name]);
        }
        stream.settle();
        stream
    }

    fn settle(&mut self) {
        for response in self.ack_all() {
            self.session.on_applied(&response.type_url, &response.nonce);
        }
    }

    fn tell(&mut self, changes: &[(&'static str, &str, Option<&str>)]) {
        self.world.tell(&mut self.session, changes);
    }

    fn nack(&mut self, response: &DeltaDiscoveryResponse, names: &[&str]) -> Vec<Rejection> {
        let rejected = names
            .iter()
            .map(|name| RejectedResource {
                name: (*name).to_owned(),
                field: "ports[0]".to_owned(),
                reason: "bad".to_owned(),
                ..RejectedResource::default()
            })
            .collect();
        let details = RejectedResources { rejected };
        let mut request = answer(response);
        request.error_detail = Some(Status {
            code: 3,
            message: "bad".to_owned(),
            details: vec![Any {
                type_url: type_url::REJECTED_RESOURCES.to_owned(),
                value: details.encode_to_vec(),
            }],
        });
        match self.send(request).answer {
            Some(Answer::Nack { rejected, .. }) => rejected,
            other => panic!("not a NACK: {other:?}"),
        }
    }
}

fn subscription(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn unsubscription(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        resource_names_unsubscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn held(mut request: DeltaDiscoveryRequest, versions: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    request.initial_resource_versions =
        versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
    request
}

/// `name=content` of the resources, `-name` of the removals, `?name` of the errors.
fn summary(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let content = |resource: &Resource| {
        let content = resource.resource.as_ref().map(|any| String::from_utf8_lossy(&any.value).into_owned());
        format!("{}={}", resource.name, content.unwrap_or_default())
    };
    let resources = response.resources.iter().map(content);
    let removed = response.removed_resources.iter().map(|name| format!("-{name}"));
    let errors = response
        .resource_errors
        .iter()
        .map(|error| format!("?{}", error.resource_name.as_ref().map_or("", |name| &name.name)));
    resources.chain(removed).chain(errors).collect()
}

#[test]
fn rule_01_a_stale_nonce_settles_nothing_but_its_subscription_counts() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "1"), (SERVICE, "d/b", "1")]);
    stream.subscribe(SERVICE, &["d/a"]);
    let first = stream.next();
    let mut stale = subscription(SERVICE, &["d/b"]);
    stale.response_nonce = "0000-1".to_owned();
    let received = stream.send(stale);
    assert_eq!(received.answer, None);
    assert!(received.subscription_changed);
    assert!(stream.poll().is_none(), "the first response is still in flight");
    stream.ack(&first);
    assert_eq!(summary(&stream.next()), ["d/b=1"]);
}

#[test]
fn rule_02_a_rejected_version_is_not_pushed_again_until_it_changes_or_is_asked_for() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1")]);
    stream.tell(&[(SERVICE, "d/a", Some("bad"))]);
    let response = stream.next();
    let rejected = stream.nack(&response, &["d/a"]);
    assert_eq!(rejected[0].detail.version, "bad");
    assert_eq!(rejected[0].detail.field, "ports[0]");
    assert_eq!(rejected[0].revision, 2);
    stream.tell(&[(SERVICE, "d/a", Some("bad"))]);
    assert!(stream.poll().is_none());
    assert_eq!(stream.session.rejections().count(), 1);
    stream.subscribe(SERVICE, &["d/a"]);
    let response = stream.next();
    assert_eq!(summary(&response), ["d/a=bad"]);
    stream.nack(&response, &["d/a"]);
    stream.tell(&[(SERVICE, "d/a", Some("2"))]);
    assert_eq!(summary(&stream.next()), ["d/a=2"]);
    assert_eq!(stream.session.rejections().count(), 0);
}

#[test]
fn rule_02_the_version_before_the_rejected_one_needs_no_sending() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1")]);
    stream.tell(&[(SERVICE, "d/a", Some("bad"))]);
    let response = stream.next();
    stream.nack(&response, &["d/a"]);
    stream.tell(&[(SERVICE, "d/a", Some("1"))]);
    assert!(stream.poll().is_none());
    assert_eq!(stream.session.rejections().count(), 0);
    assert_eq!(stream.session.applied_revision(), 3);
}

#[test]
fn rule_03_only_what_is_named_is_rejected_and_without_names_all_of_it() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "1"), (SERVICE, "d/b", "1")]);
    stream.subscribe(SERVICE, &["d/a", "d/b"]);
    let response = stream.next();
    assert_eq!(stream.nack(&response, &["d/b", "d/unheard-of"]).len(), 1);
    stream.tell(&[(SERVICE, "d/a", Some("2")), (SERVICE, "d/b", Some("2"))]);
    let response = stream.next();
    assert_eq!(stream.nack(&response, &[]).len(), 2);
    assert_eq!(stream.session.rejections().count(), 2);
}

#[test]
fn rules_04_and_06_the_first_request_is_answered_by_what_differs() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "1"), (SERVICE, "d/b", "2"), (SERVICE, "d/c", "1")]);
    let names = subscription(SERVICE, &["d/a", "d/b", "d/c"]);
    stream.send(held(names, &[("d/a", "1"), ("d/b", "1")]));
    assert_eq!(summary(&stream.next()), ["d/b=2", "d/c=1"]);
}

#[test]
fn rule_05_what_vanished_during_a_disconnect_comes_back_as_removed() {
    let mut stream = Stream::new(&[(BUNDLE, "one", "1"), (SERVICE, "d/a", "1")]);
    stream.send(held(subscription(BUNDLE, &["*"]), &[("one", "1"), ("two", "1")]));
    let bundles = stream.next();
    let names = subscription(SERVICE, &["d/a", "d/b"]);
    stream.send(held(names, &[("d/a", "1"), ("d/b", "1"), ("d/given-up", "1")]));
    let services = stream.next();
    assert!(summary(&bundles).is_empty() && summary(&services).is_empty());
    assert!(stream.poll().is_none(), "a request to come may ask for what replaces them");
    stream.ack(&bundles);
    stream.ack(&services);
    let removals: Vec<_> = stream.ack_all().iter().map(summary).collect();
    assert_eq!(removals, [vec!["-d/b", "-d/given-up"], vec!["-two"]]);
}

#[test]
fn rule_06_a_later_subscription_is_answered_even_if_the_version_is_equal() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1")]);
    stream.subscribe(SERVICE, &["d/a"]);
    assert_eq!(summary(&stream.next()), ["d/a=1"]);
}

#[test]
fn rule_06_a_first_request_is_answered_even_if_there_is_nothing_to_send() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "1")]);
    stream.send(held(subscription(SERVICE, &["d/a"]), &[("d/a", "1")]));
    assert!(summary(&stream.next()).is_empty());
    assert!(stream.poll().is_none());
}

#[test]
fn rule_07_an_unknown_name_is_answered_and_sent_once_it_exists() {
    let mut stream = Stream::new(&[]);
    stream.world.set(SERVICE, "d/secret", Some(Entry::Denied));
    stream.subscribe(SERVICE, &["d/a", "d/secret"]);
    let response = stream.next();
    assert_eq!(summary(&response), ["-d/a", "-d/secret", "?d/a", "?d/secret"]);
    let codes: Vec<_> =
        response.resource_errors.iter().map(|error| error.error_detail.as_ref().unwrap().code).collect();
    assert_eq!(codes, [5, 7]);
    stream.ack(&response);
    stream.tell(&[(SERVICE, "d/a", Some("1"))]);
    let response = stream.next();
    assert_eq!(summary(&response), ["d/a=1"]);
    stream.ack(&response);
    stream.tell(&[(SERVICE, "d/a", None)]);
    let response = stream.next();
    assert_eq!(summary(&response), ["-d/a"]);
    stream.ack(&response);
    stream.tell(&[(SERVICE, "d/a", Some("1"))]);
    assert_eq!(summary(&stream.next()), ["d/a=1"]);
}

#[test]
fn rule_08_an_empty_first_request_and_a_star_mean_all() {
    for names in [&[] as &[&str], &["*"]] {
        let mut stream = Stream::new(&[(BUNDLE, "one", "1"), (BUNDLE, "two", "1")]);
        stream.subscribe(BUNDLE, names);
        let response = stream.next();
        assert_eq!(summary(&response), ["one=1", "two=1"]);
        stream.ack(&response);
        stream.tell(&[(BUNDLE, "three", Some("1"))]);
        assert_eq!(summary(&stream.next()), ["three=1"]);
    }
}

#[test]
fn rule_08_a_type_by_name_only_denies_the_wildcard() {
    for names in [&[] as &[&str], &["*"]] {
        let mut stream = Stream::new(&[(SERVICE, "d/a", "1")]);
        stream.subscribe(SERVICE, names);
        let response = stream.next();
        assert_eq!(summary(&response), ["?*"]);
        assert_eq!(response.resource_errors[0].error_detail.as_ref().unwrap().code, 7);
        stream.ack(&response);
        assert!(stream.poll().is_none());
        stream.tell(&[(SERVICE, "d/a", Some("2"))]);
        assert!(stream.poll().is_none());
    }
}

#[test]
fn rule_08_star_and_not_star_subscribe_to_nothing() {
    let mut stream = Stream::new(&[(BUNDLE, "one", "1")]);
    let mut request = subscription(BUNDLE, &["*"]);
    request.resource_names_unsubscribe = vec!["*".to_owned()];
    stream.send(request);
    let response = stream.next();
    assert!(summary(&response).is_empty());
    stream.ack(&response);
    stream.tell(&[(BUNDLE, "one", Some("2"))]);
    assert!(stream.poll().is_none());
    stream.subscribe(BUNDLE, &["one"]);
    assert_eq!(summary(&stream.next()), ["one=2"]);
}

#[test]
fn rule_08_a_name_given_up_beside_the_wildcard_is_answered() {
    let mut stream = Stream::new(&[(BUNDLE, "one", "1")]);
    stream.subscribe(BUNDLE, &["*", "one", "gone"]);
    stream.settle();
    stream.send(unsubscription(BUNDLE, &["one", "gone"]));
    assert_eq!(summary(&stream.next()), ["one=1", "-gone", "?gone"]);
}

#[test]
fn rule_08_giving_up_the_wildcard_keeps_what_is_named() {
    let mut stream = Stream::new(&[(BUNDLE, "one", "1"), (BUNDLE, "two", "1")]);
    stream.subscribe(BUNDLE, &["*", "two"]);
    stream.settle();
    stream.send(unsubscription(BUNDLE, &["*"]));
    stream.tell(&[(BUNDLE, "one", Some("2")), (BUNDLE, "two", Some("2"))]);
    assert_eq!(summary(&stream.next()), ["two=2"]);
}

#[test]
fn rules_09_and_12_changes_meanwhile_are_coalesced_by_name() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1"), (SERVICE, "d/b", "1")]);
    stream.tell(&[(SERVICE, "d/a", Some("2"))]);
    let response = stream.next();
    for content in ["3", "4", "5"] {
        stream.tell(&[(SERVICE, "d/a", Some(content)), (SERVICE, "d/b", Some(content))]);
        assert!(stream.poll().is_none(), "one in flight");
    }
    stream.ack(&response);
    assert_eq!(summary(&stream.next()), ["d/a=5", "d/b=5"]);
}

#[test]
fn what_a_client_writes_is_kept_no_longer_than_needed() {
    let long = "é".repeat(1 << 20);
    let detail = RejectedResource {
        name: "d/a".to_owned(),
        field: long.clone(),
        reason: long.clone(),
        ..RejectedResource::default()
    };
    for details in [vec![detail], Vec::new()] {
        let mut session = Stream::at_rest(&[(SERVICE, "d/a", "1"), (SERVICE, "d/b", "1")]);
        session.tell(&[(SERVICE, "d/a", Some("2")), (SERVICE, "d/b", Some("2"))]);
        let response = session.next();
        let mut request = answer(&response);
        request.error_detail = Some(Status {
            code: 3,
            message: long.clone(),
            details: vec![Any {
                type_url: type_url::REJECTED_RESOURCES.to_owned(),
                value: RejectedResources { rejected: details }.encode_to_vec(),
            }],
        });
        let Some(Answer::Nack { message, .. }) = session.send(request).answer else { panic!("not a NACK") };
        assert_eq!(message.chars().count(), 300);
        for rejection in session.session.rejections() {
            assert!(rejection.detail.field.chars().count() <= 300);
            assert_eq!(rejection.detail.reason.chars().count(), 300);
        }
    }
}

#[test]
fn a_version_that_is_none_of_ours_is_replaced_and_not_kept() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "1")]);
    let version = "1".repeat(1 << 20);
    stream.send(held(subscription(SERVICE, &["d/a"]), &[("d/a", &version)]));
    assert!(!format!("{:?}", stream.session).contains(&version));
    assert_eq!(summary(&stream.next()), ["d/a=1"]);
}

#[test]
fn giving_up_what_was_never_asked_for_fills_nothing() {
    let mut stream = Stream::new(&[(BUNDLE, "one", "1")]);
    stream.subscribe(BUNDLE, &["*"]);
    stream.settle();
    let names: Vec<String> = (0..1000).map(|number| format!("never-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    stream.send(unsubscription(BUNDLE, &names));
    assert!(stream.poll().is_none());
    assert!(!format!("{:?}", stream.session).contains("never-"));
}
