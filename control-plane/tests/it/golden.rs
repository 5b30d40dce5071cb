//! What is compiled from the policies and workloads of an example, to the letter. When it changes on purpose, the test
//! tells where the new text is; read it, then copy it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_control_plane::{
    compile::{self, Policies, View},
    registry::{AddressRules, Claim, Limits, Registration, Snapshot, Table},
};
use outrigger_core::{
    model::{EndpointSet, Kind, Object, ObjectRef, Spec, SpiffeId},
    policy,
    wire::RESILIENCE,
};
use outrigger_proto::{
    mesh::v1alpha1 as mesh,
    registry::v1alpha1::{Workload, WorkloadPort},
};
use tokio::time::Instant;

fn objects(text: &str) -> BTreeMap<ObjectRef, Arc<Object>> {
    let documents = policy::parse(text).unwrap();
    let objects = documents.into_iter().enumerate().map(|(age, document)| {
        let mut object = document.object;
        // Written one after the other.
        object.metadata.created =
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(age).unwrap()));
        (object.reference(), Arc::new(object))
    });
    objects.collect()
}

fn registration(account: &str, id: &str, address: [u8; 4], version: &str) -> Registration {
    let pair = |name: &str, application_port, port| WorkloadPort {
        name: name.to_owned(),
        application_port,
        protocol: 2,
        address: address.to_vec(),
        port,
    };
    let workload = Workload {
        id: id.to_owned(),
        ports: vec![pair("http", 8080, 17006), pair("admin", 9001, 17007)],
        weight: 3,
        ..Workload::default()
    };
    let identity: SpiffeId = format!("spiffe://outrigger.local/{account}").parse().unwrap();
    Registration {
        claim: Claim::new(&identity, &workload, AddressRules::default()).unwrap(),
        labels: BTreeMap::from([("version".to_owned(), version.to_owned())]),
        lapsed: false,
    }
}

fn registry() -> Snapshot {
    let registrations = [
        registration("ns/demo/sa/price", "price-2", [10, 0, 0, 2], "v1"),
        registration("ns/demo/sa/price", "price-1", [10, 0, 0, 1], "v1"),
        registration("ns/shop/sa/price", "price-1", [10, 0, 1, 1], "v2"),
        registration("ns/shop/sa/price", "price-2", [10, 0, 1, 2], "v1"),
        registration("ns/shop/sa/stock", "other-port", [10, 0, 1, 3], "v1"),
    ];
    Table::load(Limits::default(), 1, registrations, Instant::now()).snapshot()
}

fn render(policies: &Policies, registry: &Snapshot) -> String {
    let mut text = String::new();
    let front = "spiffe://outrigger.local/ns/demo/sa/front".parse().unwrap();
    writeln!(text, "{:#?}", compile::proxy_config(policies, &front)).unwrap();
    for name in ["demo/price", "demo/price-v2", "shop/stock", "demo/missing"] {
        let service = name.parse().unwrap();
        for namespace in ["demo", "shop"] {
            let view = View { namespace: namespace.parse().unwrap() };
            let compiled = compile::service(policies, &service, &view);
            writeln!(text, "\n== {name}, for clients of {namespace}\n{compiled:#?}").unwrap();
        }
    }
    for (name, port) in [
        ("demo/price", 80),
        ("demo/price", 9000),
        ("demo/price", 81),
        ("demo/price-v2", 80),
        ("shop/stock", 80),
    ] {
        let compiled = compile::endpoint_set(policies, registry, &name.parse().unwrap(), port);
        writeln!(text, "\n== endpoints of {name}:{port}\n{compiled:#?}").unwrap();
    }
    text
}

