//! History, Watch, Rollback, sets and idempotency keys over the policy port.

use std::{collections::BTreeSet, time::SystemTime};

use outrigger_control_plane::{
    access::{Grant, Role},
    backup,
    store::Store,
};
use outrigger_proto::backup::v1alpha1::{BackupRequest, backup_service_client::BackupServiceClient};
use outrigger_proto::policy::v1alpha1::{
    self as proto, ApplyRequest, HistoryRequest, Kind, RollbackRequest, WatchEvent, WatchRequest,
    item_result::Action, policy_service_client::PolicyServiceClient, rollback_request::Target,
    watch_event::Event,
};
use tonic::{Code, Streaming};

use crate::{
    policy::{Client, ROUTE, SERVICES, apply, delete, items, list, reference},
    running::{ControlPlane, role},
    support::soon,
};

fn store_at(revision: u64) -> RollbackRequest {
    RollbackRequest { target: Some(Target::StoreRevision(revision)), ..RollbackRequest::default() }
}

fn object_at(kind: Kind, name: &str, revision: u64) -> RollbackRequest {
    let object = proto::ObjectVersion { r#ref: Some(reference(kind, name)), revision };
    RollbackRequest { target: Some(Target::Object(object)), ..RollbackRequest::default() }
}

async fn rollback(
    client: &mut Client,
    request: RollbackRequest,
) -> Result<proto::RollbackResponse, tonic::Status> {
    client.rollback(request).await.map(tonic::Response::into_inner)
}

async fn history(client: &mut Client, request: HistoryRequest) -> proto::HistoryResponse {
    client.history(request).await.unwrap().into_inner()
}

fn told(results: &[proto::ItemResult]) -> Vec<(String, Action)> {
    results.iter().map(|result| (result.r#ref.as_ref().unwrap().name.clone(), result.action())).collect()
}

/// The specs of all objects, by name.
async fn specs(client: &mut Client) -> Vec<(String, Option<proto::object::Spec>)> {
    let objects = list(client).await;
    objects.into_iter().map(|object| (object.metadata.unwrap().name, object.spec)).collect()
}

#[tokio::test]
async fn history_tells_who_made_which_version_and_what_it_said() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let first = apply(&mut admin, items(&format!("{SERVICES}---{ROUTE}"))).await.unwrap().revision;
    let second = apply(&mut admin, items(&ROUTE.replace("90", "50"))).await.unwrap().revision;
    let third = delete(&mut admin, &[(Kind::Route, "canary")]).await.unwrap().revision;

    let mesh = mesh.restart(async |_| ()).await;
    let mut reader = PolicyServiceClient::new(mesh.policy_port(Some(&mesh.kept("reader"))));
    let request =
        HistoryRequest { r#ref: Some(reference(Kind::Route, "canary")), ..HistoryRequest::default() };
    let versions = history(&mut reader, request).await.versions;
    assert_eq!(versions.iter().map(|version| version.revision).collect::<Vec<_>>(), [third, second, first]);
    assert!(versions[0].deleted && versions[0].object.is_none());
    assert_eq!(versions[1].object.as_ref().unwrap().metadata.as_ref().unwrap().revision, second);
    assert_eq!((versions[2].method.as_str(), versions[2].message.as_str()), ("policy.Apply", "test"));
    assert!(versions.iter().all(|version| version.principal.ends_with("/operator/admin")));

    let all = history(&mut reader, HistoryRequest { page_size: 2, ..HistoryRequest::default() }).await;
    assert_eq!(all.versions.iter().map(|version| version.revision).collect::<Vec<_>>(), [third, second]);
    assert_eq!(told(&all.versions[0].results), [("canary".to_owned(), Action::Deleted)]);
    let rest = history(&mut reader, HistoryRequest { before: all.next, ..HistoryRequest::default() }).await;
    assert_eq!((rest.versions.len(), rest.versions[0].results.len(), rest.next), (1, 3, 0));

    let nobody =
        HistoryRequest { r#ref: Some(reference(Kind::Route, "nobody")), ..HistoryRequest::default() };
    assert_eq!(reader.history(nobody).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_object_goes_back_to_a_revision_and_the_whole_store_does() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let first = apply(&mut admin, items(&format!("{SERVICES}---{ROUTE}"))).await.unwrap().revision;
    let before = specs(&mut admin).await;
    apply(&mut admin, items(&ROUTE.replace("90", "50"))).await.unwrap();
    let other = SERVICES.replace("name: price", "name: other");
    apply(&mut admin, items(&other)).await.unwrap();
    delete(&mut admin, &[(Kind::Route, "canary"), (Kind::Service, "price-v2")]).await.unwrap();

    let preview = RollbackRequest { dry_run: true, ..store_at(first) };
    let shown = rollback(&mut admin, preview).await.unwrap();
    let back = [
        ("other", Action::Deleted),
        ("other-v2", Action::Deleted),
        ("price-v2", Action::Created),
        ("canary", Action::Created),
    ];
    assert_eq!(told(&shown.results), back.map(|(name, action)| (name.to_owned(), action)));
    assert!(shown.results[0].before.is_some() && shown.results[0].after.is_none());
    assert!(shown.results[3].before.is_none() && shown.results[3].after.is_some());
    assert_ne!(specs(&mut admin).await, before, "a dry run stores nothing");

    let done = rollback(&mut admin, store_at(first)).await.unwrap();
    assert_eq!(done.revision, shown.revision + 1);
    assert_eq!(specs(&mut admin).await, before);
    let again = rollback(&mut admin, store_at(first)).await.unwrap();
    assert_eq!((again.revision, again.results.len()), (done.revision, 0), "there is nothing left to do");

    apply(&mut admin, items(&ROUTE.replace("90", "20"))).await.unwrap();
    let one = rollback(&mut admin, object_at(Kind::Route, "canary", first)).await.unwrap();
    assert_eq!(told(&one.results), [("canary".to_owned(), Action::Updated)]);
    assert_eq!(specs(&mut admin).await, before);
    let record = mesh.audit().await.pop().unwrap();
    assert_eq!((record.method.as_str(), record.revision), ("policy.Rollback", one.revision));
}

#[tokio::test]
async fn a_rollback_that_cannot_be_is_refused_as_a_whole() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let first = apply(&mut admin, items(&format!("{SERVICES}---{ROUTE}"))).await.unwrap().revision;
    delete(&mut admin, &[(Kind::Route, "canary")]).await.unwrap();
    let last = delete(&mut admin, &[(Kind::Service, "price-v2")]).await.unwrap().revision;

    let dangling = rollback(&mut admin, object_at(Kind::Route, "canary", first)).await.unwrap_err();
    assert_eq!(dangling.code(), Code::InvalidArgument);
    assert!(dangling.message().contains("there is no Service demo/price-v2"), "{dangling:?}");
    let absent = rollback(&mut admin, object_at(Kind::Route, "canary", last)).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    let future = rollback(&mut admin, store_at(last + 1)).await.unwrap_err();
    assert_eq!(future.code(), Code::InvalidArgument);
    assert!(future.message().contains(&format!("the newest is {last}")), "{future:?}");
    let stale = RollbackRequest { unchanged_since: first, ..store_at(first) };
    assert_eq!(rollback(&mut admin, stale).await.unwrap_err().code(), Code::Aborted);
    let nowhere = rollback(&mut admin, RollbackRequest::default()).await.unwrap_err();
    assert_eq!(nowhere.code(), Code::InvalidArgument);
    assert_eq!(mesh.state.store.revision(), last);
}

#[tokio::test]
async fn a_key_makes_a_write_happen_once_even_across_a_restart() {
    let mesh = ControlPlane::start().await;
    let request =
        ApplyRequest { items: items(SERVICES), idempotency_key: "k-1".to_owned(), ..ApplyRequest::default() };
    let first = mesh.admin().apply(request.clone()).await.unwrap().into_inner();
    // Somebody takes back what it wrote; the same request again must not bring it back.
    delete(&mut mesh.admin(), &[(Kind::Service, "price-v2")]).await.unwrap();
    let mesh = mesh.restart(async |_| ()).await;
    let mut admin = mesh.admin();
    let again = admin.apply(request.clone()).await.unwrap().into_inner();
    assert_eq!(again, first);
    assert_eq!(list(&mut admin).await.len(), 1);

    let other = ApplyRequest { items: items(ROUTE), ..request.clone() };
    assert_eq!(admin.apply(other).await.unwrap_err().code(), Code::AlreadyExists);
    let rollback = RollbackRequest { idempotency_key: "k-1".to_owned(), ..store_at(first.revision) };
    assert_eq!(admin.rollback(rollback).await.unwrap_err().code(), Code::AlreadyExists);
    let dry = ApplyRequest { dry_run: true, ..request.clone() };
    assert_eq!(admin.apply(dry).await.unwrap().into_inner().results[1].action(), Action::Created);

    mesh.pass(std::time::Duration::from_hours(25));
    let anew = admin.apply(request).await.unwrap().into_inner();
    assert!(anew.revision > first.revision, "a day later the key is forgotten");
}

#[tokio::test]
async fn the_answer_that_nothing_changed_is_kept_too() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    apply(&mut admin, items(SERVICES)).await.unwrap();
    let request =
        ApplyRequest { items: items(SERVICES), idempotency_key: "k-1".to_owned(), ..ApplyRequest::default() };
    let first = admin.apply(request.clone()).await.unwrap().into_inner();
    delete(&mut admin, &[(Kind::Service, "price-v2")]).await.unwrap();
    assert_eq!(admin.apply(request).await.unwrap().into_inner(), first);
    assert_eq!(list(&mut admin).await.len(), 1);
}

async fn apply_set(
    client: &mut Client,
    set: &str,
    documents: &str,
) -> Result<proto::ApplyResponse, tonic::Status> {
    let request =
        ApplyRequest { items: items(documents), set: set.to_owned(), prune: true, ..ApplyRequest::default() };
    client.apply(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_set_is_pruned_of_what_is_not_applied_any_more_and_of_nothing_else() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    let other = SERVICES.replace("name: price", "name: other");
    apply_set(&mut admin, "others", &other).await.unwrap();
    apply(&mut admin, items(&SERVICES.replace("name: price", "name: free"))).await.unwrap();
    apply_set(&mut admin, "prices", &format!("{SERVICES}---{ROUTE}")).await.unwrap();

    let price = SERVICES.split("---").next().unwrap();
    let pruned = apply_set(&mut admin, "prices", price).await.unwrap();
    let expected = [("price", Action::Unchanged), ("price-v2", Action::Deleted), ("canary", Action::Deleted)];
    assert_eq!(told(&pruned.results), expected.map(|(name, action)| (name.to_owned(), action)));
    let names: Vec<String> = specs(&mut admin).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["free", "free-v2", "other", "other-v2", "price"]);

    let taken = apply_set(&mut admin, "prices", &other).await.unwrap_err();
    assert_eq!(taken.code(), Code::Aborted);
    assert!(taken.message().contains("it belongs to the set 'others'"), "{taken:?}");

    // An apply without a set changes nobody's.
    apply(&mut admin, items(&price.replace("port: 80", "port: 81"))).await.unwrap();
    let gone =
        apply_set(&mut admin, "prices", &SERVICES.replace("name: price", "name: fresh")).await.unwrap();
    assert!(told(&gone.results).contains(&("price".to_owned(), Action::Deleted)));
}

#[tokio::test]
async fn what_is_pruned_must_be_the_callers_to_delete() {
    let mesh = ControlPlane::start().await;
    let elsewhere = SERVICES.replace("namespace: demo", "namespace: other");
    apply_set(&mut mesh.admin(), "prices", &format!("{SERVICES}---{elsewhere}")).await.unwrap();
    let mesh = mesh
        .restart(async |store| {
            let grant = Grant { role: Role::Admin, namespaces: Some(BTreeSet::from(["demo".to_owned()])) };
            store.commit(role("ann", &grant)).await.unwrap();
        })
        .await;
    let mut ann = PolicyServiceClient::new(mesh.policy_port(Some(&mesh.operator("ann"))));
    assert_eq!(apply_set(&mut ann, "prices", SERVICES).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(rollback(&mut ann, store_at(1)).await.unwrap_err().code(), Code::PermissionDenied);
    let seen = history(&mut ann, HistoryRequest::default()).await.versions;
    assert!(seen.iter().all(|version| version.results.len() == 2), "{seen:#?}");
    let all = list(&mut mesh.admin()).await;
    assert_eq!(all.len(), 4);
}

/// What comes until the next bookmark, and where that is.
async fn until_bookmark(stream: &mut Streaming<WatchEvent>) -> (Vec<String>, u64) {
    let mut heard = Vec::new();
    loop {
        let event = soon(stream.message()).await.unwrap().unwrap();
        match event.event.unwrap() {
            Event::Put(object) => heard.push(format!("+{}", object.metadata.unwrap().name)),
            Event::Deleted(reference) => heard.push(format!("-{}", reference.name)),
            Event::Bookmark(_) => return (heard, event.revision),
        }
    }
}

#[tokio::test]
async fn a_watch_hears_everything_once_from_the_beginning_or_from_where_it_was() {
    let mesh = ControlPlane::start().await;
    let mut admin = mesh.admin();
    apply(&mut admin, items(SERVICES)).await.unwrap();
    let mut reader = PolicyServiceClient::new(mesh.policy_port(Some(&mesh.kept("reader"))));
    let mut stream = reader.watch(WatchRequest::default()).await.unwrap().into_inner();
    let (heard, at) = until_bookmark(&mut stream).await;
    assert_eq!(heard, ["+price", "+price-v2"]);

    let second = apply(&mut admin, items(ROUTE)).await.unwrap().revision;
    assert_eq!(until_bookmark(&mut stream).await, (vec!["+canary".to_owned()], second));
    delete(&mut admin, &[(Kind::Route, "canary")]).await.unwrap();
    let third = delete(&mut admin, &[(Kind::Service, "price-v2")]).await.unwrap().revision;
    let mut heard = Vec::new();
    let mut until = 0;
    while until < third {
        let (some, revision) = until_bookmark(&mut stream).await;
        heard.extend(some);
        until = revision;
    }
    assert_eq!(heard, ["-canary", "-price-v2"]);

    let again =
        WatchRequest { from_revision: at, kinds: vec![Kind::Route.into()], ..WatchRequest::default() };
    let mesh = mesh.restart(async |_| ()).await;
    let mut stream = mesh.admin().watch(again).await.unwrap().into_inner();
    assert_eq!(until_bookmark(&mut stream).await.0, ["+canary"]);
    assert_eq!(until_bookmark(&mut stream).await.0, ["-canary"]);
    let future = WatchRequest { from_revision: third + 100, ..WatchRequest::default() };
    let refused = mesh.admin().watch(future).await.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_slow_watcher_holds_nobody_up_and_is_told_to_start_over() {
    let mesh = ControlPlane::keeping(3).await;
    let mut admin = mesh.admin();
    let mut watcher = mesh.admin();
    let mut stream = watcher.watch(WatchRequest::default()).await.unwrap().into_inner();
    let (_, first) = until_bookmark(&mut stream).await;
    // More than any buffer between the two takes, while nobody reads.
    let mut last = 0;
    for number in 0..120 {
        let mut large = items(SERVICES);
        let metadata = large[0].object.as_mut().unwrap().metadata.as_mut().unwrap();
        metadata.annotations.insert("note".to_owned(), format!("{number}{}", "x".repeat(60_000)));
        last = apply(&mut admin, large).await.unwrap().revision;
    }
    let told = loop {
        match soon(stream.message()).await {
            Ok(Some(event)) => assert!(event.revision < last, "it cannot have heard everything"),
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(told.code(), Code::OutOfRange);
    let oldest = format!("the oldest that is kept is {}", last - 2);
    assert!(told.message().contains(&oldest) && told.message().contains("start over"), "{told:?}");
    let from = WatchRequest { from_revision: first, ..WatchRequest::default() };
    let again = watcher.watch(from).await.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(again.code(), Code::OutOfRange);
    let gone = rollback(&mut admin, store_at(first)).await.unwrap_err();
    assert_eq!(gone.code(), Code::OutOfRange);
    assert!(gone.message().contains(&oldest), "{gone:?}");
}

#[tokio::test]
async fn a_backup_is_on_record_before_it_is_given() {
    let mesh = ControlPlane::start().await;
    let mut client = BackupServiceClient::new(mesh.policy_port(Some(&mesh.kept("admin"))));
    let mut pieces = client.backup(BackupRequest {}).await.unwrap().into_inner();
    let mut file = Vec::new();
    while let Some(piece) = soon(pieces.message()).await.unwrap() {
        file.extend_from_slice(&piece.data);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backup");
    std::fs::write(&path, file).unwrap();
    let restored = backup::restore(&path, &directory.path().join("state"), SystemTime::now()).unwrap();
    assert_eq!((restored.revision, restored.trust_domain.as_str()), (1, "outrigger.local"));
    let store = Store::open(&directory.path().join("state/store.redb")).unwrap();
    let methods: Vec<String> =
        store.audit(0, 10).await.unwrap().into_iter().map(|record| record.method).collect();
    assert_eq!(methods, ["control_plane.Start", "backup.Backup", "control_plane.Restore"]);
}
