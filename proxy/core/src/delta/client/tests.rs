//! Each rule by itself, with responses as any server might write them.

use outrigger_proto::envoy::service::discovery::v3::{ResourceError, ResourceName};

use super::*;
use crate::delta::{
    TYPES,
    world::{BUNDLE, CONFIG, SERVICE, SET},
};

const TTL: Duration = Duration::from_secs(9);

fn client() -> Client {
    let node = Node { id: "spiffe://outrigger.local/ns/demo/sa/front#front-1".to_owned(), ..Node::default() };
    Client::new(node, &TYPES)
}

fn connected() -> Client {
    let mut client = client();
    client.connect();
    client
}

fn resource(url: &str, name: &str, version: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any { type_url: url.to_owned(), value: version.as_bytes().to_vec() }),
        ..Resource::default()
    }
}

fn response(url: &str, nonce: &str, resources: &[(&str, &str)]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: url.to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.iter().map(|(name, version)| resource(url, name, version)).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn take(client: &mut Client, response: DeltaDiscoveryResponse) -> Received<String> {
    take_at(client, response, Instant::now())
}

fn take_at(client: &mut Client, response: DeltaDiscoveryResponse, now: Instant) -> Received<String> {
    client.on_response(response, now, |_, content| {
        let text = String::from_utf8_lossy(&content.value).into_owned();
        match text.as_str() {
            "bad" => Err(Violation::error("ports[0]", "required", "a port is needed")),
            "new" => Err(Violation::error("requires", "unsupported", "not known here")),
            _ => Ok(text),
        }
    })
}

fn set(name: &str, version: &str) -> Update<String> {
    Update::Set { name: name.to_owned(), version: version.to_owned(), value: version.to_owned() }
}

fn absent(name: &str, cause: Absence) -> Update<String> {
    Update::Absent { name: name.to_owned(), cause }
}

#[test]
fn rule_01_an_answer_carries_the_nonce_and_a_spontaneous_request_none() {
    let mut client = connected();
    let request = client.subscribe(SERVICE, "d/a").unwrap();
    assert_eq!(request.response_nonce, "");
    let received = take(&mut client, response(SERVICE, "s-1", &[("d/a", "1")]));
    assert_eq!(received.request.response_nonce, "s-1");
    assert_eq!(received.request.error_detail, None);
    assert_eq!(client.subscribe(SERVICE, "d/b").unwrap().response_nonce, "");
}

#[test]
fn rule_04_what_an_earlier_process_held_is_claimed_on_the_first_stream() {
    let mut client = client();
    client.restore(SERVICE, "d/a", "1");
    client.restore(BUNDLE, "outrigger.local", "2");
    client.subscribe(SERVICE, "d/absent");
    let requests = client.connect();
    let of = |url: &str| requests.iter().find(|request| request.type_url == url).unwrap();
    assert_eq!(of(SERVICE).resource_names_subscribe, ["d/a", "d/absent"]);
    let claimed = |url| of(url).initial_resource_versions.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(claimed(SERVICE), [("d/a".to_owned(), "1".to_owned())]);
    assert_eq!(claimed(BUNDLE), [("outrigger.local".to_owned(), "2".to_owned())]);
    // Replaced or removed like anything that is held.
    let received = take(&mut client, response(SERVICE, "s-1", &[("d/a", "3")]));
    assert_eq!(received.updates, [set("d/a", "3")]);
    assert_eq!(client.version(SERVICE, "d/a"), Some("3"));
}

#[test]
fn rules_02_and_03_the_good_apply_the_bad_are_listed_and_not_claimed_later() {
    let mut client = connected();
    client.change(SERVICE, ["d/a", "d/b", "d/c"], []);
    take(&mut client, response(SERVICE, "s-1", &[("d/a", "1"), ("d/b", "1")]));
    let received =
        take(&mut client, response(SERVICE, "s-2", &[("d/a", "2"), ("d/b", "bad"), ("d/c", "new")]));
    assert_eq!(received.updates, [set("d/a", "2")]);
    let status = received.request.error_detail.unwrap();
    let details = RejectedResources::decode(status.details[0].value.as_slice()).unwrap();
    assert_eq!(details.rejected, received.rejected);
    let [bad, new] = received.rejected.try_into().unwrap();
    assert_eq!((bad.name.as_str(), bad.version.as_str(), bad.field.as_str()), ("d/b", "bad", "ports[0]"));
    assert!(!bad.unsupported);
    assert!(new.unsupported);
    let requests = client.connect();
    let versions = &requests[1].initial_resource_versions;
    let claimed: Vec<_> = versions.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    assert_eq!(claimed, [("d/a", "2"), ("d/b", "1")]);
}

#[test]
fn rule_04_the_first_requests_carry_all_names_and_versions_and_the_first_of_them_the_node() {
    let mut client = client();
    assert_eq!(client.subscribe(SERVICE, "d/b"), None, "there is no stream yet");
    client.subscribe(SERVICE, "d/a");
    client.subscribe(CONFIG, "self");
    let requests = client.connect();
    let names: Vec<_> = requests
        .iter()
        .map(|request| (request.type_url.as_str(), request.resource_names_subscribe.join(",")))
        .collect();
    let expected = [(BUNDLE, "*"), (SERVICE, "d/a,d/b"), (CONFIG, "self")];
    assert_eq!(names, expected.map(|(url, names)| (url, names.to_owned())));
    assert_eq!(requests.iter().filter(|request| request.node.is_some()).count(), 1);
    assert!(requests[0].node.is_some());
    take(&mut client, response(SERVICE, "s-1", &[("d/a", "1")]));
    take(&mut client, response(BUNDLE, "s-2", &[("one", "1")]));
    client.disconnect();
    client.unsubscribe(SERVICE, "d/b");
    client.subscribe(SET, "e1");
    let requests = client.connect();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0].initial_resource_versions["one"], "1");
    assert_eq!(requests[2].resource_names_subscribe, ["d/a"]);
    assert_eq!(requests[2].initial_resource_versions["d/a"], "1");
}

