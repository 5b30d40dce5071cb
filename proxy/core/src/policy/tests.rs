use proptest::prelude::*;

use super::*;
use crate::wire::strategies;

const HEAD: &str = "apiVersion: outrigger.dev/v1alpha1\n";

fn route(rules: &str) -> String {
    format!(
        "{HEAD}kind: Route\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: price}}]\n  rules:\n{rules}"
    )
}

fn rule(rule: &str) -> String {
    route(&format!("  - {rule}\n"))
}

fn service(spec: &str) -> String {
    format!("{HEAD}kind: Service\nmetadata: {{name: price}}\nspec: {spec}\n")
}

/// What is reported about `text`: place, path, code, message and remedy.
fn errors(text: &str) -> Vec<DocumentError> {
    parse(text).expect_err(text)
}

#[test]
fn every_bad_field_is_named_with_its_path_code_and_line() {
    let backends = |refs: &str| rule(&format!("backendRefs: {refs}"));
    let matches = |matches: &str| rule(&format!("matches: [{matches}]"));
    let filter = |filter: &str| rule(&format!("filters: [{filter}]"));
    let modify =
        |edits: &str| filter(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {edits}}}"));
    let config = |spec: &str| format!("{HEAD}kind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {spec}\n");
    let p = "{port: 80, name: a}";
    let mut wrong = Vec::new();
    for (text, field, code) in [
        // Services.
        (service("{prots: []}"), "spec.prots", "unknown_field"),
        (service("{ports: []}"), "spec.ports", "required"),
        (service("{ports: {}}"), "spec.ports", "wrong_type"),
        (service("{ports: [80]}"), "spec.ports[0]", "wrong_type"),
        (service("{ports: [{}]}"), "spec.ports[0].port", "required"),
        (service("{ports: [{port: 0}]}"), "spec.ports[0].port", "out_of_range"),
        (service("{ports: [{port: 65536}]}"), "spec.ports[0].port", "out_of_range"),
        (service("{ports: [{port: -1}]}"), "spec.ports[0].port", "out_of_range"),
        (service("{ports: [{port: 99999999999999999999}]}"), "spec.ports[0].port", "wrong_type"),
        (service("{ports: [{port: '80'}]}"), "spec.ports[0].port", "wrong_type"),
        (service("{ports: [{port: 80.5}]}"), "spec.ports[0].port", "wrong_type"),
        (service("{ports: [{port: 80, nodePort: 1}]}"), "spec.ports[0].nodePort", "unsupported"),
        (service("{ports: [{port: 80, name: HTTP}]}"), "spec.ports[0].name", "invalid_name"),
        (service("{ports: [{port: 80, protocol: GRPC}]}"), "spec.ports[0].protocol", "unsupported"),
        (service("{ports: [{port: 80, protocol: TCP}]}"), "spec.ports[0].protocol", "unsupported"),
        (service("{ports: [{port: 80, protocol: UDP}]}"), "spec.ports[0].protocol", "unsupported"),
        (service("{ports: [{port: 80, protocol: http}]}"), "spec.ports[0].protocol", "invalid"),
        (service("{ports: [{port: 80, appProtocol: Http}]}"), "spec.ports[0].appProtocol", "invalid"),
        (
            service("{ports: [{port: 80, protocol: GRPC, appProtocol: http}]}"),
            "spec.ports[0].appProtocol",
            "conflict",
        ),
        (service("{ports: [{port: 80, targetPort: 0}]}"), "spec.ports[0].targetPort", "out_of_range"),
        (service("{ports: [{port: 80, targetPort: a_b}]}"), "spec.ports[0].targetPort", "invalid_name"),
        (service(&format!("{{ports: [{p}, {{port: 80, name: b}}]}}")), "spec.ports[1].port", "duplicate"),
        (service(&format!("{{ports: [{p}, {{port: 81, name: a}}]}}")), "spec.ports[1].name", "duplicate"),
        (service(&format!("{{ports: [{p}, {{port: 81}}]}}")), "spec.ports[1].name", "required"),
        (
            service("{ports: [{port: 80}], serviceAccounts: [a/b/c]}"),
            "spec.serviceAccounts[0]",
            "invalid_name",
        ),
        (
            service("{ports: [{port: 80}], serviceAccounts: [a, default/a]}"),
            "spec.serviceAccounts[1]",
            "duplicate",
        ),
        (service("{ports: [{port: 80}], selector: {version: 1.10}}"), "spec.selector.version", "wrong_type"),
        (service("{ports: [{port: 80}], selector: {a.b/c: '?'}}"), "spec.selector[\"a.b/c\"]", "invalid"),
        (service("{ports: [{port: 80}], selector: {'-': a}}"), "spec.selector", "invalid_name"),
        // Routes.
        (route("    []\n"), "spec.rules", "required"),
        (route("  - {}\n").replace("[{name: price}]", "[]"), "spec.parentRefs", "required"),
        (
            route("  - {}\n").replace("{name: price}", "{nmae: price}"),
            "spec.parentRefs[0].nmae",
            "unknown_field",
        ),
        (
            route("  - {}\n").replace("{name: price}", "{name: price, sectionName: http}"),
            "spec.parentRefs[0].sectionName",
            "unsupported",
        ),
        (
            route("  - {}\n").replace("{name: price}", "{name: price, kind: Gateway}"),
            "spec.parentRefs[0].kind",
            "unsupported",
        ),
        (
            route("  - {}\n").replace("{name: price}", "{name: price}, {name: price, namespace: default}"),
            "spec.parentRefs[1]",
            "duplicate",
        ),
        (route("  - {}\n").replace("spec:", "spec:\n  hostnames: [a]"), "spec.hostnames", "unsupported"),
        (rule("retry: {attempts: 2}"), "spec.rules[0].retry", "unsupported"),
        (rule("sessionPersistence: {}"), "spec.rules[0].sessionPersistence", "unsupported"),
        (route("  - name: a\n  - name: a\n"), "spec.rules[1].name", "duplicate"),
        (
            backends("[{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 0}]"),
            "spec.rules[0].backendRefs",
            "all_weights_zero",
        ),
        (backends("[{name: a}]"), "spec.rules[0].backendRefs[0].port", "required"),
        (backends("[{port: 80}]"), "spec.rules[0].backendRefs[0].name", "required"),
        (
            backends("[{name: a, port: 80, weight: 1000001}]"),
            "spec.rules[0].backendRefs[0].weight",
            "out_of_range",
        ),
        (
            backends("[{name: a, port: 80, weight: -1}]"),
            "spec.rules[0].backendRefs[0].weight",
            "out_of_range",
        ),
        (backends("[{name: a, port: 80, weight: 50%}]"), "spec.rules[0].backendRefs[0].weight", "wrong_type"),
        (
            backends("[{name: a, port: 80}, {name: a, namespace: default, port: 80}]"),
            "spec.rules[0].backendRefs[1]",
            "duplicate",
        ),
        (
            backends("[{name: a, port: 80, filters: []}]"),
            "spec.rules[0].backendRefs[0].filters",
            "unsupported",
        ),
        (rule("timeouts: {request: 5}"), "spec.rules[0].timeouts.request", "invalid_duration"),
        (rule("timeouts: {request: 5 s}"), "spec.rules[0].timeouts.request", "invalid_duration"),
        (rule("timeouts: {request: 1.5s}"), "spec.rules[0].timeouts.request", "invalid_duration"),
        (rule("timeouts: {request: 25h}"), "spec.rules[0].timeouts.request", "out_of_range"),
        (
            rule("timeouts: {request: 1s, backendRequest: 1s}"),
            "spec.rules[0].timeouts.backendRequest",
            "unsupported",
        ),
        (matches("{path: {value: v1}}"), "spec.rules[0].matches[0].path.value", "invalid"),
        (matches("{path: {value: /a/../b}}"), "spec.rules[0].matches[0].path.value", "invalid"),
        (matches("{path: {value: '/a?b'}}"), "spec.rules[0].matches[0].path.value", "invalid"),
        (matches("{path: {value: ''}}"), "spec.rules[0].matches[0].path.value", "required"),
        (matches("{path: {type: Prefix, value: /}}"), "spec.rules[0].matches[0].path.type", "invalid"),
        (
            matches("{path: {type: RegularExpression, value: '(a'}}"),
            "spec.rules[0].matches[0].path.value",
            "invalid_regex",
        ),
        (
            matches("{path: {type: RegularExpression, value: 'a)(b'}}"),
            "spec.rules[0].matches[0].path.value",
            "invalid_regex",
        ),
        (
            matches("{path: {type: RegularExpression, value: '(?=a)'}}"),
            "spec.rules[0].matches[0].path.value",
            "invalid_regex",
        ),
        (
            matches("{path: {type: RegularExpression, value: '((a{100}){100}){100}'}}"),
            "spec.rules[0].matches[0].path.value",
            "too_large",
        ),
        (matches("{method: get}"), "spec.rules[0].matches[0].method", "invalid"),
        (
            matches("{headers: [{name: a b, value: c}]}"),
            "spec.rules[0].matches[0].headers[0].name",
            "invalid_name",
        ),
        (
            matches("{headers: [{name: a, value: b}, {name: A, value: c}]}"),
            "spec.rules[0].matches[0].headers[1].name",
            "duplicate",
        ),
        (
            matches("{headers: [{name: a, value: true}]}"),
            "spec.rules[0].matches[0].headers[0].value",
            "wrong_type",
        ),
        (matches("{headers: [{name: a}]}"), "spec.rules[0].matches[0].headers[0].value", "required"),
        (
            matches("{headers: [{name: a, type: Prefix, value: b}]}"),
            "spec.rules[0].matches[0].headers[0].type",
            "invalid",
        ),
        (
            matches("{queryParams: [{name: a=b, value: c}]}"),
            "spec.rules[0].matches[0].queryParams[0].name",
            "invalid_name",
        ),
        (
            matches("{queryParams: [{name: a, value: 'a&b'}]}"),
            "spec.rules[0].matches[0].queryParams[0].value",
            "invalid",
        ),
        (
            filter("{type: RequestRedirect, requestRedirect: {}}").replace("requestRedirect: {}", ""),
            "spec.rules[0].filters[0].type",
            "unsupported",
        ),
        (filter("{type: URLRewrite}"), "spec.rules[0].filters[0].type", "unsupported"),
        (filter("{type: RequestMirror}"), "spec.rules[0].filters[0].type", "unsupported"),
        (filter("{type: CORS}"), "spec.rules[0].filters[0].type", "unsupported"),
        (filter("{requestHeaderModifier: {}}"), "spec.rules[0].filters[0].type", "required"),
        (modify("{}"), "spec.rules[0].filters[0].requestHeaderModifier", "required"),
        (
            modify("{set: [{name: host, value: a}]}"),
            "spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
            "reserved",
        ),
        (
            modify("{remove: [content-length]}"),
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
            "reserved",
        ),
        (
            modify("{add: [{name: Outrigger-Timing, value: a}]}"),
            "spec.rules[0].filters[0].requestHeaderModifier.add[0].name",
            "reserved",
        ),
        (
            modify("{set: [{name: a, value: ' b'}]}"),
            "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
            "invalid",
        ),
        (
            modify("{set: [{name: a, value: \"b\\r\\nc: d\"}]}"),
            "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
            "invalid",
        ),
        (modify("{remove: [a, A]}"), "spec.rules[0].filters[0].requestHeaderModifier.remove[1]", "duplicate"),
        // The mesh's knobs.
        (config("{externalTraffic: Allow}"), "spec.externalTraffic", "invalid"),
        (config("{clusterDomain: Cluster.local}"), "spec.clusterDomain", "invalid_name"),
        (config("{timeouts: {connect: 0s}}"), "spec.timeouts.connect", "out_of_range"),
        (config("{timeouts: {discovery: 5m}}"), "spec.timeouts.discovery", "out_of_range"),
        (config("{timeouts: {idle: 5m}}"), "spec.timeouts.idle", "unknown_field"),
        (config("{}").replace("name: mesh", "name: other"), "metadata.name", "invalid"),
        (config("{}").replace("name: mesh", "name: mesh, namespace: a"), "metadata.namespace", "invalid"),
        // What every document has.
        (config("{}").replace("v1alpha1", "v1"), "apiVersion", "unsupported"),
        (config("{}").replace("MeshConfig", "TrafficPolicy"), "kind", "unsupported"),
        (config("{}").replace("MeshConfig", "AuthorizationPolicy"), "kind", "unsupported"),
        (config("{}").replace("MeshConfig", "MtlsPolicy"), "kind", "unsupported"),
        (config("{}").replace("MeshConfig", "ExternalService"), "kind", "unsupported"),
        (config("{}").replace("MeshConfig", "Fault"), "kind", "unsupported"),
        (config("{}").replace("MeshConfig", "meshConfig"), "kind", "invalid"),
        (config("{}").replace("spec: {}", "sepc: {}").replace("sepc", "status"), "spec", "required"),
        (service("{ports: [{port: 80}]}").replace("{name: price}", "{}"), "metadata.name", "required"),
        (
            service("{ports: [{port: 80}]}").replace("name: price", "name: Price"),
            "metadata.name",
            "invalid_name",
        ),
        (
            service("{ports: [{port: 80}]}").replace("name: price", "name: price, namespace: a.b"),
            "metadata.namespace",
            "invalid_name",
        ),
        (service("{ports: [{port: 80}]}").replace("name: price", "name: 5"), "metadata.name", "wrong_type"),
        (
            service("{ports: [{port: 80}]}").replace("name: price", "name: price, labels: {a: 'b c'}"),
            "metadata.labels.a",
            "invalid",
        ),
        ("[]".to_owned(), "", "wrong_type"),
        (String::new(), "", "required"),
        ("a: [".to_owned(), "", "malformed"),
        ("a: 1\na: 2\n".to_owned(), "", "duplicate"),
        ("a: *b".to_owned(), "", "malformed"),
    ] {
        let found: Vec<_> =
            errors(&text).iter().map(|error| (error.violation.field.clone(), error.violation.code)).collect();
        if found != [(field.to_owned(), code)] {
            wrong.push(format!(
                "{text}
  expected {field} {code}
  found {found:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #[test]
    fn what_is_written_is_read(object in strategies::written_object()) {
        let yaml = to_yaml(&object);
        let read = parse(&yaml);
        prop_assert!(read.is_ok(), "{yaml}\n{read:?}");
        prop_assert_eq!(&read.unwrap()[0].object, &object, "{}", yaml);
        let json = to_json(&object).to_string();
        prop_assert_eq!(&parse(&json).unwrap()[0].object, &object);
    }
}
