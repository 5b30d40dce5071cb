//! The authority alone: profiles, renewal, what is refused at its opening.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::{
    model::{SpiffeId, TrustDomain},
    rotation::{Facts, Force, Kind, Signer},
};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    Authority, AuthorityError, Csr, CsrError, IssueError, Known, PortNames, Upkeep, pair::Pair, profile,
};
use crate::clock::Clock;

mod rotation;

const DAY: Duration = Duration::from_hours(24);

struct Time(Arc<Mutex<SystemTime>>);

impl Time {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Self(Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(now))))
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Clock::from_fn(move || *now.lock())
    }

    fn now(&self) -> SystemTime {
        *self.0.lock()
    }

    fn pass(&self, duration: Duration) {
        *self.0.lock() += duration;
    }
}

fn domain() -> TrustDomain {
    "outrigger.local".parse().unwrap()
}

fn open(dir: &Path, time: &Time) -> Result<Authority, AuthorityError> {
    Authority::open(dir, &domain(), &Known::default(), time.clock())
}

fn reopen(dir: &Path, root: &[u8], time: &Time) -> Result<Authority, AuthorityError> {
    let known = Known { root: Some(root), ..Known::default() };
    Authority::open(dir, &domain(), &known, time.clock())
}

fn names() -> PortNames {
    PortNames::given(&["mesh.example.com", "192.0.2.7"]).unwrap()
}

fn price() -> SpiffeId {
    "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap()
}

fn csr_for(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn csr() -> Csr {
    Csr::parse(&csr_for(&KeyPair::generate().unwrap(), &[])).unwrap()
}

#[test]
fn a_workload_gets_a_leaf_of_the_promised_shape() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let issued = authority.issue(&price(), &BTreeMap::new(), &csr()).unwrap();
    assert_eq!(issued.chain.len(), 2, "leaf and intermediate, never the root");

    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let (_, intermediate) = X509Certificate::from_der(&issued.chain[1]).unwrap();
    let bundle = authority.bundle();
    let (_, root) = X509Certificate::from_der(&bundle.x509_authorities[0]).unwrap();
    leaf.verify_signature(Some(intermediate.public_key())).unwrap();
    intermediate.verify_signature(Some(root.public_key())).unwrap();
    root.verify_signature(None).unwrap();

    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    assert_eq!(names.value.general_names, [GeneralName::URI(price().as_str())]);
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca());
    assert!(intermediate.is_ca() && root.is_ca());
    let constraints = intermediate.basic_constraints().unwrap().unwrap();
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = leaf.extended_key_usage().unwrap().unwrap();
    assert!(usage.value.server_auth && usage.value.client_auth);

    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
    assert_eq!(at(leaf.validity().not_before.timestamp()), time.now() - Duration::from_mins(5));
    assert_eq!(at(leaf.validity().not_after.timestamp()), time.now() + DAY);
    assert!(issued.renew_after >= time.now() + DAY.mul_f64(0.45));
    assert!(issued.renew_after <= time.now() + DAY.mul_f64(0.55));
}

#[test]
fn reserved_and_foreign_names_are_never_issued() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    for id in [
        "spiffe://outrigger.local/outrigger/control-plane",
        "spiffe://outrigger.local/outrigger/operator/admin",
    ] {
        assert!(
            matches!(
                authority.issue(&id.parse().unwrap(), &BTreeMap::new(), &csr()),
                Err(IssueError::Reserved(_))
            ),
            "{id}"
        );
    }
    let foreign = "spiffe://elsewhere/ns/demo/sa/price".parse().unwrap();
    assert!(matches!(authority.issue(&foreign, &BTreeMap::new(), &csr()), Err(IssueError::TrustDomain(_))));
}