#[test]
fn rule_05_a_removal_forgets_the_version() {
    let mut client = connected();
    client.subscribe(SERVICE, "d/a");
    take(&mut client, response(SERVICE, "s-1", &[("d/a", "1")]));
    let mut removal = response(SERVICE, "s-2", &[]);
    removal.removed_resources = vec!["d/a".to_owned(), "d/a".to_owned()];
    let received = take(&mut client, removal);
    assert_eq!(received.updates, [absent("d/a", Absence::Removed)]);
    assert_eq!(received.request.error_detail, None);
    assert_eq!(client.version(SERVICE, "d/a"), None);
    assert!(client.is_subscribed(SERVICE, "d/a"), "it may come back");
}

#[test]
fn rule_06_a_name_is_subscribed_to_once_and_asked_for_at_once() {
    let mut client = connected();
    assert!(client.subscribe(SERVICE, "d/a").is_some());
    assert_eq!(client.subscribe(SERVICE, "d/a"), None);
    assert_eq!(client.unanswered(SERVICE).collect::<Vec<_>>(), ["d/a"]);
    take(&mut client, response(SERVICE, "s-1", &[("d/a", "1")]));
    assert_eq!(client.unanswered(SERVICE).count(), 0);
    let request = client.unsubscribe(SERVICE, "d/a").unwrap();
    assert_eq!(request.resource_names_unsubscribe, ["d/a"]);
    assert_eq!(client.unsubscribe(SERVICE, "d/a"), None);
    let late = take(&mut client, response(SERVICE, "s-2", &[("d/a", "bad")]));
    assert!(late.updates.is_empty() && late.rejected.is_empty(), "it was on its way when it was given up");
    assert_eq!(client.version(SERVICE, "d/a"), None);
}

