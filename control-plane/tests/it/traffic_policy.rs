//! TrafficPolicies: what they need, what they keep, and whom they wait for.

use outrigger_proto::{
    mesh::v1alpha1 as mesh,
    policy::v1alpha1::{GetRequest, Kind},
    type_url::ENDPOINT_SET,
};
use tonic::Code;

use crate::{
    mesh::converged,
    policy::{SERVICES, apply, delete, diagnostics, items, reference},
    running::ControlPlane,
    support,
};

const TRAFFIC: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: patient, namespace: demo}
spec: {targetRefs: [{name: price, port: 80}, {name: price-v2}], timeouts: {request: 2s}, retry: {}}
";

const PATIENT: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: patient, namespace: demo}
spec: {targetRefs: [{name: price}], retry: {attempts: 3}}
";

#[tokio::test]
async fn a_traffic_policy_needs_its_targets_and_keeps_them() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let refused = apply(&mut admin, items(TRAFFIC)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let found = diagnostics(&refused);
    let fields: Vec<&str> = found.iter().map(|diagnostic| diagnostic.field.as_str()).collect();
    assert_eq!(fields, ["spec.targetRefs[0].name", "spec.targetRefs[1].name"]);
    assert_eq!(found[0].code, "dangling_reference");
    assert_eq!(found[0].remedy, "apply it before the policy, or together with it");

    apply(&mut admin, items(&format!("{SERVICES}---{TRAFFIC}"))).await.unwrap();
    let elsewhere = items(&TRAFFIC.replace("namespace: demo", "namespace: other"));
    let found = diagnostics(&apply(&mut admin, elsewhere).await.unwrap_err());
    assert!(found[0].remedy.contains("write the policy in namespace demo"), "{found:?}");
    let found =
        diagnostics(&apply(&mut admin, items(&TRAFFIC.replace("port: 80", "port: 81"))).await.unwrap_err());
    assert_eq!(
        (found[0].field.as_str(), found[0].code.as_str()),
        ("spec.targetRefs[0].port", "dangling_reference")
    );
    assert_eq!(found[0].remedy, "its ports are 80");

    let refused = delete(&mut admin, &[(Kind::Service, "price-v2")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let found = diagnostics(&refused);
    assert_eq!(found[0].code, "referenced");
    assert!(
        found[0].message.contains("TrafficPolicy demo/patient refers to it in spec.targetRefs[1].name"),
        "{found:?}"
    );
    let reference = reference(Kind::TrafficPolicy, "patient");
    let stored = admin.get(GetRequest { r#ref: Some(reference) }).await.unwrap().into_inner();
    let conditions = stored.status.unwrap().conditions;
    let kinds: Vec<&str> = conditions.iter().map(|condition| condition.r#type.as_str()).collect();
    assert_eq!(kinds, ["Accepted", "ResolvedRefs", "Programmed"]);
    delete(&mut admin, &[(Kind::TrafficPolicy, "patient"), (Kind::Service, "price-v2")]).await.unwrap();
}

#[tokio::test]
async fn a_target_has_one_traffic_policy() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let named = |name: &str| items(&TRAFFIC.replace("patient", name));
    // New at once, the second by name is the one too many.
    let refused = apply(&mut admin, [items(SERVICES), named("b"), named("a")].concat()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let found = diagnostics(&refused);
    let told: Vec<_> = found
        .iter()
        .map(|found| (found.code.as_str(), found.field.as_str(), found.message.as_str(), &found.r#ref))
        .collect();
    let b = Some(reference(Kind::TrafficPolicy, "b"));
    assert_eq!(
        told,
        [
            (
                "conflict",
                "spec.targetRefs[0]",
                "TrafficPolicy demo/a is already for Service demo/price port 80",
                &b
            ),
            (
                "conflict",
                "spec.targetRefs[1]",
                "TrafficPolicy demo/a is already for Service demo/price-v2",
                &b
            ),
        ]
    );
    assert!(found.iter().all(|found| !found.remedy.is_empty()));

    apply(&mut admin, [items(SERVICES), named("b")].concat()).await.unwrap();
    let found = diagnostics(&apply(&mut admin, named("a")).await.unwrap_err());
    assert_eq!(found[0].r#ref, Some(reference(Kind::TrafficPolicy, "a")), "who was there first, stays");
    // A port, and every port, are two targets.
    let every = TRAFFIC
        .replace("patient", "a")
        .replace("[{name: price, port: 80}, {name: price-v2}]", "[{name: price}]");
    apply(&mut admin, items(&every)).await.unwrap();
    let swapped = [
        items(&every.replace("[{name: price}]", "[{name: price, port: 80}]")),
        items(&every.replace("name: a,", "name: b,")),
    ];
    apply(&mut admin, swapped.concat()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_policy_waits_for_the_proxies_that_hold_the_endpoint_sets_of_its_targets() {
    let control = ControlPlane::start().await;
    support::apply(&control, SERVICES).await;
    let mut streams = Vec::new();
    for (account, set) in [("front", "demo/price:80"), ("till", "demo/price-v2:80")] {
        let client = support::proxy(&control, account);
        let mut stream = client.discover(&format!("{account}-1")).await;
        stream.subscribe(ENDPOINT_SET, &[set]).await;
        let first = stream.accept().await;
        let reports = client.reports().await;
        reports.send(support::applied(&[&first])).await.unwrap();
        streams.push((stream, reports));
    }
    let [(front, reports), (till, _)] = streams.as_mut_slice() else { panic!("two streams") };

    let revision = support::apply(&control, PATIENT).await;
    let pushed = front.accept().await;
    assert_eq!(pushed.system_version_info, revision.to_string());
    let set: mesh::EndpointSet = support::decode(&pushed);
    assert_eq!(set.requires, ["resilience"]);
    assert_eq!(set.resilience.unwrap().retry.unwrap().attempts, Some(3));
    let waiting = converged(&control, revision, 300).await;
    assert!(!waiting.converged, "accepted is not applied");
    // The other proxy holds nothing of it, and is told nothing.
    assert_eq!((waiting.targeted, waiting.current), (2, 1));
    assert_eq!(waiting.behind[0].node_id, "spiffe://outrigger.local/ns/demo/sa/front#front-1");
    reports.send(support::applied(&[&pushed])).await.unwrap();
    assert!(converged(&control, revision, 10_000).await.converged);

    // A rejection is traced to it.
    let revision = support::apply(&control, &PATIENT.replace('3', "4")).await;
    let pushed = front.next().await;
    front.reject(&pushed, "resilience.retry.attempts").await;
    let state = converged(&control, revision, 10_000).await;
    let causes: Vec<_> = state.behind[0].rejections[0].causes.iter().map(|cause| cause.kind()).collect();
    assert_eq!(causes, [Kind::Service, Kind::TrafficPolicy]);
    // What comes next on the other stream is of the next change to its own set, not of these.
    let revision = support::apply(&control, &PATIENT.replace("name: price}", "name: price-v2}")).await;
    assert_eq!(till.accept().await.system_version_info, revision.to_string());
}