#[test]
fn operators_and_workloads_are_under_different_intermediates() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let admin = authority.operator(&"admin".parse().unwrap()).unwrap();
    let control_plane = authority.control_plane(&PortNames::default()).unwrap();
    let workload = authority.issue(&price(), &BTreeMap::new(), &csr()).unwrap();
    assert_eq!(admin.chain()[1], authority.operator_authority());
    assert_eq!(control_plane.chain()[1], authority.operator_authority());
    assert_ne!(workload.chain[1], authority.operator_authority());
}

#[test]
fn only_the_control_plane_has_names_beside_its_identity() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let svid = authority.control_plane(&names()).unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://outrigger.local/outrigger/control-plane");
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let found = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(found.critical, "the subject is empty");
    assert_eq!(
        found.value.general_names,
        [
            GeneralName::URI(svid.id().as_str()),
            GeneralName::DNSName("mesh.example.com"),
            GeneralName::IPAddress(&[192, 0, 2, 7]),
        ]
    );
    let admin = authority.operator(&"admin".parse().unwrap()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&admin.chain()[0]).unwrap();
    let found = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(found.value.general_names, [GeneralName::URI(admin.id().as_str())]);
}

#[test]
fn a_restart_keeps_the_authority_and_its_files_are_private() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let first = open(dir.path(), &time).unwrap();
    let second = reopen(dir.path(), &first.root_hash(), &time).unwrap();
    assert_eq!(first.bundle(), second.bundle());
    assert_eq!(first.operator_authority(), second.operator_authority());
    for name in ["root.pem", "workload.pem", "operator.pem"] {
        assert_eq!(
            fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
}

#[test]
fn intermediates_are_renewed_at_half_life_and_only_the_operators_keep_their_key() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let spki = |der: &[u8]| X509Certificate::from_der(der).unwrap().1.public_key().raw.to_vec();
    let workload = authority.issue(&price(), &BTreeMap::new(), &csr()).unwrap().chain[1].clone();
    let operator = authority.operator_authority();
    time.pass(14 * DAY);
    authority.renew().unwrap();
    assert_eq!(authority.operator_authority(), operator, "not before half of the life");
    time.pass(2 * DAY);
    authority.renew().unwrap();
    let renewed = authority.issue(&price(), &BTreeMap::new(), &csr()).unwrap().chain[1].clone();
    assert_ne!(spki(&renewed), spki(&workload));
    assert_ne!(authority.operator_authority(), operator);
    assert_eq!(spki(&authority.operator_authority()), spki(&operator));
    let reopened = open(dir.path(), &time).unwrap();
    assert_eq!(reopened.operator_authority(), authority.operator_authority(), "the renewed one is kept");
    for (name, validity) in reopened.validities() {
        assert!(validity.share_left(time.now()) > 0.9, "{name}");
    }
}

/// Its key is in nobody's hands but ours; if it is not, whoever has it can sign until its certificate expires.
#[test]
fn an_intermediate_on_its_way_out_takes_those_along_that_it_replaced() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let first = authority.active_keys()[1];
    time.pass(16 * DAY);
    authority.renew().unwrap();
    let second = authority.active_keys()[1];
    time.pass(13 * DAY);
    // As after a kill; and once more at a start.
    let authority = open(dir.path(), &time).unwrap();
    assert_eq!(authority.active_keys()[1], second);
    let kind = Kind::Intermediate;
    let prepared = authority.prepare(kind).unwrap();
    let state = authority.state().prepare(kind, time.now()).unwrap();
    authority.install(state.clone(), Some(prepared));
    let facts = |outgoing| Facts {
        now: time.now(),
        complete_at: time.now(),
        proxies: &[],
        absent: &[],
        unknown_until: None,
        outgoing,
    };
    let state = state.activate(kind, &facts(&[]), authority.leaf_life(), Force::No).unwrap();
    authority.install(state.clone(), None);
    assert_eq!(authority.bundle().outgoing.retiring, [second, first]);
    let state = state.revoke(kind, &facts(&authority.other_signers()), Force::All).unwrap();
    authority.install(state, None);
    assert_eq!(authority.bundle().outgoing.revoked, [second, first]);
}

