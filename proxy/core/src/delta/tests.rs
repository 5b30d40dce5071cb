//! Both ends against an oracle: whatever happens in between, once everything is delivered the client holds just what it
//! is subscribed to, as the source has it; and on the way no rule is broken.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use outrigger_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use proptest::prelude::*;

use super::{
    TYPES, WILDCARD,
    client::{Client, Update},
    server::{Answer, Session},
    world::{Entry, World},
};
use crate::model::Violation;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const BAD: &str = "bad";

#[derive(Debug, Clone)]
enum Step {
    Put {
        kind: usize,
        name: usize,
        content: String,
    },
    Delete {
        kind: usize,
        name: usize,
    },
    Deny {
        kind: usize,
        name: usize,
    },
    Subscribe {
        kind: usize,
        name: usize,
    },
    Unsubscribe {
        kind: usize,
        name: usize,
    },
    /// A client that forgot, with a nonce of long ago.
    Again {
        kind: usize,
        name: usize,
    },
    ToServer,
    ToClient,
    Applied,
    Disconnect,
    /// To a server that was started anew, or to another replica.
    Connect,
}

fn step() -> impl Strategy<Value = Step> {
    let content = prop_oneof![
        4 => (0..3_u8).prop_map(|number| format!("good-{number}")),
        1 => (0..2_u8).prop_map(|number| format!("{BAD}-{number}")),
    ];
    let any = || (0..TYPES.len(), 0..NAMES.len());
    let named = || (1..TYPES.len(), 0..NAMES.len());
    prop_oneof![
        6 => (any(), content).prop_map(|((kind, name), content)| Step::Put { kind, name, content }),
        2 => any().prop_map(|(kind, name)| Step::Delete { kind, name }),
        1 => any().prop_map(|(kind, name)| Step::Deny { kind, name }),
        5 => named().prop_map(|(kind, name)| Step::Subscribe { kind, name }),
        2 => named().prop_map(|(kind, name)| Step::Unsubscribe { kind, name }),
        1 => named().prop_map(|(kind, name)| Step::Again { kind, name }),
        8 => Just(Step::ToServer),
        8 => Just(Step::ToClient),
        3 => Just(Step::Applied),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
    ]
}

/// Type and name.
type Key = (&'static str, String);

struct Mesh {
    world: World,
    now: Instant,
    streams: u64,
    session: Option<Session>,
    client: Client,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
    /// The client's content.
    held: BTreeMap<Key, String>,
    /// What of it is in the client's snapshot.
    snapshot: BTreeMap<Key, String>,
    /// By name, since which revision it had which content.
    history: BTreeMap<Key, Vec<(u64, Option<String>)>>,
    /// The newest nonce of each type that the client took.
    taken: BTreeMap<&'static str, String>,
    /// By type, the nonce in flight.
    in_flight: BTreeMap<String, String>,
    /// (type, name, version) that were rejected on this stream and neither replaced nor asked for again.
    nacked: BTreeSet<(String, String, String)>,
    /// (type, name) that were asked for and not sent since.
    asked: BTreeSet<(String, String)>,
    /// By (type, name) that the server knows to be wanted, the version that it knows the client to have or to get.
    sent: BTreeMap<(String, String), Option<String>>,
}

fn url(kind: usize) -> &'static str {
    TYPES[kind].url
}

