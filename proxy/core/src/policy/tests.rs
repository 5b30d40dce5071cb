//! Documents as people write them, right and wrong.

mod refused;
mod traffic_policy;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{AppProtocol, PathMatch, Spec},
    wire::strategies,
};

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
fn everything_is_reported_at_once_where_it_is_written() {
    let text = "\
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata:
  name: Price
spec:
  parentRefs:
  - name: price
  hostnames: [price.example]
  rules:
  - backendRefs:
    - name: price-v1
      port: 80
      weight: '90'
    - nmae: price-v2
      port: 80
  - timeouts:
      request: 10 seconds
---
kind: Service
metadata: {name: price}
spec: {ports: [{port: 80}]}
";
    let found: Vec<_> = errors(text).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "document 1, line 8, column 3: spec.hostnames: 'hostnames' is not supported by this version; leave it out",
            "document 1, line 13, column 7: spec.rules[0].backendRefs[0].weight: this is a text, a number is needed; \
             write 90 without quotes",
            "document 1, line 14, column 7: spec.rules[0].backendRefs[1].nmae: there is no field 'nmae' here; \
             did you mean 'name'?",
            "document 1, line 17, column 7: spec.rules[1].timeouts.request: '10 seconds' is not a duration; \
             write it like 1s, 250ms or 1h30m",
            "document 1, line 4, column 3: metadata.name: 'Price' is not a DNS label: 1 to 63 of a-z, 0-9 and '-', \
             starting and ending with a letter or digit",
            "document 2, line 19, column 1: apiVersion: it is missing; write apiVersion: outrigger.dev/v1alpha1",
        ]
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = format!(
        "{}---\n{}---\n{HEAD}kind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{timeouts: {{request: 0s}}}}\n",
        service(
            "{ports: [{port: 80, protocol: TCP, appProtocol: http, name: null}], serviceAccounts: [price, a/b]}"
        ),
        rule("{matches: [{path: {}, headers: [{name: X-A, value: b}]}], backendRefs: [{name: a, port: 1}]}"),
    );
    let documents = parse(&text).unwrap();
    assert_eq!(
        documents.iter().map(|document| (document.index, document.line)).collect::<Vec<_>>(),
        [(0, 1), (1, 6), (2, 14)]
    );
    let [service, route, config] = [0, 1, 2].map(|index| &documents[index].object);
    assert_eq!(service.reference().to_string(), "Service default/price");
    let Spec::Service(spec) = &service.spec else { panic!("{service:?}") };
    assert_eq!(spec.ports[0].protocol, AppProtocol::Http1);
    assert_eq!(spec.service_accounts.len(), 1, "the account named like the service is granted anyway");
    let Spec::Route(spec) = &route.spec else { panic!("{route:?}") };
    assert_eq!(spec.rules[0].matches[0].path, Some(PathMatch::Prefix("/".to_owned())));
    assert_eq!(spec.rules[0].matches[0].headers[0].name, "x-a");
    assert_eq!(spec.rules[0].backends[0].weight, 1);
    assert_eq!(config.spec, Spec::MeshConfig(crate::model::MeshConfigSpec::default()));
}

#[test]
fn a_port_speaks_what_kubernetes_says_it_speaks() {
    for (fields, spoken) in [
        ("", AppProtocol::Detect),
        ("protocol: TCP", AppProtocol::Tcp),
        ("protocol: HTTP2", AppProtocol::Http2),
        ("protocol: TLS", AppProtocol::Tls),
        ("protocol: TCP, appProtocol: http", AppProtocol::Http1),
        ("protocol: TCP, appProtocol: kubernetes.io/ws", AppProtocol::Http1),
        ("appProtocol: http2", AppProtocol::Http2),
        ("appProtocol: kubernetes.io/h2c", AppProtocol::Http2),
        ("appProtocol: grpc", AppProtocol::Grpc),
        ("appProtocol: tcp", AppProtocol::Tcp),
        ("appProtocol: tls", AppProtocol::Tls),
        ("appProtocol: https", AppProtocol::Tls),
        ("appProtocol: kubernetes.io/wss", AppProtocol::Tls),
    ] {
        let documents = parse(&service(&format!("{{ports: [{{port: 80, {fields}}}]}}"))).unwrap();
        let Spec::Service(spec) = &documents[0].object.spec else { panic!("{documents:?}") };
        assert_eq!(spec.ports[0].protocol, spoken, "{fields}");
    }
}

