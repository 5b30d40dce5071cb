//! The commands that look back, go back and keep safe: `diff`, `history`, `rollback`, `audit`, `backup`, `get --watch`.

use std::os::unix::fs::PermissionsExt;

use outrigger_core::audit::Head;
use outrigger_proto::{
    backup::v1alpha1::BackupChunk,
    policy::v1alpha1::{self as policy, rollback_request::Target, watch_event::Event},
};
use tonic::Status;

use crate::fake::{Fake, SERVICE, route};

fn object(document: &str) -> policy::Object {
    (&outrigger_core::policy::parse(document).expect("a document").remove(0).object).into()
}

#[tokio::test]
async fn a_write_that_found_nobody_is_sent_again_with_the_same_key() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").away = 2;
    let ran = fake.run_with(&["apply", "-f", "-", "-m", "a new price"], SERVICE).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let other = fake.run_with(&["apply", "-f", "-"], SERVICE).await;
    assert_eq!(other.code, Some(0), "{other:?}");
    let script = fake.script.lock().expect("the script");
    let [first, second, third, fourth] = &script.applied[..] else { panic!("{:?}", script.applied) };
    assert!(first == second && second == third && first.message == "a new price");
    assert_eq!(first.idempotency_key.len(), 32);
    assert_ne!(first.idempotency_key, fourth.idempotency_key, "each invocation has its own");
}

#[tokio::test]
async fn a_set_and_its_pruning_are_asked_for_by_name() {
    let fake = Fake::start().await;
    let ran = fake.run_with(&["apply", "-f", "-", "--set", "prices", "--prune"], SERVICE).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    {
        let script = fake.script.lock().expect("the script");
        assert_eq!((script.applied[0].set.as_str(), script.applied[0].prune), ("prices", true));
    }
    assert_eq!(fake.run_with(&["apply", "-f", "-", "--prune"], SERVICE).await.code, Some(2));
}

#[tokio::test]
async fn a_diff_is_0_without_and_1_with_a_difference_and_more_for_an_error() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").objects = vec![object(SERVICE)];
    let same = fake.run_with(&["diff", "-f", "-"], SERVICE).await;
    assert_eq!((same.code, same.stdout.as_str(), same.stderr.as_str()), (Some(0), "", ""));

    let changed = fake.run_with(&["diff", "-f", "-"], &SERVICE.replace("80", "81")).await;
    assert_eq!((changed.code, changed.stderr.as_str()), (Some(1), ""), "{changed:?}");
    let expected =
        ["--- live/Service demo/price\n+++ new/Service demo/price\n", "- port: 80\n", "- port: 81\n"];
    assert!(expected.iter().all(|part| changed.stdout.contains(part)), "{}", changed.stdout);
    assert!(fake.script.lock().expect("the script").applied.iter().all(|request| request.dry_run));

    let wrong = fake.run_with(&["diff", "-f", "-"], &SERVICE.replace("ports", "prots")).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("prots"), "{}", wrong.stderr);
    fake.script.lock().expect("the script").apply = Some(Status::invalid_argument("no"));
    assert_eq!(fake.run_with(&["diff", "-f", "-"], SERVICE).await.code, Some(2));
}

