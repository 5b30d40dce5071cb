//! Time, order, size and what counts as applied.

use super::*;

#[test]
fn rule_10_heartbeats_come_in_time_and_never_after_a_gap_longer_than_the_ttl() {
    const TTL: Duration = Duration::from_secs(9);
    let mut world = World::default();
    world.set(BUNDLE, "one", Some(Entry::Mortal("1".to_owned(), TTL)));
    let mut stream = Stream::over(world);
    stream.subscribe(BUNDLE, &["*"]);
    let response = stream.next();
    assert_eq!(response.resources[0].ttl.as_ref().unwrap().seconds, 9);
    stream.ack(&response);
    assert!(stream.poll().is_none());
    assert_eq!(stream.session.next_heartbeat(), Some(stream.now + TTL / 3));
    stream.now += TTL / 3;
    let heartbeat = stream.next();
    assert_eq!(summary(&heartbeat), ["one="]);
    assert_eq!(heartbeat.resources[0].version, "1");
    assert!(heartbeat.resources[0].ttl.is_some());
    assert_eq!(stream.session.applied_revision(), 0, "the resource itself is not applied yet");
    // The client is silent for longer than the resource lives.
    stream.now += TTL;
    assert!(stream.poll().is_none());
    stream.ack(&heartbeat);
    let response = stream.next();
    assert_eq!(summary(&response), ["one=1"]);
    stream.ack(&response);
    // A heartbeat that came too late there is rejected, and made good.
    stream.now += TTL / 2;
    let heartbeat = stream.next();
    assert!(stream.nack(&heartbeat, &["one"]).is_empty());
    assert_eq!(summary(&stream.next()), ["one=1"]);
}

#[test]
fn rule_11_additions_go_in_order_and_wait_for_a_slot_before_them() {
    let mut stream = Stream::at_rest(&[(SET, "e1", "1"), (SERVICE, "d/a", "e1"), (CONFIG, "self", "1")]);
    stream.tell(&[(SET, "e1", Some("2"))]);
    let set = stream.next();
    stream.tell(&[(CONFIG, "self", Some("2")), (SERVICE, "d/a", Some("x")), (SET, "e1", Some("3"))]);
    assert!(stream.poll().is_none(), "the next endpoint set comes before the service");
    stream.ack(&set);
    let order: Vec<_> = std::iter::from_fn(|| stream.poll()).map(|one| one.type_url).collect();
    assert_eq!(order, [SET, SERVICE, CONFIG]);
}

#[test]
fn rule_11_removals_go_in_reverse_after_the_ack_of_what_replaces_them() {
    let mut stream = Stream::at_rest(&[
        (SET, "e1", "1"),
        (SET, "e2", "1"),
        (SERVICE, "d/a", "e1"),
        (SERVICE, "d/b", "e1"),
        (CONFIG, "self", "1"),
    ]);
    stream.tell(&[
        (SET, "e1", None),
        (SERVICE, "d/a", Some("e2")),
        (SERVICE, "d/b", None),
        (SET, "e2", Some("2")),
    ]);
    let additions = [stream.next(), stream.next()];
    assert_eq!(additions.each_ref().map(summary), [vec!["e2=2"], vec!["d/a=e2"]]);
    assert!(stream.poll().is_none());
    stream.ack(&additions[0]);
    assert!(stream.poll().is_none(), "the service still refers to e1");
    stream.ack(&additions[1]);
    let removal = stream.next();
    assert_eq!(summary(&removal), ["-d/b"]);
    assert!(stream.poll().is_none());
    stream.ack(&removal);
    assert_eq!(summary(&stream.next()), ["-e1"]);
}

#[test]
fn rule_11_a_removal_takes_no_addition_along_that_is_held_up() {
    let mut stream = Stream::at_rest(&[(SET, "e1", "1"), (SERVICE, "d/a", "1"), (SERVICE, "d/b", "1")]);
    stream.tell(&[(SERVICE, "d/b", None)]);
    stream.subscribe(SET, &["e2"]);
    let set = stream.next();
    assert_eq!(summary(&set), ["-e2", "?e2"]);
    let removal = stream.next();
    assert_eq!(summary(&removal), ["-d/b"]);
    stream.ack(&removal);
    stream.tell(&[(SERVICE, "d/a", None)]);
    stream.tell(&[(SET, "e2", Some("1")), (SERVICE, "d/b", Some("e2"))]);
    assert_eq!(summary(&stream.next()), ["-d/a"], "d/b waits for e2, which waits for its slot");
    stream.ack(&set);
    assert_eq!(summary(&stream.next()), ["e2=1"]);
}