#[test]
fn what_an_intermediate_replaced_is_forgotten_once_its_certificate_has_expired() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    open(dir.path(), &time).unwrap();
    for _ in 0..4 {
        time.pass(16 * DAY);
        // Renewed by the start.
        open(dir.path(), &time).unwrap();
    }
    let kept = fs::read_to_string(dir.path().join("workload.pem")).unwrap();
    assert_eq!(kept.matches("BEGIN CERTIFICATE").count(), 2, "its own, and the one before");
    assert_eq!(kept.matches("PRIVATE KEY").count(), 2, "one, begin and end");
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let [_, (_, workload), _] = authority.validities();
    time.pass(30 * DAY - Duration::from_hours(1));
    let issued = authority.issue(&price(), &BTreeMap::new(), &csr()).unwrap();
    assert_eq!(issued.validity.not_after, workload.not_after);
    assert!(issued.renew_after < workload.not_after);

    time.pass(profile::ROOT_LIFE - 35 * DAY);
    let late = open(dir.path(), &time).unwrap();
    let [(_, root), (_, workload), (_, operator)] = late.validities();
    assert_eq!(workload.not_after, root.not_after);
    assert_eq!(operator.not_after, root.not_after);
    time.pass(6 * DAY);
    assert!(matches!(open(dir.path(), &time), Err(AuthorityError::Expired { .. })));
}

#[test]
fn another_authority_than_the_known_one_is_refused() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let known = open(dir.path(), &time).unwrap().root_hash();
    let other_domain =
        Authority::open(dir.path(), &"elsewhere".parse().unwrap(), &Known::default(), time.clock());
    assert!(matches!(other_domain, Err(AuthorityError::TrustDomain { .. })));

    fs::remove_file(dir.path().join("root.pem")).unwrap();
    let gone = reopen(dir.path(), &known, &time);
    assert!(matches!(gone, Err(AuthorityError::AnotherRoot { .. })));
    let (another_dir, _) = (tempfile::tempdir().unwrap(), ());
    open(another_dir.path(), &time).unwrap();
    let another = reopen(another_dir.path(), &known, &time);
    assert!(matches!(another, Err(AuthorityError::AnotherRoot { .. })));
}

#[test]
fn a_damaged_file_is_refused_and_not_replaced() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    open(dir.path(), &time).unwrap();
    let whole = fs::read_to_string(dir.path().join("root.pem")).unwrap();
    let (certificate, key) = whole.split_at(whole.find("-----BEGIN PRIVATE").unwrap());
    let other = KeyPair::generate().unwrap().serialize_pem();
    for text in ["", certificate, key, &format!("{certificate}{other}"), &whole[..whole.len() / 3]] {
        fs::write(dir.path().join("root.pem"), text).unwrap();
        assert!(matches!(open(dir.path(), &time), Err(AuthorityError::Damaged { .. })), "{text}");
        assert_eq!(fs::read_to_string(dir.path().join("root.pem")).unwrap(), text);
    }
}

