//! What is kept on disk.

use std::{fs, os::unix::fs::PermissionsExt as _};

use outrigger_core::model::Outgoing;
use outrigger_tls::{
    Bundle, InvalidSvid, Key, Svid,
    credential::{CredentialError, load, save},
    testing::{Authority, Leaf},
};

use crate::support::TRUST_DOMAIN;

#[test]
fn a_credential_comes_back_as_it_was_and_is_closed_to_others() {
    let authority = Authority::new(TRUST_DOMAIN);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state/admin");
    assert!(matches!(load(&dir), Err(CredentialError::Missing(_))));
    for svid in [authority.operator("admin"), authority.operator("admin")] {
        save(&dir, &svid, &authority.bundle()).unwrap();
        let back = load(&dir).unwrap();
        assert_eq!(back.svid.id(), svid.id());
        assert_eq!(back.svid.chain(), svid.chain());
        assert_eq!(back.svid.key().to_pem(), svid.key().to_pem());
        assert_eq!(back.bundle.authorities(), authority.bundle().authorities());
    }
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["ca.crt", "tls.crt", "tls.key"]);
}

#[test]
fn who_is_revoked_is_kept_with_the_roots_and_who_is_on_the_way_out_is_not() {
    let authority = Authority::new(TRUST_DOMAIN);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("admin");
    let roots = || vec![authority.root_der(), Authority::new(TRUST_DOMAIN).root_der()];
    for revoked in [Vec::new(), vec![[0xff; 32]], vec![[0; 32], [b'-'; 32]]] {
        let outgoing = Outgoing {
            revoked: revoked.clone(),
            tainted: vec![[1; 32]],
            at_once: true,
            ..Outgoing::default()
        };
        let bundle = Bundle::new(TRUST_DOMAIN.parse().unwrap(), roots(), u64::MAX).unwrap();
        let bundle = bundle.with_outgoing(outgoing);
        save(&dir, &authority.operator("admin"), &bundle).unwrap();
        let back = load(&dir).unwrap().bundle;
        assert_eq!((back.authorities(), back.sequence()), (bundle.authorities(), u64::MAX));
        assert_eq!(*back.outgoing(), Outgoing { revoked, ..Outgoing::default() });
    }
    // Nothing but certificates, as it was written once and as others may write it.
    let text = fs::read_to_string(dir.join("ca.crt")).unwrap();
    let bare: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    fs::write(dir.join("ca.crt"), bare).unwrap();
    let back = load(&dir).unwrap().bundle;
    assert_eq!((back.authorities().len(), back.sequence()), (2, 0));
    assert!(back.outgoing().revoked.is_empty());
}

#[test]
fn a_key_or_directory_open_to_others_is_refused() {
    let authority = Authority::new(TRUST_DOMAIN);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("admin");
    save(&dir, &authority.operator("admin"), &authority.bundle()).unwrap();
    let open =
        |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(&dir.join("tls.key"), 0o640);
    assert!(matches!(load(&dir), Err(CredentialError::Open { remedy: "600", .. })));
    open(&dir.join("tls.key"), 0o600);
    open(&dir, 0o755);
    assert!(matches!(load(&dir), Err(CredentialError::Open { remedy: "700", .. })));
    let saved = save(&dir, &authority.operator("admin"), &authority.bundle());
    assert!(matches!(saved, Err(CredentialError::Open { remedy: "700", .. })));
}

#[test]
fn an_interrupted_save_leaves_the_old_credential_or_the_new() {
    let authority = Authority::new(TRUST_DOMAIN);
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (authority.operator("admin"), authority.operator("admin"));
    let other = home.path().join("new");
    save(&other, &new, &authority.bundle()).unwrap();
    // The steps of a save after everything is written, cut off after each.
    let steps = ["", "ca.crt", "tls.key", "tls.crt"];
    for cut in 0..=steps.len() {
        let dir = home.path().join(format!("cut-{cut}"));
        save(&dir, &old, &authority.bundle()).unwrap();
        for name in ["ca.crt", "tls.key", "tls.crt"] {
            fs::copy(other.join(name), dir.join(format!("{name}.new"))).unwrap();
        }
        for name in steps.iter().take(cut).filter(|name| !name.is_empty()) {
            fs::rename(dir.join(format!("{name}.new")), dir.join(name)).unwrap();
        }
        let key = if cut >= 3 { &new } else { &old };
        for _again in 0..2 {
            assert_eq!(load(&dir).unwrap().svid.chain(), key.chain(), "cut after {cut}");
        }
        save(&dir, &new, &authority.bundle()).unwrap();
        assert_eq!(load(&dir).unwrap().svid.chain(), new.chain());
    }
}

