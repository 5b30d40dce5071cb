//! A proxy's end of the discovery stream, whatever the control plane sends.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use outrigger_core::{
    delta::{
        TYPES,
        client::{Client, Update},
    },
    model::{EndpointSet, ProxyConfig, Service, TrustBundle, Violation},
};
use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryResponse, Node, Resource},
    mesh::v1alpha1 as wire,
    type_url,
};
use prost::Message;
use prost_types::Any;

const NAMES: [&str; 5] = ["a", "b", "self", "*", ""];

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Connect,
    Disconnect,
    Subscribe(u8, u8),
    Unsubscribe(u8, u8),
    Response { kind: u8, resources: Vec<(u8, u8, Option<u16>, &'a [u8])>, removed: Vec<u8> },
    Raw(&'a [u8]),
    Pass(u16),
}

fn url(kind: u8) -> &'static str {
    TYPES[usize::from(kind) % TYPES.len()].url
}

fn name(name: u8) -> &'static str {
    NAMES[usize::from(name) % NAMES.len()]
}

fn validate(any: &Any) -> Result<(), Violation> {
    fn decode<M: Message + Default>(any: &Any) -> Result<M, Violation> {
        M::decode(any.value.as_slice()).map_err(|_malformed| Violation::error("", "malformed", "malformed"))
    }
    match any.type_url.as_str() {
        type_url::PROXY_CONFIG => ProxyConfig::try_from(decode::<wire::ProxyConfig>(any)?).map(drop),
        type_url::TRUST_BUNDLE => TrustBundle::try_from(decode::<wire::TrustBundle>(any)?).map(drop),
        type_url::SERVICE => Service::try_from(decode::<wire::Service>(any)?).map(drop),
        _ => EndpointSet::try_from(decode::<wire::EndpointSet>(any)?).map(drop),
    }
}

fn respond(client: &mut Client, response: DeltaDiscoveryResponse, now: Instant) {
    let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
    let received = client.on_response(response, now, |_, any| validate(any));
    assert_eq!(received.request.response_nonce, nonce, "an answer names its response");
    assert_eq!(
        received.request.error_detail.is_some(),
        !received.rejected.is_empty() || kind(&type_url).is_none()
    );
    for update in received.updates {
        let kind = kind(&type_url).expect("a type that was asked for");
        assert!(
            kind.wildcard || client.is_subscribed(kind.url, update.name()),
            "{} was not wanted",
            update.name()
        );
        if let Update::Absent { name, .. } = update {
            assert_eq!(client.version(kind.url, &name), None);
        }
    }
}

fn kind(type_url: &str) -> Option<&'static outrigger_core::delta::ResourceType> {
    TYPES.iter().find(|kind| kind.url == type_url)
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut client = Client::new(Node::default(), &TYPES);
    let mut now = Instant::now();
    for step in steps {
        match step {
            Step::Connect => drop(client.connect()),
            Step::Disconnect => client.disconnect(),
            Step::Subscribe(kind, of) => drop(client.subscribe(url(kind), name(of))),
            Step::Unsubscribe(kind, of) => drop(client.unsubscribe(url(kind), name(of))),
            Step::Response { kind, resources, removed } => {
                let resources = resources.into_iter().map(|(of, version, ttl, content)| Resource {
                    name: name(of).to_owned(),
                    version: version.to_string(),
                    ttl: ttl.map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 }),
                    resource: Some(Any { type_url: url(kind).to_owned(), value: content.to_vec() }),
                    ..Resource::default()
                });
                let response = DeltaDiscoveryResponse {
                    type_url: url(kind).to_owned(),
                    nonce: "1".to_owned(),
                    resources: resources.collect(),
                    removed_resources: removed.into_iter().map(|of| name(of).to_owned()).collect(),
                    ..DeltaDiscoveryResponse::default()
                };
                respond(&mut client, response, now);
            }
            Step::Raw(bytes) => {
                if let Ok(response) = DeltaDiscoveryResponse::decode(bytes) {
                    respond(&mut client, response, now);
                }
            }
            Step::Pass(seconds) => {
                now += Duration::from_secs(seconds.into());
                drop(client.expire::<()>(now));
                assert!(
                    client.next_expiry().is_none_or(|next| next > now),
                    "something expired and is still held"
                );
            }
        }
    }
});