#[test]
fn rule_07_an_absence_is_an_answer_with_its_cause() {
    let mut client = connected();
    client.change(SERVICE, ["d/a", "d/b", "d/c"], []);
    take(&mut client, response(SERVICE, "s-0", &[("d/c", "1")]));
    let error = |name: &str, code| ResourceError {
        resource_name: Some(ResourceName { name: name.to_owned() }),
        error_detail: Some(Status { code, message: "why".to_owned(), details: Vec::new() }),
    };
    let mut answer = response(SERVICE, "s-1", &[]);
    answer.removed_resources = vec!["d/a".to_owned()];
    answer.resource_errors =
        vec![error("d/a", 5), error("d/b", 7), error("d/c", 14), error("d/not-ours", 5), error("*", 7)];
    let received = take(&mut client, answer);
    assert_eq!(
        received.updates,
        [
            absent("d/a", Absence::NotFound("why".to_owned())),
            absent("d/b", Absence::Denied("why".to_owned()))
        ]
    );
    assert_eq!(client.unanswered(SERVICE).count(), 0);
    assert_eq!(client.version(SERVICE, "d/c"), Some("1"), "what passes takes nothing away");
}

#[test]
fn rule_08_a_type_without_names_is_left_out_until_it_has_one() {
    let mut client = client();
    let requests = client.connect();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].resource_names_subscribe, ["*"]);
    let first = client.change(SET, ["e1", "e2"], []).unwrap();
    assert_eq!(first.resource_names_subscribe, ["e1", "e2"]);
    assert!(first.node.is_none());
    assert!(client.change(SET, [], ["e1", "e2"]).is_some());
    assert_eq!(client.connect().len(), 1);
    assert_eq!(client.change(SET, ["e1"], ["e1"]), None, "nothing is left to ask for");
}

#[test]
fn rule_09_a_name_that_occurs_twice_is_rejected_the_others_apply() {
    let mut client = connected();
    client.change(SERVICE, ["d/a", "d/b", "d/c"], []);
    let mut twice = response(SERVICE, "s-1", &[("d/a", "1"), ("d/a", "2"), ("d/b", "1"), ("d/c", "1")]);
    twice.removed_resources = vec!["d/c".to_owned()];
    let received = take(&mut client, twice);
    assert_eq!(received.updates, [set("d/b", "1")]);
    assert!(received.request.error_detail.is_some());
    let names: Vec<_> = received.rejected.iter().map(|rejected| rejected.name.as_str()).collect();
    assert_eq!(names, ["d/a", "d/a", "d/c"]);
}

#[test]
fn rule_10_a_resource_dies_unless_it_is_heard_of() {
    let mut client = connected();
    let start = Instant::now();
    let mut mortal = response(BUNDLE, "s-1", &[("one", "1"), ("two", "1")]);
    mortal.resources[0].ttl = Some(TTL.try_into().unwrap());
    take_at(&mut client, mortal.clone(), start);
    assert_eq!(client.next_expiry(), Some(start + TTL));
    let mut heartbeat = mortal;
    heartbeat.resources.truncate(1);
    heartbeat.resources[0].resource = None;
    let received = take_at(&mut client, heartbeat.clone(), start + TTL / 2);
    assert!(received.updates.is_empty() && received.rejected.is_empty());
    assert!(client.expire::<String>(start + TTL).is_empty());
    let expired = client.expire(start + TTL / 2 + TTL);
    assert_eq!(expired, [(BUNDLE, absent("one", Absence::Expired))]);
    assert_eq!(client.version(BUNDLE, "one"), None);
    assert_eq!(client.next_expiry(), None);
    let received = take_at(&mut client, heartbeat, start + TTL * 2);
    assert_eq!(received.rejected.len(), 1, "a heartbeat brings nothing back");
}

#[test]
fn a_response_of_another_type_is_refused_whole_and_content_of_another_type_by_name() {
    let mut client = connected();
    let received = take(&mut client, response("x", "s-1", &[("a", "1")]));
    assert!(received.request.error_detail.is_some());
    assert_eq!(received.request.type_url, "x");
    client.subscribe(SERVICE, "d/a");
    let mut wrong = response(SERVICE, "s-2", &[("d/a", "1")]);
    wrong.resources = vec![resource(SET, "d/a", "1")];
    let received = take(&mut client, wrong);
    assert_eq!(received.rejected[0].field, "resource");
    assert_eq!(received.updates, []);
}

#[test]
fn a_type_is_synced_with_its_first_response_and_stays_so() {
    let mut client = connected();
    assert!(!client.is_synced(BUNDLE));
    take(&mut client, response(BUNDLE, "s-1", &[]));
    assert!(client.is_synced(BUNDLE));
    client.disconnect();
    assert!(client.is_synced(BUNDLE));
}