#[tokio::test]
async fn history_follows_the_pages_and_tells_who_did_what() {
    let fake = Fake::start().await;
    let version = |revision: u64, method: &str| policy::Version {
        revision,
        principal: "spiffe://outrigger.local/outrigger/operator/ann".to_owned(),
        method: method.to_owned(),
        message: format!("reason {revision}"),
        object: Some(object(SERVICE)),
        ..policy::Version::default()
    };
    fake.script.lock().expect("the script").versions =
        vec![version(9, "policy.Rollback"), version(5, "policy.Apply"), version(3, "policy.Apply")];
    let ran = fake.run(&["history", "service", "demo/price", "--limit", "2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.stdout);
    for part in ["9", "ann", "rollback", "reason 9"] {
        assert!(lines[1].contains(part), "{}", lines[1]);
    }
    assert!(lines[3].ends_with("is 1") && ran.stderr.contains("--limit"), "nothing goes back to 0: {ran:?}");
    fake.script.lock().expect("the script").oldest = 2;
    let json = fake.run(&["history", "service", "demo/price", "-o", "json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(printed["versions"][2]["document"]["metadata"]["name"], "price");
    assert_eq!(printed["oldest"], 2);
}

#[tokio::test]
async fn a_rollback_is_of_an_object_or_of_everything() {
    let fake = Fake::start().await;
    let one = fake.run(&["rollback", "route/demo/price", "--to", "4", "-m", "too slow"]).await;
    assert_eq!(
        (one.code, one.stdout.as_str()),
        (Some(0), "Route demo/price updated\nrevision 7\n"),
        "{one:?}"
    );
    let all = fake.run(&["rollback", "--to", "4", "--dry-run", "--unchanged-since", "6"]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    let script = fake.script.lock().expect("the script");
    let object = policy::ObjectVersion { r#ref: Some(route("demo", "price")), revision: 4 };
    assert_eq!(script.rolled_back[0].target, Some(Target::Object(object)));
    assert_eq!(script.rolled_back[0].message, "too slow");
    assert_eq!(script.rolled_back[1].target, Some(Target::StoreRevision(4)));
    assert!(script.rolled_back[1].dry_run && script.rolled_back[1].unchanged_since == 6);
}

fn chain(messages: &[&str]) -> Vec<policy::AuditRecord> {
    let sha256 = |pieces: &[&[u8]]| {
        let mut hash = [0; 32];
        hash.copy_from_slice(
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pieces.concat()).as_ref(),
        );
        hash
    };
    let mut head = Head::start();
    let mut records = Vec::new();
    for message in messages {
        let method = "policy.Apply".to_owned();
        let record =
            policy::AuditRecord { message: (*message).to_owned(), method, ..policy::AuditRecord::default() };
        let record = head.next(record, sha256);
        head = Head::of(&record);
        records.push(record);
    }
    records
}

#[tokio::test]
async fn the_audit_record_is_proved_by_the_command_itself() {
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").records = chain(&["one", "two", "three"]);
    let listed = fake.run(&["audit"]).await;
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 4), "{listed:?}");
    let proved = fake.run(&["audit", "--verify"]).await;
    assert_eq!(proved.code, Some(0), "{proved:?}");
    assert!(proved.stdout.starts_with("3 records, one chain\nhead 3:"), "{}", proved.stdout);
    let head = proved.stdout.trim().rsplit(' ').next().expect("a head").to_owned();

    // The record grows; the head that was written down is still in it.
    fake.script.lock().expect("the script").records = chain(&["one", "two", "three", "four"]);
    assert_eq!(fake.run(&["audit", "--verify", "--head", &head]).await.code, Some(0));
    // Written anew from the beginning, it holds together, and gives itself away all the same.
    fake.script.lock().expect("the script").records = chain(&["one", "2", "three", "four"]);
    assert_eq!(fake.run(&["audit", "--verify"]).await.code, Some(0));
    let anew = fake.run(&["audit", "--verify", "--head", &head]).await;
    assert_eq!(anew.code, Some(1), "{anew:?}");
    assert!(anew.stderr.contains("written anew"), "{}", anew.stderr);

    let mut broken = chain(&["one", "two", "three"]);
    broken[1].message = "2".to_owned();
    fake.script.lock().expect("the script").records = broken;
    let found = fake.run(&["audit", "--verify"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(
        found.stderr.contains("audit record 2 does not match its hash; it is whole up to 1"),
        "{}",
        found.stderr
    );
    let mut short = chain(&["one", "two", "three"]);
    short.remove(0);
    fake.script.lock().expect("the script").records = short;
    assert_eq!(fake.run(&["audit", "--verify"]).await.code, Some(1));
}

#[tokio::test]
async fn a_backup_is_its_owners_alone_is_never_overwritten_and_never_half() {
    let fake = Fake::start().await;
    let piece = |data: &[u8]| Ok(BackupChunk { data: data.to_vec() });
    fake.script.lock().expect("the script").backup = vec![piece(b"one "), piece(b"two")];
    let file = fake.directory.path().join("backup");
    let path = file.display().to_string();
    let ran = fake.run(&["backup", &path]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stderr.contains("private keys"), "{}", ran.stderr);
    assert_eq!(std::fs::read(&file).expect("the backup"), b"one two");
    assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    let again = fake.run(&["backup", &path]).await;
    assert_eq!(again.code, Some(1), "it is there already");
    assert!(again.stderr.contains("backup exists already\nhelp: give the backup another name"), "{again:?}");
    let printed = fake.run(&["backup", "-"]).await;
    assert_eq!((printed.code, printed.stdout.as_str()), (Some(0), "one two"));

    fake.script.lock().expect("the script").backup =
        vec![piece(b"one "), Err(Status::unavailable("stopped"))];
    let (half, part) = (fake.directory.path().join("half"), fake.directory.path().join("half.part"));
    assert_eq!(fake.run(&["backup", &half.display().to_string()]).await.code, Some(3));
    assert!(!half.exists() && !part.exists());
}

#[tokio::test]
async fn a_backup_that_is_killed_leaves_nothing_that_could_be_taken_for_one() {
    let fake = Fake::start().await;
    let piece = BackupChunk { data: vec![7; 64 << 10] };
    fake.script.lock().expect("the script").backup = vec![Ok(piece.clone())];
    let (file, part) = (fake.directory.path().join("backup"), fake.directory.path().join("backup.part"));
    let path = file.display().to_string();
    let ran = fake.run_until_it_writes_much(&["backup", &path]).await;
    assert_eq!(ran.code, None, "killed: {ran:?}");
    assert!(!file.exists());
    let length = std::fs::metadata(&part).expect("the part").len();
    assert!((1..64 << 10).contains(&length), "{length}");

    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o644)).expect("opened to others");
    assert_eq!(fake.run(&["backup", &path]).await.code, Some(0));
    assert_eq!(std::fs::read(&file).expect("the backup"), piece.data);
    assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    assert!(!part.exists());
}

/// A directory with the command, and beside it a program `name` of its version that does what `script` says.
async fn with_sibling(name: &str, script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    std::fs::hard_link(env!("CARGO_BIN_EXE_outrigger"), directory.path().join("outrigger"))
        .expect("the command");
    let version = env!("CARGO_PKG_VERSION");
    let text =
        format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo {name} {version}; else {script}; fi\n");
    // Another process writes it: one that is forked here meanwhile would keep it open for writing, and it could not be run.
    let written = tokio::process::Command::new("sh")
        .args(["-c", "printf %s \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh", name, &text])
        .current_dir(directory.path())
        .status()
        .await
        .expect("a shell");
    assert!(written.success());
    directory
}

#[tokio::test]
async fn a_sidecar_that_refuses_its_flags_is_a_wrong_command_line() {
    for (status, code) in [(2, 2), (1, 1)] {
        let directory = with_sibling("outrigger-proxy", &format!("exit {status}")).await;
        let ended = tokio::process::Command::new(directory.path().join("outrigger"))
            .args(["run", "--workers", "0", "--", "true"])
            .output()
            .await
            .expect("it ends");
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains("its flags stand before --"), "{said}");
    }
}

/// The control plane's binary reads it; what stands for that here says what it was given.
#[tokio::test]
async fn a_backup_to_restore_may_come_on_standard_input() {
    let directory = with_sibling("outrigger-control-plane", "echo \"$*\"; cat").await;
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("backup"), "its content").expect("a backup");
    let ended = tokio::process::Command::new(path("outrigger"))
        .args(["restore", "-", "--state-dir", "fresh"])
        .stdin(std::fs::File::open(path("backup")).expect("the backup"))
        .output()
        .await
        .expect("it ends");
    let said = String::from_utf8(ended.stdout).expect("text");
    assert_eq!(said, "--restore - --state-dir fresh\nits content\n");
    assert!(ended.status.success());
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_and_starts_over_when_it_must() {
    let event = |revision, event| Ok(policy::WatchEvent { revision, event: Some(event) });
    let bookmark = |revision| event(revision, Event::Bookmark(policy::Bookmark {}));
    let put = |revision| event(revision, Event::Put(object(SERVICE)));
    let fake = Fake::start().await;
    fake.script.lock().expect("the script").events = vec![
        vec![put(3), bookmark(4), put(5), Err(Status::unavailable("the control plane stops"))],
        vec![put(5), bookmark(5), Err(Status::out_of_range("not kept"))],
        vec![put(5), bookmark(9), Err(Status::out_of_range("not kept"))],
        vec![put(11), bookmark(11), Err(Status::out_of_range("not kept"))],
        vec![bookmark(13)],
    ];
    let ran = fake.run(&["get", "service", "--watch"]).await;
    assert_eq!(ran.code, Some(1), "the script's end: {ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().map(str::trim).collect();
    let expected = [
        "there    Service demo/price  revision 3",
        "changed  Service demo/price  revision 5",
        "changed  Service demo/price  revision 11",
        "deleted  Service demo/price  revision 13",
    ];
    assert_eq!(lines, expected);
    let script = fake.script.lock().expect("the script");
    let from: Vec<u64> = script.watched.iter().map(|request| request.from_revision).collect();
    assert_eq!(from, [0, 4, 0, 0, 0, 13]);
}
