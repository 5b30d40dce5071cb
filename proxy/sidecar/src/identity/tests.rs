//! How a start gets its identity, from what is on disk and what it is given.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use outrigger_core::join_token::{TokenId, TokenSecret};
use outrigger_tls::testing::{Authority, Leaf};

use super::*;

fn token(root_spki_sha256: [u8; 32]) -> JoinToken {
    JoinToken { id: TokenId([1; 8]), secret: TokenSecret::new([2; 32]), root_spki_sha256 }
}

fn keep(dir: &Path, authority: &Authority, not_after: SystemTime) {
    let mut leaf = Leaf::of(&authority.workload_id("demo", "price"));
    leaf.not_before = not_after - Duration::from_secs(24 * 3600);
    leaf.not_after = not_after;
    credential::save(dir, &authority.issue(&leaf), &authority.bundle()).unwrap();
}

#[test]
fn a_restart_comes_back_with_the_kept_credential() {
    let (authority, state) = (Authority::new("outrigger.local"), tempfile::tempdir().unwrap());
    let dir = state.path().join("credential");
    let now = SystemTime::now();
    keep(&dir, &authority, now + Duration::from_secs(60));
    let own = token(spki_sha256(&authority.root_der()).unwrap());
    assert!(matches!(origin(Some(&dir), None, now), Ok(Origin::Kept(_))));
    assert!(matches!(origin(Some(&dir), Some(own), now), Ok(Origin::Kept(_))), "a spent token does no harm");
}

#[test]
fn a_token_replaces_what_is_expired_or_of_another_mesh() {
    let (authority, state) = (Authority::new("outrigger.local"), tempfile::tempdir().unwrap());
    let dir = state.path().join("credential");
    let now = SystemTime::now();
    keep(&dir, &authority, now + Duration::from_secs(60));
    assert!(matches!(origin(Some(&dir), Some(token([9; 32])), now), Ok(Origin::Token(_))));
    let own = token(spki_sha256(&authority.root_der()).unwrap());
    let later = now + Duration::from_secs(120);
    assert!(matches!(origin(Some(&dir), Some(own), later), Ok(Origin::Token(_))));
    assert!(matches!(origin(Some(&dir), None, later), Err(NoIdentity::Expired { .. })));
}

#[test]
fn a_token_that_was_spent_on_the_credential_does_no_harm_when_the_root_is_another_by_now() {
    let (authority, state) = (Authority::new("outrigger.local"), tempfile::tempdir().unwrap());
    let dir = state.path().join("credential");
    let now = SystemTime::now();
    keep(&dir, &authority, now + Duration::from_secs(60));
    let (spent, another) = (token([9; 32]), JoinToken { id: TokenId([7; 8]), ..token([9; 32]) });
    fs::write(dir.join("joined-by"), spent.id.to_string()).unwrap();
    assert!(matches!(origin(Some(&dir), Some(spent), now), Ok(Origin::Kept(_))));
    assert!(matches!(origin(Some(&dir), Some(another), now), Ok(Origin::Token(_))), "for another mesh");
    fs::write(dir.join("joined-by"), "not an id").unwrap();
    assert!(matches!(origin(Some(&dir), Some(token([9; 32])), now), Ok(Origin::Token(_))));
}

#[test]
fn with_nothing_the_error_says_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("credential");
    let error = origin(Some(&dir), None, SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("outrigger token create"), "{error}");
    let error = origin(None, None, SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("--credential memory"), "{error}");
}

#[test]
fn a_credential_whose_root_is_damaged_says_which_file_and_a_token_replaces_it() {
    let (authority, state) = (Authority::new("outrigger.local"), tempfile::tempdir().unwrap());
    let dir = state.path().join("credential");
    let now = SystemTime::now();
    keep(&dir, &authority, now + Duration::from_secs(60));
    let path = dir.join("ca.crt");
    let mut text = fs::read(&path).unwrap();
    // In the signature, near the end: it still parses.
    let at = text.len() - 60;
    text[at] = if text[at] == b'A' { b'B' } else { b'A' };
    fs::write(&path, text).unwrap();
    let error = origin(Some(&dir), None, now).unwrap_err();
    assert!(error.to_string().contains("outrigger token create"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("ca.crt is damaged"), "{cause}");
    assert!(matches!(origin(Some(&dir), Some(token([9; 32])), now), Ok(Origin::Token(_))));
}

#[test]
fn a_credential_that_others_may_read_is_not_used() {
    let (authority, state) = (Authority::new("outrigger.local"), tempfile::tempdir().unwrap());
    let dir = state.path().join("credential");
    let now = SystemTime::now();
    keep(&dir, &authority, now + Duration::from_secs(60));
    fs::set_permissions(dir.join("tls.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(origin(Some(&dir), Some(token([9; 32])), now), Err(NoIdentity::Exposed(_))));
}