/// Nobody could connect with it, and nothing else would tell.
#[test]
fn a_certificate_that_was_changed_is_refused_with_its_path_whichever_it_is() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let prepared = authority.prepare(Kind::Root).unwrap();
    authority.install(authority.state().prepare(Kind::Root, time.now()).unwrap(), Some(prepared));
    let state = serde_json::to_vec(&authority.state()).unwrap();
    let root = authority.root_hash();
    let known = Known { root: Some(&root), state: Some(&state), ..Known::default() };
    let reopen = || Authority::open(dir.path(), &domain(), &known, time.clock());
    for name in ["root", "workload", "operator", "root-1", "workload-1", "operator-1"] {
        let path = dir.path().join(format!("{name}.pem"));
        let whole = fs::read_to_string(&path).unwrap();
        for line in [2, 4, 6, 9] {
            let at = whole.match_indices('\n').nth(line).unwrap().0 - 9;
            let mut text = whole.clone().into_bytes();
            text[at] = if text[at] == b'A' { b'B' } else { b'A' };
            fs::write(&path, &text).unwrap();
            let refused = reopen().unwrap_err();
            let AuthorityError::Damaged { path: of, .. } = &refused else {
                panic!("{name}, {line}: {refused}")
            };
            assert_eq!((of, fs::read(&path).unwrap()), (&path, text), "{name}, {line}");
            assert!(refused.to_string().contains("outrigger restore BACKUP --state-dir DIR"), "{refused}");
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(reopen().unwrap().bundle(), authority.bundle());
}

#[test]
fn no_bit_of_a_certificate_or_of_one_that_it_replaced_can_flip_unseen() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    time.pass(16 * DAY);
    authority.renew().unwrap();
    let root = Pair::load(&dir.path().join("root.pem"), None).unwrap().unwrap();
    let path = dir.path().join("workload.pem");
    let whole = fs::read(&path).unwrap();
    let certificates = |text: &[u8]| {
        CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect::<Vec<CertificateDer<'static>>>()
    };
    let kept = certificates(&whole);
    assert_eq!(kept.len(), 2);
    let key = {
        let text = str::from_utf8(&whole).unwrap();
        text.find("-----BEGIN PRIVATE").unwrap()..text.rfind("-----BEGIN CERT").unwrap()
    };
    for bit in (0..whole.len() * 8).filter(|bit| !key.contains(&(bit / 8))) {
        let mut text = whole.clone();
        text[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &text).unwrap();
        let loaded = Pair::load(&path, Some(&root));
        assert!(
            matches!(loaded, Err(AuthorityError::Damaged { .. })) || certificates(&text) == kept,
            "{bit}"
        );
    }
}

#[test]
fn only_the_key_of_a_request_is_used() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![SanType::URI(price().as_str().try_into().unwrap())];
    let csr = Csr::parse(params.serialize_request(&key).unwrap().der()).unwrap();
    csr.names_only(&price()).unwrap();
    let issued = authority.issue(&price(), &BTreeMap::new(), &csr).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject().iter().count(), 0);
}

#[test]
fn a_request_for_somebody_else_says_so() {
    let key = KeyPair::generate().unwrap();
    let front = "spiffe://outrigger.local/ns/demo/sa/front";
    for names in [&[front][..], &[price().as_str(), front][..]] {
        let csr = Csr::parse(&csr_for(&key, names)).unwrap();
        assert_eq!(csr.names_only(&price()), Err(CsrError::AnotherName(front.to_owned())));
    }
}

#[test]
fn malformed_unsigned_and_other_keys_are_refused() {
    let key = KeyPair::generate().unwrap();
    let good = csr_for(&key, &[]);
    assert_eq!(Csr::parse(b"").unwrap_err(), CsrError::Malformed);
    assert_eq!(Csr::parse(&good[..good.len() - 1]).unwrap_err(), CsrError::Malformed);
    assert_eq!(Csr::parse(&[good.as_slice(), b"x"].concat()).unwrap_err(), CsrError::Malformed);
    assert_eq!(Csr::parse(&vec![0; 9000]).unwrap_err(), CsrError::Malformed);
    for alg in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(alg).unwrap();
        assert_eq!(Csr::parse(&csr_for(&key, &[])).unwrap_err(), CsrError::Algorithm);
    }
    // Somebody else's public key, swapped into a request signed by another.
    let other = KeyPair::generate().unwrap();
    let at = good.windows(65).position(|window| window == key.public_key_raw()).unwrap();
    let mut stolen = good.clone();
    stolen[at..at + 65].copy_from_slice(other.public_key_raw());
    assert_eq!(Csr::parse(&stolen).unwrap_err(), CsrError::Signature);
}