#[test]
fn rule_11_a_removal_is_not_starved_by_later_additions() {
    let mut stream = Stream::at_rest(&[(SET, "e1", "1"), (SET, "e2", "1")]);
    stream.tell(&[(SET, "e2", Some("2"))]);
    let mut response = stream.next();
    stream.tell(&[(SET, "e1", None)]);
    for round in 3..6 {
        stream.tell(&[(SET, "e2", Some(&round.to_string()))]);
        stream.ack(&response);
        response = stream.next();
        if summary(&response).contains(&"-e1".to_owned()) {
            return;
        }
    }
    panic!("e1 is never removed");
}

#[test]
fn rule_11_what_a_client_still_runs_keeps_what_it_refers_to() {
    let mut stream = Stream::at_rest(&[(SET, "e1", "1"), (SERVICE, "d/a", "e1"), (SERVICE, "d/b", "1")]);
    stream.tell(&[(SERVICE, "d/a", Some("bad")), (SET, "e1", None), (SERVICE, "d/b", None)]);
    let response = stream.next();
    stream.nack(&response, &["d/a"]);
    let response = stream.next();
    assert_eq!(summary(&response), ["-d/b"], "nothing that was rejected can refer to a service");
    stream.ack(&response);
    assert!(stream.poll().is_none(), "d/a, as the client runs it, refers to e1");
    stream.tell(&[(SERVICE, "d/a", Some("e2"))]);
    let response = stream.next();
    stream.ack(&response);
    assert_eq!(summary(&stream.next()), ["-e1"]);
}

#[test]
fn rule_12_a_large_push_is_split_and_what_comes_after_it_waits() {
    let mut world = World::default();
    let content = "x".repeat(MAX_RESPONSE_BYTES / 3);
    for name in ["e1", "e2", "e3"] {
        world.put(SET, name, &content);
    }
    world.put(SET, "e4", &"x".repeat(MAX_RESPONSE_BYTES * 2));
    world.put(SERVICE, "d/a", "1");
    let mut stream = Stream::over(world);
    stream.subscribe(SET, &["e1", "e2", "e3", "e4"]);
    stream.subscribe(SERVICE, &["d/a"]);
    let sizes: Vec<_> = stream.ack_all().iter().map(|one| (one.resources.len(), one.encoded_len())).collect();
    let counts: Vec<_> = sizes.iter().map(|(count, _)| *count).collect();
    assert_eq!(counts, [1, 1, 1, 1, 1]);
    let split = sizes.iter().filter(|(_, size)| *size > MAX_RESPONSE_BYTES + 200).count();
    assert_eq!(split, 1, "only the one that is larger by itself");
}

#[test]
fn rule_13_the_version_info_is_the_sources_revision() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "1")]);
    stream.world.revision = 4711;
    stream.subscribe(SERVICE, &["d/a"]);
    assert_eq!(stream.next().system_version_info, "4711");
}

#[test]
fn rule_14_a_reconnect_to_another_replica_resends_nothing() {
    let entries = [(BUNDLE, "one", "1"), (SET, "e1", "1"), (SERVICE, "d/a", "1"), (CONFIG, "self", "1")];
    let mut stream = Stream::new(&entries);
    stream.send(held(subscription(BUNDLE, &["*"]), &[("one", "1")]));
    for (url, name, version) in entries.iter().skip(1) {
        stream.send(held(subscription(url, &[name]), &[(name, version)]));
    }
    let responses = stream.ack_all();
    assert_eq!(responses.len(), 4);
    assert!(responses.iter().all(|response| summary(response).is_empty()));
    assert_eq!(stream.session.applied_revision(), stream.world.revision);
}

#[test]
fn applied_is_told_apart_from_acknowledged() {
    let mut stream = Stream::at_rest(&[(SET, "e1", "1"), (SERVICE, "d/a", "1")]);
    assert_eq!(stream.session.applied_revision(), 2);
    stream.tell(&[(SET, "unheard-of", Some("1"))]);
    assert_eq!(stream.session.applied_revision(), 3, "what does not concern it, it has");
    assert_eq!(stream.session.target_revision(), 2);
    stream.tell(&[(SET, "e1", Some("2"))]);
    stream.tell(&[(SERVICE, "d/a", Some("2"))]);
    assert_eq!(stream.session.target_revision(), 5);
    let [set, service] = [stream.next(), stream.next()];
    stream.ack(&set);
    stream.ack(&service);
    assert!(stream.session.is_idle());
    assert_eq!(stream.session.applied_revision(), 3);
    stream.session.on_applied(SERVICE, &service.nonce);
    assert_eq!(stream.session.applied_revision(), 3, "the endpoint set is not in the snapshot");
    stream.session.on_applied(SET, "0000000000000008-99");
    stream.session.on_applied(SET, "nonsense");
    assert_eq!(stream.session.applied_revision(), 3, "nonces of other streams say nothing");
    stream.session.on_applied(SET, &set.nonce);
    assert_eq!(stream.session.applied_revision(), 5);
}