#[test]
fn an_object_is_written_once() {
    let text = format!("{0}---\n{1}---\n{0}", service("{ports: [{port: 80}]}"), rule("{}"));
    let found = errors(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    let error = &found[0];
    assert_eq!((error.index, error.line, error.violation.code), (2, 16, "duplicate"));
    assert_eq!(error.violation.message, "Service default/price is also document 1");
}

#[test]
fn json_is_read_with_or_without_what_yaml_lacks() {
    let json = r#"{
\t"apiVersion": "outrigger.dev\/v1alpha1", "kind": "Service",
\t"metadata": {"name": "price", "annotations": {"face": "FACE"}},
\t"spec": {"ports": [{"port": 80}]}
}"#
    .replace("\\t", "\t");
    let plain = parse(&json).unwrap();
    assert_eq!((plain[0].line, plain[0].object.metadata.annotations["face"].as_str()), (1, "FACE"));
    let halves = parse(&json.replace("FACE", r"\ud83d\ude00")).unwrap();
    assert_eq!(halves[0].object.metadata.annotations["face"], "\u{1f600}");
    let two = format!("{json}\n{}", json.replace("price", "stock"));
    assert_eq!(parse(&two).unwrap().len(), 2);
    assert_eq!(
        errors(&json.replace("\"port\": 80", "\"port\": 80, \"port\": 81"))[0].violation.code,
        "duplicate"
    );
}

#[test]
fn what_the_server_keeps_can_be_written_back() {
    let text = "\
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, revision: 7, generation: 2, created: '2026-01-01T00:00:00Z', updated: x, updatedBy: y, uid: z}
spec: {ports: [{port: 80}]}
status: {conditions: [{type: Accepted, status: 'True'}]}
";
    let object = &parse(text).unwrap()[0].object;
    assert_eq!((object.metadata.revision, object.metadata.uid.as_str()), (7, ""));
    assert!(object.conditions.is_empty());
}

#[test]
fn an_object_reads_as_its_author_would_write_it() {
    let mut object = parse(&rule(
        "{name: canary, matches: [{path: {type: Exact, value: /buy}, method: POST}], timeouts: {request: 90s}, \
         filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: 'true'}]}}], \
         backendRefs: [{name: price-v1, port: 80, weight: 90}, {name: price-v2, port: 80, weight: 10}]}",
    ))
    .unwrap()[0]
        .object
        .clone();
    object.metadata.revision = 12;
    object.metadata.created = Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000));
    object.conditions.push(crate::model::Condition {
        kind: "Accepted".to_owned(),
        status: true,
        reason: "Accepted".to_owned(),
        message: "the object is valid".to_owned(),
        observed_generation: 1,
        since: None,
    });
    let expected = "\
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata:
  created: \"2023-11-14T22:13:20Z\"
  name: r
  namespace: default
  revision: 12
spec:
  parentRefs:
  - name: price
  rules:
  - backendRefs:
    - name: price-v1
      port: 80
      weight: 90
    - name: price-v2
      port: 80
      weight: 10
    filters:
    - requestHeaderModifier:
        set:
        - name: x-a
          value: \"true\"
      type: RequestHeaderModifier
    matches:
    - method: POST
      path:
        type: Exact
        value: /buy
    name: canary
    timeouts:
      request: 1m30s
status:
  conditions:
  - message: the object is valid
    observedGeneration: 1
    reason: Accepted
    status: \"True\"
    type: Accepted
";
    assert_eq!(to_yaml(&object), expected);
}

#[test]
fn what_would_take_too_much_is_refused() {
    let bomb: String = (1..20).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let before = level - 1;
        text + &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(", "))
    });
    let deep_flow = "[".repeat(100_000);
    let deep_block: String = (0..500).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let wide = format!("a: [{}]", "1,".repeat(100_000));
    let long = format!("a: {}", "x".repeat(MAX_TEXT));
    assert_eq!(errors(&deep_flow)[0].violation.code, "malformed", "the scanner's own limit");
    for text in [bomb, deep_block, wide, long] {
        let found = errors(&text);
        let codes: Vec<_> = found.iter().map(|error| error.violation.code).collect();
        assert_eq!(codes, ["too_large"], "{text:.80}\n{found:?}");
    }
    let many = service("{ports: [{port: 80}]}") + "---\n";
    let many: String =
        (0..100).map(|index| many.replace("name: price", &format!("name: s{index}"))).collect();
    assert_eq!(errors(&many).last().unwrap().violation.code, "too_many");
    let matches = vec!["{path: {type: RegularExpression, value: a}}"; 33].join(", ");
    let text = route(&format!("  - matches: [{matches}]\n").repeat(2));
    assert_eq!(errors(&text)[0].violation.code, "too_many");
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

    #[test]
    fn no_text_panics(text in "\\PC{0,40}|[a-z0-9:{}\\[\\], \n'\"&*!|>?%@`#-]{0,60}") {
        drop(parse(&text));
    }

    #[test]
    fn no_change_of_a_document_panics(object in strategies::written_object(), at: prop::sample::Index, c: char) {
        let mut yaml: Vec<char> = to_yaml(&object).chars().collect();
        let at = at.index(yaml.len());
        yaml[at] = c;
        drop(parse(&yaml.iter().collect::<String>()));
        yaml.truncate(at);
        drop(parse(&yaml.into_iter().collect::<String>()));
    }
}