impl Mesh {
    fn new() -> Self {
        Self {
            world: World::default(),
            now: Instant::now(),
            streams: 0,
            session: None,
            client: Client::new(Node::default(), &TYPES),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            held: BTreeMap::new(),
            snapshot: BTreeMap::new(),
            history: BTreeMap::new(),
            taken: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            nacked: BTreeSet::new(),
            asked: BTreeSet::new(),
            sent: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put { kind, name, content } => self.change(kind, name, Some(Entry::Content(content))),
            Step::Delete { kind, name } => self.change(kind, name, None),
            Step::Deny { kind, name } => self.change(kind, name, Some(Entry::Denied)),
            Step::Subscribe { kind, name } => {
                let request = self.client.subscribe(url(kind), NAMES[name]);
                self.to_server.extend(request);
            }
            Step::Unsubscribe { kind, name } => {
                let request = self.client.unsubscribe(url(kind), NAMES[name]);
                self.to_server.extend(request);
                let key = (url(kind), NAMES[name].to_owned());
                self.held.remove(&key);
                self.snapshot.remove(&key);
            }
            Step::Again { kind, name } => {
                if self.session.is_some() && self.client.is_subscribed(url(kind), NAMES[name]) {
                    self.to_server.push_back(DeltaDiscoveryRequest {
                        type_url: url(kind).to_owned(),
                        resource_names_subscribe: vec![NAMES[name].to_owned()],
                        response_nonce: "0-1".to_owned(),
                        ..DeltaDiscoveryRequest::default()
                    });
                }
            }
            Step::ToServer => {
                self.deliver_to_server();
            }
            Step::ToClient => {
                self.deliver_to_client();
            }
            Step::Applied => self.applied(),
            Step::Disconnect => self.disconnect(),
            Step::Connect => self.connect(),
        }
        self.poll();
        self.check_applied();
    }

    fn change(&mut self, kind: usize, name: usize, entry: Option<Entry>) {
        self.world.set(url(kind), NAMES[name], entry);
        let content = self.world.content(url(kind), NAMES[name]).map(str::to_owned);
        let fallback = self.sent.get(&(url(kind).to_owned(), NAMES[name].to_owned())).cloned().flatten();
        if content == fallback {
            self.nacked
                .retain(|(kind_url, own, _)| (kind_url.as_str(), own.as_str()) != (url(kind), NAMES[name]));
        }
        let history = self.history.entry((url(kind), NAMES[name].to_owned())).or_default();
        history.push((self.world.revision, content));
        if let Some(session) = &mut self.session {
            session.on_change(self.world.revision, [(url(kind), NAMES[name])]);
        }
    }

    fn disconnect(&mut self) {
        self.session = None;
        self.snapshot.clone_from(&self.held);
        self.client.disconnect();
        self.to_server.clear();
        self.to_client.clear();
        self.taken.clear();
        self.in_flight.clear();
        self.nacked.clear();
        self.asked.clear();
        self.sent.clear();
    }

    fn connect(&mut self) {
        self.disconnect();
        self.streams += 1;
        self.session = Some(Session::new(self.streams, &TYPES, self.world.revision));
        self.to_server.extend(self.client.connect());
    }

