//! What a rotation leaves in the directory, and what a start makes of it.

use super::*;

/// A process that is killed after the keys were written, and before the store names them.
#[test]
fn keys_of_a_step_that_never_was_are_removed_at_the_next_start() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let before = authority.bundle();
    authority.prepare(Kind::Root).unwrap();
    assert!(dir.path().join("root-1.pem").exists());
    fs::write(dir.path().join("root-x.pem"), "not ours").unwrap();
    let reopened = reopen(dir.path(), &authority.root_hash(), &time).unwrap();
    assert_eq!(reopened.bundle(), before);
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["operator.pem", "root-x.pem", "root.pem", "workload.pem"]);
}

/// The store was moved away to start with an empty one, after a rotation of the root or in the middle of one.
#[test]
fn an_empty_store_takes_no_root_of_a_rotation_for_a_leftover() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let first = open(dir.path(), &time).unwrap();
    first.prepare(Kind::Root).unwrap();
    let kept = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let next = kept("root-1.pem");
    let refused = open(dir.path(), &time).unwrap_err();
    assert!(
        matches!(refused, AuthorityError::AnotherRoot { ref path } if path.ends_with("root-1.pem")),
        "{refused}"
    );
    assert_eq!(kept("root-1.pem"), next);

    fs::remove_file(dir.path().join("root.pem")).unwrap();
    assert!(matches!(open(dir.path(), &time), Err(AuthorityError::AnotherRoot { .. })));
    assert_eq!(kept("root-1.pem"), next);
    assert!(!dir.path().join("root.pem").exists(), "no root is made beside one that is in use");
}

/// The same with an intermediate: its key goes only once the store says that it may.
#[test]
fn an_empty_store_removes_no_key() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    open(dir.path(), &time).unwrap().prepare(Kind::Intermediate).unwrap();
    assert!(dir.path().join("workload-1.pem").exists());
    let authority = open(dir.path(), &time).unwrap();
    assert!(dir.path().join("workload-1.pem").exists());
    reopen(dir.path(), &authority.root_hash(), &time).unwrap();
    assert!(!dir.path().join("workload-1.pem").exists());
}

#[test]
fn a_rotation_under_way_is_renewed_and_reopened_like_everything_else() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let first = authority.root_hash();
    let prepared = authority.prepare(Kind::Root).unwrap();
    let state = authority.state().prepare(Kind::Root, time.now()).unwrap();
    authority.install(state.clone(), Some(prepared));
    assert_eq!((authority.bundle().x509_authorities.len(), authority.root_hash()), (2, first));
    let facts = Facts {
        now: time.now(),
        complete_at: time.now(),
        proxies: &[],
        absent: &[],
        unknown_until: None,
        outgoing: &authority.other_signers(),
    };
    let next = state.activate(Kind::Root, &facts, authority.leaf_life(), Force::No).unwrap();
    authority.install(next.clone(), None);
    let second = authority.root_hash();
    assert_ne!(first, second);
    assert!(authority.is_root(&first) && authority.is_root(&second));
    // Taken back, because it could not be stored, and done again.
    authority.install(state, None);
    assert_eq!(authority.root_hash(), first);
    authority.install(next, None);

    time.pass(16 * DAY);
    authority.renew().unwrap();
    let kept = serde_json::to_vec(&authority.state()).unwrap();
    let known = Known { root: Some(&second), state: Some(&kept), ..Known::default() };
    let reopened = Authority::open(dir.path(), &domain(), &known, time.clock()).unwrap();
    assert_eq!(reopened.bundle(), authority.bundle());
    assert_eq!(reopened.operator_authorities(), authority.operator_authorities());
    for authority in authority.operator_authorities() {
        let (_, certificate) = X509Certificate::from_der(&authority).unwrap();
        let left = certificate.validity().not_after.timestamp()
            - i64::try_from(time.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
        assert!(left > 29 * 24 * 3600, "under either root");
    }
    fs::remove_file(dir.path().join("root.pem")).unwrap();
    let missing = Authority::open(dir.path(), &domain(), &known, time.clock());
    assert!(matches!(missing, Err(AuthorityError::Missing { .. })));
}