#[test]
fn a_damaged_credential_is_an_error_that_names_the_file() {
    let authority = Authority::new(TRUST_DOMAIN);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("admin");
    save(&dir, &authority.operator("admin"), &authority.bundle()).unwrap();
    let roots = fs::read_to_string(dir.join("ca.crt")).unwrap();
    for (name, content) in [
        ("tls.crt", ""),
        ("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n"),
        ("ca.crt", "x"),
        ("ca.crt", &format!("# revoked: AAAA\n{roots}")),
        ("ca.crt", &format!("# sequence: -1\n{roots}")),
        ("tls.key", "x"),
    ] {
        save(&dir, &authority.operator("admin"), &authority.bundle()).unwrap();
        fs::write(dir.join(name), content).unwrap();
        let error = load(&dir).unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
    save(&dir, &authority.operator("admin"), &authority.bundle()).unwrap();
    fs::write(dir.join("tls.key"), Key::generate().unwrap().to_pem()).unwrap();
    assert!(matches!(load(&dir), Err(CredentialError::Svid { source: InvalidSvid::KeyMismatch, .. })));
}

#[test]
fn a_root_that_was_changed_in_any_byte_is_noticed_and_its_file_named() {
    let authority = Authority::new(TRUST_DOMAIN);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("admin");
    let roots = vec![authority.root_der(), Authority::new(TRUST_DOMAIN).root_der()];
    let bundle = Bundle::new(TRUST_DOMAIN.parse().unwrap(), roots, 0).unwrap();
    save(&dir, &authority.operator("admin"), &bundle).unwrap();
    let path = dir.join("ca.crt");
    let whole = fs::read(&path).unwrap();
    let begin = String::from_utf8_lossy(&whole).find("-----BEGIN").unwrap();
    let mut same = 0;
    for at in begin..whole.len() {
        let mut changed = whole.clone();
        // One bit of each byte, another one from byte to byte; not the highest, or it would be no text.
        changed[at] ^= 1 << (at % 7);
        fs::write(&path, &changed).unwrap();
        match load(&dir) {
            // An end of a line, which became another space.
            Ok(back) => {
                assert_eq!(back.bundle.authorities(), bundle.authorities(), "byte {at}");
                same += 1;
            }
            Err(error) => assert!(error.to_string().contains("ca.crt"), "byte {at}: {error}"),
        }
    }
    assert!(same < 16, "{same}");
}

#[test]
fn an_svid_has_one_identity_and_its_own_key() {
    let authority = Authority::new(TRUST_DOMAIN);
    let leaf = Leaf::of(&authority.workload_id("demo", "price"));
    let (chain, key) = authority.issue_raw(&leaf);
    let svid = Svid::from_parts(chain.clone(), key.clone()).unwrap();
    assert_eq!(svid.id(), &authority.workload_id("demo", "price"));
    let life = svid.not_after().duration_since(svid.not_before()).unwrap();
    assert_eq!(life.as_secs(), 24 * 3600);
    assert!(svid.is_valid_at(std::time::SystemTime::now()));

    assert!(matches!(Svid::from_parts(Vec::new(), key.clone()), Err(InvalidSvid::Empty)));
    let other = Key::generate().unwrap();
    assert!(matches!(Svid::from_parts(chain.clone(), other), Err(InvalidSvid::KeyMismatch)));
    let cut = vec![chain[0].clone(), vec![1, 2, 3]];
    assert!(matches!(Svid::from_parts(cut, key), Err(InvalidSvid::Certificate { index: 1, .. })));
    for (uris, count) in [(Vec::new(), 0), (vec![leaf.uris[0].clone(), "spiffe://x/y".to_owned()], 2)] {
        let (chain, key) = authority.issue_raw(&Leaf { uris, ..leaf.clone() });
        assert!(matches!(Svid::from_parts(chain, key), Err(InvalidSvid::UriNames(found)) if found == count));
    }
}

#[test]
fn a_key_is_never_shown_and_its_request_names_the_identity() {
    let authority = Authority::new(TRUST_DOMAIN);
    let key = Key::generate().unwrap();
    assert_eq!(format!("{key:?}"), "Key(<redacted>)");
    let back = Key::from_pem(&key.to_pem()).unwrap();
    assert_eq!(back.public_key_der(), key.public_key_der());
    let id = authority.workload_id("demo", "price");
    let csr = rcgen::CertificateSigningRequestParams::from_der(&key.csr_der(&id).unwrap().into()).unwrap();
    assert_eq!(csr.params.subject_alt_names, [rcgen::SanType::URI(id.as_str().try_into().unwrap())]);
    for bad in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(Key::from_pem(bad).is_err());
    }
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(Key::from_pem(&p384.serialize_pem()).is_err());
}