#[test]
fn the_example_compiles_to_the_letter() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let input = fs::read_to_string(golden.join("mesh.yaml")).unwrap();
    let actual = render(&Policies::new(&objects(&input)), &registry());
    let expected = fs::read_to_string(golden.join("mesh.txt")).unwrap_or_default();
    if actual != expected {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mesh.txt");
        fs::write(&new, &actual).unwrap();
        panic!("what is compiled has changed; compare {} with tests/golden/mesh.txt", new.display());
    }
}

#[test]
fn the_order_of_writing_makes_no_difference() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let input = fs::read_to_string(golden.join("mesh.yaml")).unwrap();
    let objects = objects(&input);
    let backwards: Vec<_> = objects.iter().rev().collect();
    let (one, other) = (Policies::new(&objects), Policies::new(backwards));
    assert_eq!(render(&one, &registry()), render(&other, &registry()));
    assert_eq!(one.diff(&other), compile::Change::default());
}

#[test]
fn a_change_names_what_it_touches() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let input = fs::read_to_string(golden.join("mesh.yaml")).unwrap();
    let before = objects(&input);
    let mut after = before.clone();
    after.retain(|reference, _| reference.name.as_str() != "consumer");
    let change = Policies::new(&before).diff(&Policies::new(&after));
    let services: Vec<_> = change.services.iter().map(ToString::to_string).collect();
    assert_eq!(
        (services, change.endpoint_sets.len(), change.mesh_config),
        (vec!["demo/price".to_owned()], 0, false)
    );
    after.retain(|reference, _| reference.name.as_str() != "stock");
    let change = Policies::new(&before).diff(&Policies::new(&after));
    let sets: Vec<_> =
        change.endpoint_sets.iter().map(|(service, port)| format!("{service}:{port}")).collect();
    assert_eq!(sets, ["shop/stock:80"]);
}

#[test]
fn a_traffic_policy_touches_the_endpoint_sets_that_it_governs_and_nothing_else() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let with = objects(&fs::read_to_string(golden.join("mesh.yaml")).unwrap());
    let change = |before: &BTreeMap<_, _>, after: &BTreeMap<_, _>| {
        let change = Policies::new(before).diff(&Policies::new(after));
        assert!(change.services.is_empty() && !change.mesh_config, "{change:?}");
        let sets = change.endpoint_sets.iter().map(|(service, port)| format!("{service}:{port}"));
        sets.collect::<Vec<_>>()
    };
    let without = |name: &str| {
        let mut objects = with.clone();
        objects
            .retain(|reference, _| reference.kind != Kind::TrafficPolicy || reference.name.as_str() != name);
        objects
    };
    for (one, other) in [(&with, &without("price")), (&without("price"), &with)] {
        assert_eq!(change(one, other), ["demo/price:80"], "9000 has a policy of its own");
    }
    for (one, other) in [(&with, &without("admin")), (&without("admin"), &with)] {
        assert_eq!(change(one, other), ["demo/price:9000"]);
    }
    let mut moved = with.clone();
    for object in moved.values_mut() {
        if let Spec::TrafficPolicy(spec) = &mut Arc::make_mut(object).spec {
            for target in &mut spec.targets {
                target.name = "price-v2".parse().unwrap();
            }
        }
    }
    assert_eq!(change(&with, &moved), ["demo/price:80", "demo/price:9000", "demo/price-v2:80"]);
}

#[test]
fn a_proxy_takes_what_is_compiled_of_a_traffic_policy() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let policies = Policies::new(&objects(&fs::read_to_string(golden.join("mesh.yaml")).unwrap()));
    for (service, port, required) in
        [("demo/price", 80, true), ("demo/price", 9000, true), ("demo/price-v2", 80, false)]
    {
        let compiled = compile::endpoint_set(&policies, &registry(), &service.parse().unwrap(), port);
        let set = compiled.unwrap().resource;
        let wire = mesh::EndpointSet::from(&set);
        assert_eq!(wire.requires.iter().any(|feature| feature == RESILIENCE), required);
        assert_eq!(EndpointSet::try_from(wire), Ok(set));
    }
}
