//! Joining and renewing, and everything that is tried instead.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use outrigger_control_plane::{
    audit::{self, Head},
    authority::labels,
};
use outrigger_core::{model::SpiffeId, wire::time::decode_timestamp};
use outrigger_proto::identity::v1alpha1::{
    CreateTokenRequest, IssueRequest, IssueResponse, token_service_client::TokenServiceClient,
};
use outrigger_tls::{Bundle, Identity, Key, Svid};
use tonic::{Code, Status};

use crate::running::ControlPlane;

const PRICE: &str = "spiffe://outrigger.local/ns/demo/sa/price";
const FRONT: &str = "spiffe://outrigger.local/ns/demo/sa/front";

fn request(key: &Key, token: &str) -> IssueRequest {
    IssueRequest {
        csr_der: key.anonymous_csr_der().unwrap(),
        join_token: token.to_owned(),
        spiffe_id: String::new(),
    }
}

fn identity(key: &Key, response: &IssueResponse) -> Identity {
    let svid = Svid::from_parts(response.chain_der.clone(), key.clone()).unwrap();
    let bundle = response.bundle.clone().unwrap();
    let domain = bundle.trust_domain.parse().unwrap();
    Identity::new(svid, Bundle::new(domain, bundle.x509_authorities, bundle.sequence).unwrap())
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn a_token_brings_a_certificate_that_renews_itself() {
    let mesh = ControlPlane::start().await;
    let token = mesh.token("price", &[("version", "v2")]).await;
    let key = Key::generate().unwrap();
    let joined = mesh.issue(None, request(&key, &token)).await.unwrap();
    assert_eq!(joined.spiffe_id, PRICE);
    assert_eq!(joined.chain_der.len(), 2, "leaf and intermediate, never the root");
    let at = |time: &Option<prost_types::Timestamp>| decode_timestamp(time.as_ref().unwrap()).unwrap();
    let life = at(&joined.not_after).duration_since(SystemTime::now()).unwrap();
    assert!(life > Duration::from_secs(24 * 3600 - 60) && life <= Duration::from_secs(24 * 3600), "{life:?}");
    let renewal = at(&joined.renew_after).duration_since(SystemTime::now()).unwrap();
    assert!(renewal > Duration::from_hours(10) && renewal < Duration::from_hours(14), "{renewal:?}");

    let first = identity(&key, &joined);
    let next = Key::generate().unwrap();
    let renewed = mesh.issue(Some(&first), request(&next, "")).await.unwrap();
    assert_eq!(renewed.spiffe_id, PRICE);
    let expected = BTreeMap::from([("version".to_owned(), "v2".to_owned())]);
    for chain in [&joined.chain_der, &renewed.chain_der] {
        assert_eq!(labels::read(&chain[0]), Some(expected.clone()), "labels are the token's, and stay");
    }
    let again = identity(&next, &renewed);
    mesh.issue(Some(&again), request(&next, "")).await.unwrap();
}

#[tokio::test]
async fn two_workloads_of_one_identity_keep_their_own_labels() {
    let mesh = ControlPlane::start().await;
    let mut joined = Vec::new();
    for version in ["v1", "v2"] {
        let token = mesh.token("price", &[("version", version)]).await;
        let key = Key::generate().unwrap();
        let response = mesh.issue(None, request(&key, &token)).await.unwrap();
        joined.push((version, key, response));
    }
    for (version, key, response) in joined {
        let renewed = mesh.issue(Some(&identity(&key, &response)), request(&key, "")).await.unwrap();
        assert_eq!(labels::read(&renewed.chain_der[0]).unwrap()["version"], version);
    }
}

#[tokio::test]
async fn a_lost_answer_may_be_asked_for_again_and_another_key_is_an_alarm() {
    let mesh = ControlPlane::start().await;
    let token = mesh.token("price", &[]).await;
    let (key, thief) = (Key::generate().unwrap(), Key::generate().unwrap());
    mesh.issue(None, request(&key, &token)).await.unwrap();
    mesh.issue(None, request(&key, &token)).await.unwrap();
    let refused = mesh.issue(None, request(&thief, &token)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(!refused.message().contains("127.0.0.1"), "the thief learns nothing: {refused:?}");
    mesh.issue(None, request(&key, &token)).await.unwrap();

    assert!(mesh.metrics().await.contains("outrigger_join_token_alarms_total 1"));
    let records = mesh.audit().await;
    let alarm = records.iter().find(|record| record.message.contains("token_another_key")).unwrap();
    assert_eq!(alarm.message.matches("127.0.0.1:").count(), 2, "both peers: {}", alarm.message);
    assert!(alarm.denied && alarm.method == "identity.Issue" && alarm.revision == 0);
}

#[tokio::test]
async fn of_many_redemptions_at_once_one_key_wins() {
    let mesh = ControlPlane::start().await;
    let token = mesh.token("price", &[]).await;
    let keys: Vec<Key> = (0..6).map(|_| Key::generate().unwrap()).collect();
    let (a, b, c, d, e, f) = tokio::join!(
        mesh.issue(None, request(&keys[0], &token)),
        mesh.issue(None, request(&keys[1], &token)),
        mesh.issue(None, request(&keys[2], &token)),
        mesh.issue(None, request(&keys[3], &token)),
        mesh.issue(None, request(&keys[4], &token)),
        mesh.issue(None, request(&keys[5], &token)),
    );
    assert_eq!([a, b, c, d, e, f].iter().filter(|result| result.is_ok()).count(), 1);
}

#[tokio::test]
async fn wrong_tokens_are_refused_without_saying_what_is_wrong() {
    let (mesh, other) = (ControlPlane::start().await, ControlPlane::start().await);
    let token = mesh.token("price", &[]).await;
    let parts: Vec<&str> = token.split('.').collect();
    let unknown = format!("{}.{}.{}.{}", parts[0], "0123456789abcdef", parts[2], parts[3]);
    let guessed = format!("{}.{}.{}.{}", parts[0], parts[1], "A".repeat(43), parts[3]);
    let foreign = other.token("price", &[]).await;
    let key = Key::generate().unwrap();
    let mut messages = Vec::new();
    for wrong in [unknown.as_str(), &guessed, &foreign, "otr1.x", "password"] {
        let refused = mesh.issue(None, request(&key, wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{wrong}");
        messages.push(refused.message().to_owned());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    for record in mesh.audit().await {
        assert!(!record.message.contains(parts[2]), "no secret is in the log");
    }
    mesh.issue(None, request(&key, &token)).await.unwrap();
}

#[tokio::test]
async fn an_expired_token_is_refused_for_the_first_and_the_next_redemption() {
    let mesh = ControlPlane::start().await;
    let (used, unused) = (mesh.token("price", &[]).await, mesh.token("price", &[]).await);
    let key = Key::generate().unwrap();
    mesh.issue(None, request(&key, &used)).await.unwrap();
    mesh.pass(Duration::from_mins(10));
    for token in [used, unused] {
        let refused = mesh.issue(None, request(&key, &token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("expired"), "{refused:?}");
    }
}

#[tokio::test]
async fn nobody_gets_a_certificate_for_somebody_elses_name() {
    let mesh = ControlPlane::start().await;
    let token = mesh.token("price", &[]).await;
    let key = Key::generate().unwrap();
    let front: SpiffeId = FRONT.parse().unwrap();
    let asked = IssueRequest { csr_der: key.csr_der(&front).unwrap(), ..request(&key, &token) };
    let claimed = IssueRequest { spiffe_id: FRONT.to_owned(), ..request(&key, &token) };
    for wrong in [asked.clone(), claimed] {
        assert_eq!(code(mesh.issue(None, wrong).await), Code::PermissionDenied);
    }
    let price = mesh.workload("price");
    assert_eq!(
        code(mesh.issue(Some(&price), IssueRequest { join_token: String::new(), ..asked }).await),
        Code::PermissionDenied
    );
    // The token was not spent on the attempts, and a request that names the right identity is fine.
    let right = Key::generate().unwrap();
    let own = IssueRequest {
        csr_der: right.csr_der(&PRICE.parse().unwrap()).unwrap(),
        spiffe_id: PRICE.to_owned(),
        ..request(&right, &token)
    };
    assert_eq!(mesh.issue(None, own).await.unwrap().spiffe_id, PRICE);
}

#[tokio::test]
async fn a_request_that_is_no_request_is_refused_with_its_field() {
    let mesh = ControlPlane::start().await;
    let token = mesh.token("price", &[]).await;
    for csr_der in [Vec::new(), vec![0x30; 300], vec![0; 20_000]] {
        let wrong = IssueRequest { csr_der, join_token: token.clone(), spiffe_id: String::new() };
        let refused = mesh.issue(None, wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("csr_der: "), "{refused:?}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_made_says_why() {
    let mesh = ControlPlane::start().await;
    let mut client = TokenServiceClient::new(mesh.policy_port(Some(&mesh.kept("admin"))));
    let fine = CreateTokenRequest {
        namespace: "demo".to_owned(),
        service_account: "price".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        labels: BTreeMap::new(),
    };
    let long = prost_types::Duration { seconds: 86_401, nanos: 0 };
    for (field, wrong) in [
        ("namespace", CreateTokenRequest { namespace: "De/mo".to_owned(), ..fine.clone() }),
        ("service_account", CreateTokenRequest { service_account: String::new(), ..fine.clone() }),
        ("ttl", CreateTokenRequest { ttl: Some(prost_types::Duration::default()), ..fine.clone() }),
        ("ttl", CreateTokenRequest { ttl: Some(long), ..fine.clone() }),
        (
            "labels",
            CreateTokenRequest { labels: BTreeMap::from([(String::new(), String::new())]), ..fine.clone() },
        ),
    ] {
        let refused = client.create_token(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let made = client.create_token(fine).await.unwrap().into_inner();
    assert_eq!(made.spiffe_id, PRICE);
    assert!(made.token.starts_with(&format!("otr1.{}.", made.id)));
    let records = mesh.audit().await;
    assert_eq!(records.last().unwrap().method, "identity.CreateToken");
    assert!(records.last().unwrap().message.contains(&made.id));
    let refused = records.iter().filter(|record| record.denied && record.method == "identity.CreateToken");
    assert_eq!(refused.count(), 5, "refusals are on record too");
    records.iter().try_fold(Head::start(), |head, record| audit::follow(&head, record)).unwrap();
}

#[tokio::test]
async fn a_restart_keeps_tokens_and_their_bindings() {
    let mesh = ControlPlane::start().await;
    let (fresh, bound) = (mesh.token("price", &[]).await, mesh.token("price", &[]).await);
    let (key, thief) = (Key::generate().unwrap(), Key::generate().unwrap());
    let joined = mesh.issue(None, request(&key, &bound)).await.unwrap();
    let mesh = mesh.restart(async |_| ()).await;
    mesh.issue(None, request(&key, &fresh)).await.unwrap();
    mesh.issue(None, request(&key, &bound)).await.unwrap();
    assert_eq!(code(mesh.issue(None, request(&thief, &bound)).await), Code::Unauthenticated);
    mesh.issue(Some(&identity(&key, &joined)), request(&key, "")).await.unwrap();
}