    fn deliver_to_server(&mut self) -> bool {
        let (Some(request), Some(session)) = (self.to_server.pop_front(), &mut self.session) else {
            return false;
        };
        let url = request.type_url.clone();
        let stale = self.in_flight.get(&url) != Some(&request.response_nonce);
        for name in request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe) {
            self.nacked.retain(|(kind, own, _)| (kind, own) != (&url, name));
            self.asked.insert((url.clone(), name.clone()));
        }
        for name in &request.resource_names_subscribe {
            let version = request.initial_resource_versions.get(name).cloned();
            self.sent.entry((url.clone(), name.clone())).or_insert(version);
        }
        for name in &request.resource_names_unsubscribe {
            self.sent.remove(&(url.clone(), name.clone()));
        }
        let nacked = request.error_detail.is_some();
        let answer = session.on_request(request).unwrap().answer;
        if stale {
            assert_eq!(answer, None, "rule 1");
            return true;
        }
        self.in_flight.remove(&url);
        match answer {
            Some(Answer::Ack) => assert!(!nacked, "rule 2"),
            Some(Answer::Nack { rejected, .. }) => {
                assert!(nacked, "rule 2");
                for rejection in rejected {
                    let detail = rejection.detail;
                    let held = self.client.version(rejection.type_url, &detail.name).map(str::to_owned);
                    self.sent.insert((url.clone(), detail.name.clone()), held);
                    if !self.asked.contains(&(url.clone(), detail.name.clone())) {
                        self.nacked.insert((url.clone(), detail.name, detail.version));
                    }
                }
            }
            None => panic!("the response in flight was answered"),
        }
        true
    }

    fn next_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.session.as_mut()?.poll(&self.world, self.world.revision, self.now)
    }

    /// Rule 11: whatever is wanted of the types before this one was sent.
    fn check_order(&self, type_url: &str) {
        for kind in TYPES.iter().take_while(|kind| kind.url != type_url) {
            for ((_, name), sent) in self.sent.iter().filter(|((url, _), _)| url == kind.url) {
                let Some(content) = self.world.content(kind.url, name) else { continue };
                let rejected = (kind.url.to_owned(), name.clone(), content.to_owned());
                let is_sent = sent.as_deref() == Some(content) || self.nacked.contains(&rejected);
                assert!(is_sent, "rule 11: {} {name}", kind.url);
            }
        }
    }

    fn poll(&mut self) {
        while let Some(response) = self.next_response() {
            assert_eq!(response.system_version_info, self.world.revision.to_string(), "rule 13");
            let before = self.in_flight.insert(response.type_url.clone(), response.nonce.clone());
            assert_eq!(before, None, "rule 12");
            let mut names = BTreeSet::new();
            let contents = response.resources.iter().map(|resource| &resource.name);
            for name in contents.chain(&response.removed_resources) {
                assert!(names.insert(name), "rule 9");
            }
            for name in &response.removed_resources {
                self.nacked.retain(|(kind, own, _)| (kind, own) != (&response.type_url, name));
                self.sent.insert((response.type_url.clone(), name.clone()), None);
            }
            if !response.resources.is_empty() {
                self.check_order(&response.type_url);
            }
            for resource in &response.resources {
                let key = (response.type_url.clone(), resource.name.clone());
                self.sent.insert(key, Some(resource.version.clone()));
                let sent = (response.type_url.clone(), resource.name.clone(), resource.version.clone());
                assert!(!self.nacked.contains(&sent), "rule 2");
                self.nacked.retain(|(kind, name, _)| (kind, name) != (&sent.0, &sent.1));
                self.asked.remove(&(sent.0, sent.1));
            }
            self.to_client.push_back(response);
        }
    }

    fn deliver_to_client(&mut self) -> bool {
        let Some(response) = self.to_client.pop_front() else { return false };
        let kind = TYPES.iter().find(|kind| kind.url == response.type_url).unwrap();
        self.taken.insert(kind.url, response.nonce.clone());
        let received = self.client.on_response(response, self.now, |_, content| {
            let text = String::from_utf8(content.value.clone()).unwrap();
            if text.starts_with(BAD) { Err(Violation::error("content", "bad", "bad")) } else { Ok(text) }
        });
        for update in received.updates {
            assert!(kind.wildcard || self.client.is_subscribed(kind.url, update.name()));
            match update {
                Update::Set { name, value, .. } => self.held.insert((kind.url, name), value),
                Update::Absent { name, .. } => self.held.remove(&(kind.url, name)),
            };
        }
        self.to_server.push_back(received.request);
        true
    }

    fn applied(&mut self) {
        self.snapshot.clone_from(&self.held);
        if let Some(session) = &mut self.session {
            for (url, nonce) in &self.taken {
                session.on_applied(url, nonce);
            }
        }
    }

    /// What is said to be applied is: nothing in the snapshot is from before that revision.
    fn check_applied(&self) {
        let Some(session) = &self.session else { return };
        let applied = session.applied_revision();
        for (key, content) in &self.snapshot {
            let history = &self.history[key];
            let ends = history.iter().skip(1).map(|(revision, _)| revision - 1).chain([u64::MAX]);
            let known_until = history
                .iter()
                .zip(ends)
                .filter(|((_, then), _)| then.as_ref() == Some(content))
                .map(|(_, end)| end)
                .max();
            assert!(known_until >= Some(applied), "{key:?} {content} {applied}");
        }
    }

    /// Delivers everything there is.
    fn settle(&mut self) {
        if self.session.is_none() {
            self.connect();
        }
        for _ in 0..10_000 {
            let moved = [self.deliver_to_server(), self.deliver_to_client()];
            self.poll();
            if moved == [false, false] {
                self.applied();
                return;
            }
        }
        panic!("the two ends never come to rest");
    }

    fn check(&self) {
        let session = self.session.as_ref().unwrap();
        let rejected: BTreeSet<_> = session
            .rejections()
            .map(|rejection| (rejection.type_url, rejection.detail.name.clone()))
            .collect();
        for kind in TYPES {
            for name in NAMES {
                let key = (kind.url, name.to_owned());
                let held = self.held.get(&key).map(String::as_str);
                assert_eq!(held, self.client.version(kind.url, name), "{key:?}");
                let content = self.world.content(kind.url, name);
                if !kind.wildcard && !self.client.is_subscribed(kind.url, name) {
                    assert_eq!(held, None, "{key:?} is not subscribed to");
                } else if content.is_some_and(|content| content.starts_with(BAD)) {
                    assert!(rejected.contains(&key), "{key:?}");
                    assert!(held.is_none_or(|held| held.starts_with("good")), "{key:?}");
                } else if content.is_some() || rejected.is_empty() {
                    // While something is rejected, what it may refer to is not removed.
                    assert_eq!(held, content, "{key:?}");
                    assert!(!rejected.contains(&key), "{key:?}");
                }
            }
            let mut unanswered = self.client.unanswered(kind.url);
            assert!(unanswered.all(|name| rejected.contains(&(kind.url, name.to_owned()))));
        }
        assert_eq!(session.applied_revision() == self.world.revision, rejected.is_empty());
        if rejected.is_empty() {
            assert!(session.is_idle());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn rules_01_to_14_hold_and_the_client_ends_up_with_what_the_source_has(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut mesh = Mesh::new();
        for step in steps {
            mesh.take(step);
        }
        mesh.settle();
        mesh.check();
        // Once the bad ones are mended, nothing of the detour is left.
        for (kind, name) in (0..TYPES.len()).flat_map(|kind| (0..NAMES.len()).map(move |name| (kind, name))) {
            let content = mesh.world.content(url(kind), NAMES[name]);
            if content.is_some_and(|text| text.starts_with(BAD)) {
                mesh.take(Step::Put { kind, name, content: "good-mended".to_owned() });
            }
        }
        mesh.settle();
        mesh.check();
        assert_eq!(mesh.session.as_ref().unwrap().rejections().count(), 0);
        // Rules 5 and 14: a reconnect at rest brings nothing new.
        mesh.connect();
        let mut resent = 0;
        for _ in 0..100 {
            mesh.deliver_to_server();
            mesh.poll();
            let responses = mesh.to_client.iter();
            resent += responses.map(|one| one.resources.len()).sum::<usize>();
            mesh.deliver_to_client();
        }
        assert_eq!(resent, 0);
        mesh.settle();
        mesh.check();
    }

    #[test]
    fn rule_08_a_client_never_sends_an_empty_first_request(steps in proptest::collection::vec(step(), 1..60)) {
        let mut mesh = Mesh::new();
        let mut started = BTreeSet::new();
        for step in steps {
            if matches!(step, Step::Connect | Step::Disconnect) {
                started.clear();
            }
            let before = mesh.to_server.len();
            let reconnects = matches!(step, Step::Connect);
            mesh.take(step);
            for request in mesh.to_server.iter().skip(if reconnects { 0 } else { before }) {
                if started.insert(request.type_url.clone()) {
                    prop_assert!(!request.resource_names_subscribe.is_empty());
                    let wildcard = TYPES[0].url == request.type_url;
                    let all = request.resource_names_subscribe.iter().any(|name| name == WILDCARD);
                    prop_assert_eq!(wildcard, all);
                }
            }
        }
    }
}
