//! The table of who may call what, walked over TLS: every call, every kind of caller.

use std::time::Duration;

use outrigger_control_plane::access::{Door, Rule, TABLE};
use outrigger_proto::{
    identity::v1alpha1::IssueRequest,
    policy::v1alpha1::{AuditRecord, ListRequest},
};
use outrigger_tls::{Identity, Key};
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::running::ControlPlane;

/// Sends and receives messages as they are on the wire.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// Makes the call `path` with one message, and returns how it ended; a stream that stays open has not been refused.
async fn call(channel: Channel, path: &'static str, message: Vec<u8>, token: Option<&str>) -> Code {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(message));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = async {
        let mut stream = client.streaming(request, path, Raw).await?.into_inner();
        stream.message().await
    };
    match tokio::time::timeout(Duration::from_secs(5), answer).await {
        Ok(Err(status)) => status.code(),
        Ok(Ok(_)) | Err(_) => Code::Ok,
    }
}

fn denied(code: Code) -> bool {
    matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented)
}

/// A message that gets past the decoding.
fn message(rule: &Rule, token: &str) -> Vec<u8> {
    if rule.method != "identity.Issue" {
        return Vec::new();
    }
    let key = Key::generate().unwrap();
    let csr_der = key.anonymous_csr_der().unwrap();
    IssueRequest { csr_der, join_token: token.to_owned(), spiffe_id: String::new() }.encode_to_vec()
}

struct Caller {
    name: &'static str,
    identity: Option<Identity>,
    allowed: fn(&Rule) -> bool,
    /// What a refusal says.
    refusal: Code,
}

fn callers(mesh: &ControlPlane) -> Vec<Caller> {
    let caller = |name, identity, allowed, refusal| Caller { name, identity, allowed, refusal };
    vec![
        caller("none", None, |_| false, Code::Unauthenticated),
        caller("workload", Some(mesh.workload("price")), |rule| rule.workload, Code::PermissionDenied),
        caller("reader", Some(mesh.kept("reader")), |rule| rule.reader, Code::PermissionDenied),
        caller("admin", Some(mesh.kept("admin")), |rule| rule.admin, Code::PermissionDenied),
        caller("operator without a role", Some(mesh.operator("nobody")), |_| false, Code::PermissionDenied),
    ]
}

fn port(mesh: &ControlPlane, door: Door, identity: Option<&Identity>) -> Channel {
    match door {
        Door::Policy => mesh.policy_port(identity),
        Door::Discovery => mesh.discovery_port(identity),
    }
}

#[tokio::test]
async fn every_call_is_open_to_whom_the_table_says_and_to_nobody_else() {
    let mesh = ControlPlane::start().await;
    let mut refused = 0;
    for caller in callers(&mesh) {
        for rule in &TABLE {
            let channel = port(&mesh, rule.door, caller.identity.as_ref());
            let code = call(channel, rule.path, message(rule, ""), None).await;
            if (caller.allowed)(rule) {
                assert!(!denied(code), "{} is open to {}: {code:?}", rule.method, caller.name);
            } else {
                refused += 1;
                assert_eq!(code, caller.refusal, "{} is closed to {}", rule.method, caller.name);
            }
        }
    }
    let records = mesh.audit().await;
    let on_record = records.iter().filter(|record| record.denied && !record.message.starts_with("invalid"));
    assert_eq!(on_record.count(), refused, "each refusal is on record, with its caller");
    assert!(mesh.metrics().await.contains(
        "outrigger_control_plane_refused_calls_total{method=\"policy.Apply\",reason=\"anonymous\"} 1"
    ));
}

#[tokio::test]
async fn a_join_token_opens_issue_and_nothing_else() {
    let mesh = ControlPlane::start().await;
    let token = mesh.token("price", &[]).await;
    for rule in &TABLE {
        let channel = port(&mesh, rule.door, None);
        let code = call(channel, rule.path, message(rule, &token), Some(&token)).await;
        let expected = if rule.join_token { Code::Ok } else { Code::Unauthenticated };
        assert_eq!(code, expected, "{}", rule.method);
    }
}

#[tokio::test]
async fn a_call_is_unknown_at_the_other_port() {
    let mesh = ControlPlane::start().await;
    let admin = mesh.kept("admin");
    for rule in &TABLE {
        let other = if rule.door == Door::Policy { Door::Discovery } else { Door::Policy };
        let channel = port(&mesh, other, Some(&admin));
        assert_eq!(call(channel, rule.path, Vec::new(), None).await, Code::Unimplemented, "{}", rule.method);
    }
    let records = mesh.audit().await;
    for rule in &TABLE {
        let is_it = |record: &&AuditRecord| record.denied && record.message.contains(rule.path);
        let record = records.iter().find(is_it).expect("what is not in the table is refused and on record");
        assert_eq!((record.method.as_str(), record.revision), ("unknown", 0));
    }
}

#[tokio::test]
async fn a_certificate_of_another_mesh_is_no_certificate_at_all() {
    let (mesh, other) = (ControlPlane::start().await, ControlPlane::start().await);
    for identity in [other.kept("admin"), other.workload("price")] {
        // Trusts the right control plane, but shows what another one issued.
        let shown = Identity::new(
            (*identity.svid().unwrap()).clone(),
            (*mesh.state.upkeep.identity().bundle().unwrap()).clone(),
        );
        let mut client = Grpc::new(mesh.policy_port(Some(&shown)));
        let path = http::uri::PathAndQuery::from_static(TABLE[1].path);
        let refused = match client.ready().await {
            Ok(()) => client.unary(Request::new(Vec::new()), path, Raw).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
    let metrics = mesh.metrics().await;
    let counted =
        "outrigger_control_plane_refused_connections_total{port=\"policy\",reason=\"unknown_authority\"}";
    assert!(metrics.contains(counted), "{metrics}");
}

/// A call that a service has but the table has not would be nobody's: this finds it before an operator does.
#[test]
fn the_table_has_every_call_of_every_service() {
    let protos = [
        include_str!("../../../proto/outrigger/policy/v1alpha1/policy.proto"),
        include_str!("../../../proto/outrigger/backup/v1alpha1/backup.proto"),
        include_str!("../../../proto/outrigger/identity/v1alpha1/identity.proto"),
        include_str!("../../../proto/outrigger/status/v1alpha1/status.proto"),
        include_str!("../../../proto/outrigger/registry/v1alpha1/registry.proto"),
        include_str!("../../../proto/outrigger/telemetry/v1alpha1/telemetry.proto"),
        include_str!("../../../proto/envoy/service/discovery/v3/ads.proto"),
    ];
    let mut paths = Vec::new();
    for proto in protos {
        let word = |line: &str, after: &str| {
            line.trim().strip_prefix(after).map(|rest| {
                rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '_')).collect::<String>()
            })
        };
        let package = proto.lines().find_map(|line| word(line, "package ")).unwrap();
        let mut service = String::new();
        for line in proto.lines() {
            service = word(line, "service ").unwrap_or(service);
            paths.extend(word(line, "rpc ").map(|call| format!("/{package}.{service}/{call}")));
        }
    }
    let mut known: Vec<String> = TABLE.iter().map(|rule| rule.path.to_owned()).collect();
    paths.sort();
    known.sort();
    assert_eq!(paths, known);
}

#[tokio::test]
async fn an_operators_connection_is_worth_no_more_than_its_certificate() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    admin.list(ListRequest::default()).await.unwrap();
    mesh.pass(Duration::from_hours(8 * 24));
    let refused = admin.list(ListRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("has expired"), "{refused:?}");
}
