//! What is written comes back; whatever else is found is refused by its cause.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::LazyLock, time::Duration};

use outrigger_core::model;
use outrigger_proto::mesh::v1alpha1 as mesh;
use outrigger_tls::testing::Authority;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn own() -> SpiffeId {
    "spiffe://outrigger.local/ns/demo/sa/front".parse().unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn item(type_url: &'static str, name: &str, version: &str, message: &impl prost::Message) -> Item {
    let raw = Raw { version: version.into(), content: message.encode_to_vec().into() };
    Item { type_url, name: name.into(), raw }
}

fn config(id: &SpiffeId) -> mesh::ProxyConfig {
    mesh::ProxyConfig::from(&model::ProxyConfig {
        workload_id: id.clone(),
        cluster_domain: "cluster.local".to_owned(),
        on_demand_timeout: Duration::from_secs(5),
        on_demand_idle: Duration::from_secs(300),
        external_traffic: model::ExternalTraffic::Deny,
        request_timeout: None,
        connect_timeout: Duration::from_secs(1),
    })
}

fn service(name: &str) -> mesh::Service {
    mesh::Service::from(&model::Service {
        name: name.parse().unwrap(),
        ports: vec![model::ServicePort {
            port: 80,
            protocol: model::AppProtocol::Http1,
            name: None,
            endpoint_set: format!("{name}:80").into(),
            rules: Vec::new(),
        }],
        warm_timeout: Duration::from_secs(5),
    })
}

fn contents(versions: &[String], absent: &[String]) -> Contents {
    // A key is not made in no time.
    static BUNDLE: LazyLock<mesh::TrustBundle> = LazyLock::new(|| {
        let bundle = model::TrustBundle::from(&Authority::new("outrigger.local").bundle());
        mesh::TrustBundle::from(&bundle)
    });
    let mut items = vec![
        item(type_url::PROXY_CONFIG, "self", "c", &config(&own())),
        item(type_url::TRUST_BUNDLE, "outrigger.local", "b", &*BUNDLE),
    ];
    for (number, version) in versions.iter().enumerate() {
        let name = format!("demo/s{number}");
        items.push(item(type_url::SERVICE, &name, version, &service(&name)));
    }
    let absent = absent.iter().map(|name| name.parse().unwrap()).collect();
    // An answer is a service and its endpoint sets.
    let retired = vec![item(type_url::SERVICE, "demo/idle", "1", &service("demo/idle"))];
    Contents { revision: 7, items, retired, absent }
}

struct Kept {
    path: std::path::PathBuf,
    _dir: TempDir,
}

fn kept(contents: &Contents) -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write(&path, &own(), contents, now()).unwrap();
    Kept { path, _dir: dir }
}

fn small() -> Contents {
    contents(&["1".to_owned()], &["demo/nobody".to_owned()])
}

fn reason(outcome: Result<Option<LastKnownGood>, Refused>) -> &'static str {
    outcome.err().map_or("taken", |refused| refused.reason())
}

#[test]
fn what_was_never_written_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(&dir.path().join("file"), &own(), now()).unwrap().is_none());
}

#[test]
fn it_is_for_the_own_eyes_only() {
    let kept = kept(&small());
    assert_eq!(fs::metadata(&kept.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn it_is_refused_by_any_other_identity() {
    let kept = kept(&small());
    for other in ["spiffe://outrigger.local/ns/demo/sa/other", "spiffe://elsewhere/ns/demo/sa/front"] {
        assert_eq!(reason(read(&kept.path, &other.parse().unwrap(), now())), "foreign");
    }
}

#[test]
fn it_is_good_for_seven_days() {
    let kept = kept(&small());
    let at = |time| reason(read(&kept.path, &own(), time));
    assert_eq!(at(now() + DAY * 7 - Duration::from_secs(1)), "taken");
    assert_eq!(at(now() + DAY * 7), "too_old");
    assert_eq!(at(now() - SKEW), "taken", "clocks are set");
    assert_eq!(at(now() - SKEW - Duration::from_secs(1)), "from_the_future");
}

#[test]
fn a_resource_that_cannot_be_run_whole_refuses_all_of_it() {
    let newer = mesh::Service { requires: vec!["teleport".to_owned()], ..service("demo/new") };
    let somebody = "spiffe://outrigger.local/ns/demo/sa/other".parse().unwrap();
    for (item, expected) in [
        (item(type_url::SERVICE, "demo/new", "1", &newer), "resource"),
        (item(type_url::SERVICE, "demo/other", "1", &service("demo/new")), "resource"),
        (item(type_url::PROXY_CONFIG, "self", "2", &config(&somebody)), "resource"),
        (
            item("type.googleapis.com/outrigger.mesh.v1alpha1.Fault", "x", "1", &service("demo/x")),
            "corrupted",
        ),
    ] {
        let mut all = small();
        all.items.push(item);
        assert_eq!(reason(read(&kept(&all).path, &own(), now())), expected);
    }
}

#[test]
fn without_an_own_side_or_anybody_to_trust_it_is_none() {
    for missing in [0, 1] {
        let mut all = small();
        all.items.remove(missing);
        assert_eq!(reason(read(&kept(&all).path, &own(), now())), "corrupted");
    }
}

#[test]
fn another_schema_and_another_kind_are_refused() {
    let kept = kept(&small());
    let payload = read_checked(&kept.path, FORMAT, MAX_PAYLOAD).unwrap();
    let newer = Format { schema: FORMAT.schema + 1, ..FORMAT };
    write_checked(&kept.path, newer, &payload, 0o600).unwrap();
    assert_eq!(reason(read(&kept.path, &own(), now())), "schema");
    let other = Format { magic: *b"OUTROTHR", ..FORMAT };
    write_checked(&kept.path, other, &payload, 0o600).unwrap();
    assert_eq!(reason(read(&kept.path, &own(), now())), "corrupted");
}

#[test]
fn cut_anywhere_or_changed_in_any_byte_it_is_refused() {
    let kept = kept(&small());
    let whole = fs::read(&kept.path).unwrap();
    for length in 0..whole.len() {
        fs::write(&kept.path, &whole[..length]).unwrap();
        assert_ne!(reason(read(&kept.path, &own(), now())), "taken", "{length}");
    }
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1 << (place % 8);
        fs::write(&kept.path, &changed).unwrap();
        assert_ne!(reason(read(&kept.path, &own(), now())), "taken", "{place}");
    }
}

proptest! {
    #[test]
    fn what_is_written_comes_back(
        versions in prop::collection::vec("[0-9a-f]{0,64}", 0..8),
        absent in prop::collection::vec("[a-z]{1,9}/[a-z]{1,9}", 0..8),
    ) {
        let before = contents(&versions, &absent);
        let after = read(&kept(&before).path, &own(), now()).unwrap().unwrap();
        prop_assert_eq!(after.origin, Origin { revision: 7, written: now() });
        let items = |all: Vec<(Item, _)>| all.into_iter().map(|(item, _)| item).collect::<Vec<_>>();
        prop_assert_eq!(items(after.items), before.items);
        prop_assert_eq!(items(after.retired), before.retired);
        prop_assert_eq!(after.absent, before.absent);
    }

    /// Whoever can write the file can also make its checksum right.
    #[test]
    fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(decode(payload, &own(), now()).is_err());
    }

    #[test]
    fn no_change_under_a_right_checksum_panics(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let kept = kept(&small());
        let mut payload = read_checked(&kept.path, FORMAT, MAX_PAYLOAD).unwrap();
        let place = place.index(payload.len());
        payload[place] = byte;
        let _taken_or_not = decode(payload, &own(), now()).is_ok();
    }
}
