//! PolicyService: what is stored, what is refused, and what is on record.

use std::collections::BTreeSet;

use outrigger_control_plane::access::{Grant, Role};
use outrigger_core::{policy, wire};
use outrigger_proto::{
    google::rpc,
    policy::v1alpha1::{
        self as proto, ApplyItem, ApplyRequest, ApplyResponse, DeleteItem, DeleteRequest, Diagnostic,
        Diagnostics, GetRequest, Kind, ListRequest, Object, ObjectRef, Precondition, item_result::Action,
        policy_service_client::PolicyServiceClient, precondition,
    },
};
use prost::Message;
use tonic::{Code, Status, transport::Channel};

use crate::running::{ControlPlane, role};

pub(crate) type Client = PolicyServiceClient<Channel>;

pub(crate) const SERVICES: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price-v2, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP}]}
";

pub(crate) const ROUTE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{name: price}]
  rules:
  - backendRefs: [{name: price, port: 80, weight: 90}, {name: price-v2, port: 80, weight: 10}]
";

pub(crate) fn items(documents: &str) -> Vec<ApplyItem> {
    let documents = policy::parse(documents).unwrap();
    documents
        .iter()
        .map(|document| ApplyItem {
            object: Some((&document.object).into()),
            precondition: None,
            source: String::new(),
        })
        .collect()
}

pub(crate) async fn apply(client: &mut Client, items: Vec<ApplyItem>) -> Result<ApplyResponse, Status> {
    let request = ApplyRequest { items, message: "test".to_owned(), ..ApplyRequest::default() };
    client.apply(request).await.map(tonic::Response::into_inner)
}

pub(crate) async fn dry_run(client: &mut Client, items: Vec<ApplyItem>) -> Result<ApplyResponse, Status> {
    let request = ApplyRequest { items, dry_run: true, ..ApplyRequest::default() };
    client.apply(request).await.map(tonic::Response::into_inner)
}