#[test]
fn revisions_told_together_hold_back_from_the_first_of_them() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1")]);
    stream.world.put(SERVICE, "d/a", "2");
    stream.world.put(SET, "e1", "1");
    stream.session.on_change(3, [(SERVICE, "d/a"), (SET, "e1")]);
    assert_eq!(stream.session.applied_revision(), 1);
    stream.settle();
    assert_eq!(stream.session.applied_revision(), 3);
}

#[test]
fn after_a_lapse_all_that_differs_is_found() {
    let mut stream = Stream::at_rest(&[(BUNDLE, "one", "1"), (BUNDLE, "two", "1"), (SERVICE, "d/a", "1")]);
    stream.send(subscription(BUNDLE, &["*"]));
    stream.send(subscription(SERVICE, &["d/none"]));
    stream.settle();
    stream.world.put(SERVICE, "d/a", "2");
    stream.world.put(BUNDLE, "three", "1");
    stream.world.set(BUNDLE, "two", None);
    stream.world.put(SERVICE, "d/none", "1");
    stream.session.on_lapse(stream.world.revision);
    assert_eq!(stream.session.applied_revision(), 3);
    let responses = stream.ack_all();
    let all: Vec<_> = responses.iter().map(summary).collect();
    assert_eq!(all, [vec!["three=1"], vec!["d/a=2", "d/none=1"], vec!["-two"]]);
    for response in &responses {
        stream.session.on_applied(&response.type_url, &response.nonce);
    }
    assert_eq!(stream.session.applied_revision(), 7);
}

#[test]
fn a_report_that_overtakes_the_nack_changes_nothing() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1")]);
    stream.tell(&[(SERVICE, "d/a", Some("bad"))]);
    let response = stream.next();
    stream.session.on_applied(SERVICE, &response.nonce);
    assert_eq!(stream.session.applied_revision(), 1);
    stream.nack(&response, &["d/a"]);
    assert_eq!(stream.session.applied_revision(), 1);
}

#[test]
fn what_a_proxy_came_with_counts_as_unknown_until_it_is_replaced() {
    let mut stream = Stream::new(&[(SERVICE, "d/a", "2")]);
    stream.world.revision = 9;
    stream.session = Session::new(8, &TYPES, 9);
    assert_eq!(stream.session.applied_revision(), 0);
    stream.send(held(subscription(SERVICE, &["d/a"]), &[("d/a", "1")]));
    let response = stream.next();
    stream.ack(&response);
    assert_eq!(stream.session.applied_revision(), 0);
    stream.session.on_applied(SERVICE, &response.nonce);
    assert_eq!(stream.session.applied_revision(), 9);
}

#[test]
fn a_client_that_applies_nothing_costs_a_bounded_memory() {
    let mut stream = Stream::at_rest(&[(SERVICE, "d/a", "1")]);
    for content in 0..1000 {
        stream.tell(&[(SERVICE, "d/a", Some(&content.to_string()))]);
        stream.ack_all();
    }
    assert_eq!(stream.session.applied_revision(), 1);
    stream.tell(&[(SERVICE, "d/a", Some("last"))]);
    let last = stream.next();
    stream.ack(&last);
    stream.session.on_applied(SERVICE, &last.nonce);
    assert_eq!(stream.session.applied_revision(), stream.world.revision);
}

#[test]
fn what_breaks_the_protocol_is_refused_by_cause() {
    let mut stream = Stream::new(&[]);
    let mut refused = |request| stream.session.on_request(request).unwrap_err();
    assert_eq!(refused(subscription("x", &["a"])), ProtocolError::UnknownType("x".to_owned()));
    assert_eq!(refused(subscription(SERVICE, &[""])), ProtocolError::InvalidName);
    assert_eq!(refused(subscription(SERVICE, &[&"a".repeat(513)])), ProtocolError::InvalidName);
    let names: Vec<_> = (0..=MAX_SUBSCRIPTIONS).map(|number| number.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(refused(subscription(SERVICE, &names)), ProtocolError::TooManyNames);
}
