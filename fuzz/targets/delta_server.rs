//! The control plane's end of a discovery stream, whatever the proxy sends.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use outrigger_core::delta::{
    TYPES,
    server::{Lookup, Session, Source},
};
use outrigger_proto::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::rpc::Status};
use prost::Message;

const NAMES: [&str; 5] = ["a", "b", "self", "*", ""];

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Request {
        kind: u8,
        subscribe: Vec<u8>,
        unsubscribe: Vec<u8>,
        held: Vec<(u8, u8)>,
        answers: bool,
        rejects: bool,
    },
    Raw(&'a [u8]),
    Change {
        kind: u8,
        name: u8,
        content: Option<u8>,
    },
    Applied(u8),
    Lapse,
    Pass(u8),
}

#[derive(Default)]
struct World(BTreeMap<(&'static str, &'static str), String>);

impl Source for World {
    fn get(&self, type_url: &str, name: &str) -> Lookup<'_> {
        let found = self.0.iter().find(|((url, own), _)| *url == type_url && *own == name);
        match found {
            None => Lookup::NotFound,
            Some((_, content)) if content == "0" => Lookup::Denied("not for you"),
            Some((_, content)) => {
                let ttl = (content == "1").then_some(Duration::from_secs(30));
                Lookup::Found { version: content, content: content.as_bytes(), ttl }
            }
        }
    }

    fn wildcard(&self, type_url: &str) -> Vec<String> {
        let all = self.0.iter().filter(|((url, _), content)| *url == type_url && *content != "0");
        all.map(|((_, name), _)| (*name).to_owned()).collect()
    }
}

fn url(kind: u8) -> &'static str {
    TYPES[usize::from(kind) % TYPES.len()].url
}

fn name(name: u8) -> &'static str {
    NAMES[usize::from(name) % NAMES.len()]
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut world = World::default();
    let (mut now, mut revision) = (Instant::now(), 1);
    let mut session = Session::new(7, &TYPES, revision);
    // By type, the nonce that has no answer yet.
    let mut in_flight: BTreeMap<String, String> = BTreeMap::new();
    for step in steps {
        let request = match step {
            Step::Request { kind, subscribe, unsubscribe, held, answers, rejects } => {
                Some(DeltaDiscoveryRequest {
                    type_url: url(kind).to_owned(),
                    resource_names_subscribe: subscribe.into_iter().map(|of| name(of).to_owned()).collect(),
                    resource_names_unsubscribe: unsubscribe
                        .into_iter()
                        .map(|of| name(of).to_owned())
                        .collect(),
                    initial_resource_versions: held
                        .into_iter()
                        .map(|(of, it)| (name(of).to_owned(), it.to_string()))
                        .collect(),
                    response_nonce: if answers {
                        in_flight.get(url(kind)).cloned().unwrap_or_default()
                    } else {
                        String::new()
                    },
                    error_detail: rejects.then(Status::default),
                    ..DeltaDiscoveryRequest::default()
                })
            }
            Step::Raw(bytes) => DeltaDiscoveryRequest::decode(bytes).ok(),
            Step::Change { kind, name: of, content } => {
                revision += 1;
                match content {
                    // The name of all is no name.
                    Some(content) if name(of) != "*" => {
                        world.0.insert((url(kind), name(of)), content.to_string());
                    }
                    _ => drop(world.0.remove(&(url(kind), name(of)))),
                }
                session.on_change(revision, [(url(kind), name(of))]);
                None
            }
            Step::Applied(kind) => {
                session.on_applied(url(kind), in_flight.get(url(kind)).map_or("", String::as_str));
                None
            }
            Step::Lapse => {
                session.on_lapse(revision);
                None
            }
            Step::Pass(seconds) => {
                now += Duration::from_secs(seconds.into());
                None
            }
        };
        if let Some(request) = request {
            let (url, nonce) = (request.type_url.clone(), request.response_nonce.clone());
            match session.on_request(request) {
                // The stream ends here.
                Err(_) => return,
                Ok(received) if received.answer.is_some() => {
                    assert_eq!(in_flight.remove(&url), Some(nonce), "an answer to nothing");
                }
                Ok(_) => {}
            }
        }
        for _ in 0..64 {
            let Some(response) = session.poll(&world, revision, now) else { break };
            let before = in_flight.insert(response.type_url.clone(), response.nonce.clone());
            assert_eq!(before, None, "two in flight");
            let named =
                response.resources.iter().map(|resource| &resource.name).chain(&response.removed_resources);
            let mut seen = BTreeSet::new();
            assert!(named.into_iter().all(|name| seen.insert(name)), "a name twice");
        }
        assert!(session.poll(&world, revision, now).is_none(), "it never comes to rest");
        assert!(session.applied_revision() <= revision);
    }
});