pub(crate) async fn delete(
    client: &mut Client,
    names: &[(Kind, &str)],
) -> Result<proto::DeleteResponse, Status> {
    let items = names
        .iter()
        .map(|(kind, name)| DeleteItem { r#ref: Some(reference(*kind, name)), precondition: None })
        .collect();
    let request = DeleteRequest { items, ..DeleteRequest::default() };
    client.delete(request).await.map(tonic::Response::into_inner)
}

pub(crate) async fn list(client: &mut Client) -> Vec<Object> {
    client.list(ListRequest::default()).await.unwrap().into_inner().objects
}

pub(crate) fn reference(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "demo".to_owned(), name: name.to_owned() }
}

pub(crate) fn diagnostics(status: &Status) -> Vec<Diagnostic> {
    let rich = rpc::Status::decode(status.details()).unwrap();
    assert_eq!(rich.details.len(), 1);
    Diagnostics::decode(rich.details[0].value.as_slice()).unwrap().diagnostics
}

pub(crate) fn actions(response: &ApplyResponse) -> Vec<Action> {
    response.results.iter().map(proto::ItemResult::action).collect()
}

#[tokio::test]
async fn objects_are_created_changed_kept_and_found_again_after_a_restart() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let created = apply(&mut admin, items(&format!("{SERVICES}---{ROUTE}"))).await.unwrap();
    assert_eq!(actions(&created), [Action::Created; 3]);
    assert!(created.results.iter().all(|result| result.revision == created.revision));

    let unchanged = apply(&mut admin, items(SERVICES)).await.unwrap();
    assert_eq!(actions(&unchanged), [Action::Unchanged; 2]);
    assert_eq!(unchanged.revision, created.revision, "an unchanged object makes no revision");

    let updated = apply(&mut admin, items(&ROUTE.replace("90", "50"))).await.unwrap();
    assert_eq!(actions(&updated), [Action::Updated]);
    assert_eq!(updated.revision, created.revision + 1);

    let before = list(&mut admin).await;
    let mesh = mesh.restart(async |_| ()).await;
    let after = list(&mut mesh.admin()).await;
    assert_eq!(after, before);
    let route =
        after.iter().find(|object| matches!(object.spec, Some(proto::object::Spec::Route(_)))).unwrap();
    let metadata = route.metadata.as_ref().unwrap();
    assert_eq!((metadata.revision, metadata.generation), (updated.revision, 2));
    assert_eq!(metadata.updated_by, "spiffe://outrigger.local/outrigger/operator/admin");
    let conditions = &route.status.as_ref().unwrap().conditions;
    let kinds: Vec<&str> = conditions.iter().map(|condition| condition.r#type.as_str()).collect();
    assert_eq!(kinds, ["Accepted", "ResolvedRefs", "Programmed"]);
    assert!(conditions.iter().all(|condition| condition.status && condition.observed_generation == 2));
}

#[tokio::test]
async fn a_request_with_one_bad_object_stores_nothing_of_it() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let mut request = items(SERVICES);
    let mut bad = items(ROUTE).remove(0);
    bad.source = "mesh.yaml, document 3".to_owned();
    if let Some(proto::object::Spec::Route(spec)) = &mut bad.object.as_mut().unwrap().spec {
        for backend in &mut spec.rules[0].backends {
            backend.weight = Some(0);
        }
    }
    request.push(bad);
    request.push(ApplyItem { object: Some(Object::default()), precondition: None, source: String::new() });
    let refused = apply(&mut admin, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let found = diagnostics(&refused);
    assert!(found[0].field.starts_with("spec.rules[0].backendRefs"), "{found:?}");
    assert!(found[0].message.ends_with("(mesh.yaml, document 3)"), "{found:?}");
    assert_eq!(found[0].r#ref, Some(reference(Kind::Route, "canary")));
    assert!(found.iter().any(|diagnostic| diagnostic.field == "spec"), "the other one too: {found:?}");
    assert_eq!(list(&mut admin).await, []);
}

#[tokio::test]
async fn dangling_references_are_refused_with_path_and_remedy() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let refused = apply(&mut admin, items(ROUTE)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let found = diagnostics(&refused);
    let fields: Vec<&str> = found.iter().map(|diagnostic| diagnostic.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.parentRefs[0].name", "spec.rules[0].backendRefs[0].name", "spec.rules[0].backendRefs[1].name"]
    );
    assert!(
        found
            .iter()
            .all(|diagnostic| diagnostic.code == "dangling_reference" && !diagnostic.remedy.is_empty())
    );

    apply(&mut admin, items(SERVICES)).await.unwrap();
    let refused =
        apply(&mut admin, items(&ROUTE.replace("name: price-v2, port: 80", "name: price-v2, port: 81")));
    let found = diagnostics(&refused.await.unwrap_err());
    assert_eq!(found[0].field, "spec.rules[0].backendRefs[1].port");
    assert_eq!(found[0].remedy, "its ports are 80");
}

#[tokio::test]
async fn what_is_referred_to_cannot_go_but_with_what_refers_to_it() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    apply(&mut admin, items(&format!("{SERVICES}---{ROUTE}"))).await.unwrap();
    let refused = delete(&mut admin, &[(Kind::Service, "price-v2")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let found = diagnostics(&refused);
    assert_eq!(
        (found[0].code.as_str(), &found[0].r#ref),
        ("referenced", &Some(reference(Kind::Service, "price-v2")))
    );
    assert!(found[0].message.contains("Route demo/canary refers to it"), "{found:?}");

    let renumbered = items(&SERVICES.replace("port: 80", "port: 8080"));
    let refused = apply(&mut admin, renumbered).await.unwrap_err();
    assert_eq!(diagnostics(&refused)[0].r#ref, Some(reference(Kind::Route, "canary")), "who would be broken");

    let both = [(Kind::Service, "price-v2"), (Kind::Route, "canary")];
    let deleted = delete(&mut admin, &both).await.unwrap();
    assert!(deleted.results.iter().all(|result| result.action() == Action::Deleted));
    assert_eq!(list(&mut admin).await.len(), 1);
    assert_eq!(delete(&mut admin, &both).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_stores_nothing() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let with = |documents: &str, kind| {
        let mut items = items(documents);
        for item in &mut items {
            item.precondition = Some(Precondition { kind: Some(kind) });
        }
        items
    };
    let first = apply(&mut admin, with(SERVICES, precondition::Kind::MustNotExist(true))).await.unwrap();
    let changed = SERVICES.replace("port: 80", "port: 81");
    for kind in [precondition::Kind::MustNotExist(true), precondition::Kind::Revision(first.revision + 7)] {
        let refused = apply(&mut admin, with(&changed, kind)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted);
        let found = diagnostics(&refused);
        assert_eq!((found.len(), found[0].code.as_str()), (2, "conflict"));
    }
    // One of the two has changed since: neither is written.
    let one = changed.split("---").next().unwrap();
    apply(&mut admin, items(one)).await.unwrap();
    let stale = with(&SERVICES.replace("port: 80", "port: 82"), precondition::Kind::Revision(first.revision));
    assert_eq!(apply(&mut admin, stale).await.unwrap_err().code(), Code::Aborted);
    let current = list(&mut admin).await;
    let ports: Vec<u32> = current
        .iter()
        .map(|object| match &object.spec {
            Some(proto::object::Spec::Service(spec)) => spec.ports[0].port,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ports, [81, 80]);

    let item = DeleteItem {
        r#ref: Some(reference(Kind::Service, "price")),
        precondition: Some(Precondition { kind: Some(precondition::Kind::Revision(first.revision)) }),
    };
    let request = DeleteRequest { items: vec![item], ..DeleteRequest::default() };
    assert_eq!(admin.delete(request).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn a_dry_run_answers_like_the_write_and_stores_nothing() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let before = mesh.audit().await.len();
    let dry = dry_run(&mut admin, items(&format!("{SERVICES}---{ROUTE}"))).await.unwrap();
    assert_eq!(actions(&dry), [Action::Created; 3]);
    assert_eq!(list(&mut admin).await, []);
    assert_eq!(mesh.audit().await.len(), before);
    let refused = dry_run(&mut admin, items(ROUTE)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let written = apply(&mut admin, items(SERVICES)).await.unwrap();
    assert_eq!(written.revision, dry.revision + 1);
}

#[tokio::test]
async fn counts_and_duplicates_are_checked_before_anything_else() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let one = items(SERVICES).remove(0);
    for (wrong, code) in [
        (Vec::new(), "out_of_range"),
        (vec![one.clone(); 65], "out_of_range"),
        (vec![one.clone(), one], "duplicate"),
    ] {
        let refused = apply(&mut admin, wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(diagnostics(&refused)[0].code, code);
    }
    let unsupported = GetRequest { r#ref: Some(reference(Kind::Fault, "x")) };
    let refused = admin.get(unsupported).await.unwrap_err();
    assert_eq!(diagnostics(&refused)[0].code, "unsupported");
    let missing = GetRequest { r#ref: Some(reference(Kind::Service, "x")) };
    assert_eq!(admin.get(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn lists_come_in_pages_without_gap_or_repeat() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let many: Vec<String> = (0..20)
        .map(|n| SERVICES.split("---").next().unwrap().replace("price", &format!("s{n:02}")))
        .collect();
    apply(&mut admin, items(&many.join("---"))).await.unwrap();
    let mut request = ListRequest { page_size: 7, ..ListRequest::default() };
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let page = admin.list(request.clone()).await.unwrap().into_inner();
        pages += 1;
        names.extend(page.objects.into_iter().map(|object| object.metadata.unwrap().name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, 3);
    assert_eq!(names, (0..20).map(|n| format!("s{n:02}")).collect::<Vec<_>>());
    request.page_token = "nonsense".to_owned();
    assert_eq!(admin.list(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_page_fits_a_message_whatever_is_in_it() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let one = items(SERVICES).remove(0);
    for batch in 0..2 {
        let many = (0..48).map(|n| {
            let mut item = one.clone();
            let metadata = item.object.as_mut().unwrap().metadata.as_mut().unwrap();
            metadata.name = format!("s{batch}-{n:02}");
            metadata.annotations.insert("notes".to_owned(), "x".repeat(60_000));
            item
        });
        apply(&mut admin, many.collect()).await.unwrap();
    }
    let mut request = ListRequest { page_size: 1000, ..ListRequest::default() };
    let mut count = 0;
    loop {
        let page = admin.list(request.clone()).await.unwrap().into_inner();
        assert!(page.encoded_len() < 2 << 20);
        count += page.objects.len();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(count, 96, "none is missing, none is twice");
}

#[tokio::test]
async fn a_role_ends_at_the_border_of_its_namespaces() {
    let mesh = ControlPlane::start().await;
    let everywhere = format!("{SERVICES}---{}", SERVICES.replace("namespace: demo", "namespace: other"));
    apply(&mut mesh.admin(), items(&everywhere)).await.unwrap();
    let mesh = mesh
        .restart(async |store| {
            let grant = Grant { role: Role::Admin, namespaces: Some(BTreeSet::from(["demo".to_owned()])) };
            store.commit(role("ann", &grant)).await.unwrap();
        })
        .await;
    let mut ann = PolicyServiceClient::new(mesh.policy_port(Some(&mesh.operator("ann"))));
    let seen = list(&mut ann).await;
    assert!(
        seen.len() == 2 && seen.iter().all(|object| object.metadata.as_ref().unwrap().namespace == "demo")
    );
    apply(&mut ann, items(ROUTE)).await.unwrap();

    let elsewhere = items(&SERVICES.replace("namespace: demo", "namespace: other"));
    assert_eq!(apply(&mut ann, elsewhere).await.unwrap_err().code(), Code::PermissionDenied);
    let mixed = [items(SERVICES), items(&ROUTE.replace("namespace: demo", "namespace: other"))].concat();
    assert_eq!(apply(&mut ann, mixed).await.unwrap_err().code(), Code::PermissionDenied);
    let knobs = "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {}\n";
    assert_eq!(apply(&mut ann, items(knobs)).await.unwrap_err().code(), Code::PermissionDenied);
    let other = ListRequest { namespace: "other".to_owned(), ..ListRequest::default() };
    assert_eq!(ann.list(other).await.unwrap_err().code(), Code::PermissionDenied);
    let get = ObjectRef { namespace: "other".to_owned(), ..reference(Kind::Service, "price") };
    let refused = ann.get(GetRequest { r#ref: Some(get.clone()) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let request = DeleteRequest {
        items: vec![DeleteItem { r#ref: Some(get), precondition: None }],
        ..DeleteRequest::default()
    };
    assert_eq!(ann.delete(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn every_write_and_every_refusal_is_on_record_in_one_chain() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let written = apply(&mut admin, items(SERVICES)).await.unwrap();
    apply(&mut admin, items(&ROUTE.replace("{name: price}", "{name: gone}"))).await.unwrap_err();
    let mut reader = PolicyServiceClient::new(mesh.policy_port(Some(&mesh.kept("reader"))));
    apply(&mut reader, items(SERVICES)).await.unwrap_err();

    let mesh = mesh.restart(async |_| ()).await;
    let records = mesh.audit().await;
    records
        .iter()
        .try_fold(outrigger_control_plane::audit::Head::start(), |head, record| {
            outrigger_control_plane::audit::follow(&head, record)
        })
        .unwrap();
    let [start, write, invalid, refused] = records.as_slice() else { panic!("{records:#?}") };
    assert_eq!((start.method.as_str(), start.revision), ("control_plane.Start", 1));
    assert_eq!(
        (write.method.as_str(), write.revision, write.message.as_str()),
        ("policy.Apply", written.revision, "test")
    );
    assert_eq!(write.principal, "spiffe://outrigger.local/outrigger/operator/admin");
    assert!(write.peer.starts_with("127.0.0.1:"));
    assert_eq!(write.results, written.results);
    assert!(invalid.denied && invalid.revision == 0);
    assert!(invalid.message.contains("there is no Service demo/gone"), "{invalid:?}");
    assert!(refused.denied && refused.principal.ends_with("/operator/reader"), "{refused:?}");
    assert!(wire::time::decode_timestamp(refused.at.as_ref().unwrap()).is_some());
}