#[test]
fn labels_are_in_the_certificate_and_only_there() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = open(dir.path(), &time).unwrap();
    let labels = BTreeMap::from([("version".to_owned(), "v2".to_owned()), ("é".to_owned(), "\"".to_owned())]);
    let with = authority.issue(&price(), &labels, &csr()).unwrap();
    let without = authority.issue(&price(), &BTreeMap::new(), &csr()).unwrap();
    assert_eq!(super::labels::read(&with.chain[0]), Some(labels));
    assert_eq!(super::labels::read(&without.chain[0]), None);
    let (_, leaf) = X509Certificate::from_der(&with.chain[0]).unwrap();
    assert!(leaf.extensions().iter().filter(|extension| extension.critical).count() <= 3);
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
}

#[test]
fn upkeep_renews_the_operators_credentials_and_says_when_everything_ends() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = Arc::new(open(dir.path(), &time).unwrap());
    let mut registry = prometheus_client::registry::Registry::with_prefix("outrigger");
    let upkeep =
        Upkeep::start(Arc::clone(&authority), names(), dir.path(), time.clock(), &mut registry).unwrap();
    let admin = || outrigger_tls::credential::load(&dir.path().join("admin")).unwrap().svid;
    let own = || upkeep.identity().svid().unwrap();
    let (first, first_own) = (admin(), own());
    time.pass(DAY / 2 - Duration::from_mins(1));
    upkeep.step().unwrap();
    assert_eq!(own().not_after(), first_own.not_after());
    time.pass(Duration::from_mins(2));
    upkeep.step().unwrap();
    assert!(own().not_after() > first_own.not_after(), "half of a day");
    assert_eq!(admin().not_after(), first.not_after());
    time.pass(3 * DAY);
    upkeep.step().unwrap();
    assert!(admin().not_after() > first.not_after(), "half of a week");

    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    for name in ["root", "workload", "operator", "control_plane", "admin", "reader"] {
        let line = format!("outrigger_certificate_not_after_seconds{{certificate=\"{name}\"}} ");
        assert!(metrics.contains(&line), "{name} is not in {metrics}");
    }
}

#[test]
fn an_operators_credential_that_does_not_fit_is_made_anew_and_one_open_to_others_is_not() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = Arc::new(open(dir.path(), &time).unwrap());
    let mut registry = prometheus_client::registry::Registry::default();
    let upkeep = Upkeep::start(authority, names(), dir.path(), time.clock(), &mut registry).unwrap();
    let admin = dir.path().join("admin");
    let id = || outrigger_tls::credential::load(&admin).unwrap().svid.id().to_string();
    for name in ["tls.key", "tls.crt", "ca.crt"] {
        fs::copy(dir.path().join("reader").join(name), admin.join(name)).unwrap();
    }
    assert!(id().ends_with("/reader"));
    upkeep.step().unwrap();
    assert!(id().ends_with("/admin"));
    fs::write(admin.join("tls.crt"), "nothing").unwrap();
    upkeep.step().unwrap();
    assert!(id().ends_with("/admin"));
    fs::set_permissions(&admin, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(upkeep.step().is_err(), "somebody may have read it: its owner has to know");
}

#[test]
fn an_operator_trusts_nobody_who_was_revoked() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let authority = Arc::new(open(dir.path(), &time).unwrap());
    let mut registry = prometheus_client::registry::Registry::default();
    let upkeep =
        Upkeep::start(Arc::clone(&authority), names(), dir.path(), time.clock(), &mut registry).unwrap();
    let load = || outrigger_tls::credential::load(&dir.path().join("admin")).unwrap();
    let before = load();
    assert!(before.bundle.outgoing().revoked.is_empty());
    let mut next = authority.state();
    next.sequence += 1;
    next.revoked.push(Signer { key: [7; 32], until: time.now() + DAY });
    authority.install(next, None);
    upkeep.step().unwrap();
    let after = load();
    assert_eq!(after.bundle.outgoing().revoked, [[7; 32]]);
    assert_eq!(after.bundle.authorities(), before.bundle.authorities());
    upkeep.step().unwrap();
    assert_eq!(load().svid.chain(), after.svid.chain(), "it is written once");
}
