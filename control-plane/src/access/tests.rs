//! The table alone; `tests/it/access.rs` walks it against a server.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Caller, Denied, Door, Grant, Role, TABLE, render, rule};

fn operator(grant: Option<Grant>) -> Caller {
    Caller::Operator { id: "spiffe://outrigger.local/outrigger/operator/ann".parse().unwrap(), grant }
}

fn of(namespace: &str, role: Role) -> Caller {
    operator(Some(Grant { role, namespaces: Some(BTreeSet::from([namespace.to_owned()])) }))
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/api-access.md");
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == render(),
        "docs/reference/api-access.md is not what the table says; write this to it:\n{}",
        render()
    );
}

#[test]
fn a_call_at_the_wrong_port_is_told_the_right_one_and_the_flag() {
    for rule in &TABLE {
        let (wrong, here, flag) = match rule.door {
            Door::Policy => {
                (Door::Discovery, "this is the discovery port; ", "with --server or OUTRIGGER_SERVER")
            }
            Door::Discovery => {
                (Door::Policy, "this is the policy port; ", "with --control-plane or OUTRIGGER_")
            }
        };
        let said = wrong.unknown(rule.path);
        for part in [here, rule.method, " is served on ", flag] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let said = Door::Policy.unknown("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    assert_eq!(said, "this is the policy port, and there is no such call; is the client of another version?");
}

#[test]
fn nobody_anonymous_gets_further_than_a_token_call() {
    for rule in &TABLE {
        assert_eq!(
            rule.decide(&Caller::Anonymous).is_ok(),
            rule.method == "identity.Issue",
            "{}",
            rule.method
        );
    }
}

#[test]
fn an_operator_without_a_role_gets_nothing() {
    for rule in &TABLE {
        assert!(rule.decide(&operator(None)).is_err(), "{}", rule.method);
    }
}

#[test]
fn a_role_in_one_namespace_ends_at_its_border() {
    let ann = of("demo", Role::Admin);
    let decide = |method| TABLE.iter().find(|rule| rule.method == method).unwrap().decide(&ann);
    assert!(decide("policy.Apply").is_ok(), "its namespaces are checked with the request");
    assert!(matches!(decide("policy.ListAudit"), Err(Denied::Namespace { .. })));
    assert!(Denied::outside(&ann, Some(&"demo".parse().unwrap())).is_ok());
    assert!(Denied::outside(&ann, Some(&"other".parse().unwrap())).is_err());
    assert!(Denied::outside(&ann, None).is_err(), "the mesh's own objects are nobody's namespace");
}

#[test]
fn a_call_is_served_at_one_door_only() {
    for row in &TABLE {
        let other = if row.door == Door::Policy { Door::Discovery } else { Door::Policy };
        assert_eq!(rule(row.door, row.path), Some(row));
        assert_eq!(rule(other, row.path), None);
    }
}
