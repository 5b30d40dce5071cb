//! Tables of what is refused: a fragment of a document, and the one finding that it must give, as path and code.

use super::{HEAD, errors, route, rule, service};

/// Checks each line `fragment -> path code` of `table`, the fragment put in its place by `document`, the path below
/// `below`. All wrong lines are told at once.
#[track_caller]
fn refuses(document: impl Fn(&str) -> String, below: &str, table: &str) {
    let mut wrong = Vec::new();
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (fragment, expected) = line.rsplit_once(" -> ").unwrap();
        let found: Vec<_> = errors(&document(fragment))
            .iter()
            .map(|error| format!("{} {}", error.violation.field, error.violation.code))
            .collect();
        if found != [format!("{below}{expected}")] {
            wrong.push(format!("{line}\n    found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bad_services() {
    refuses(
        |spec| service(&format!("{{{spec}}}")),
        "spec.",
        r#"
        prots: [] -> prots unknown_field
        ports: [] -> ports required
        ports: {} -> ports wrong_type
        ports: [80] -> ports[0] wrong_type
        ports: [{port: 80}], serviceAccounts: [a/b/c] -> serviceAccounts[0] invalid_name
        ports: [{port: 80}], serviceAccounts: [a, default/a] -> serviceAccounts[1] duplicate
        ports: [{port: 80}], serviceAccounts: [1] -> serviceAccounts[0] wrong_type
        ports: [{port: 80}], selector: {version: 1.10} -> selector.version wrong_type
        ports: [{port: 80}], selector: {version: .nan} -> selector.version wrong_type
        ports: [{port: 80}], selector: {a.b/c: '?'} -> selector["a.b/c"] invalid
        ports: [{port: 80}], selector: {'-': a} -> selector invalid_name
        ports: [{port: 80, name: a}, {port: 80, name: b}] -> ports[1].port duplicate
        ports: [{port: 80, name: a}, {port: 81, name: a}] -> ports[1].name duplicate
        ports: [{port: 80, name: a}, {port: 81}] -> ports[1].name required
        "#,
    );
}

#[test]
fn bad_ports() {
    refuses(
        |port| service(&format!("{{ports: [{{{port}}}]}}")),
        "spec.ports[0].",
        r#"
        name: a -> port required
        port: 0 -> port out_of_range
        port: 65536 -> port out_of_range
        port: -1 -> port out_of_range
        port: 99999999999999999999 -> port wrong_type
        port: '80' -> port wrong_type
        port: 80.5 -> port wrong_type
        port: 080 -> port wrong_type
        port: 80, nodePort: 1 -> nodePort unsupported
        port: 80, name: HTTP -> name invalid_name
        port: 80, protocol: UDP -> protocol unsupported
        port: 80, protocol: SCTP -> protocol unsupported
        port: 80, protocol: UDP, appProtocol: tcp -> appProtocol conflict
        port: 80, protocol: http -> protocol invalid
        port: 80, appProtocol: Http -> appProtocol invalid
        port: 80, appProtocol: kubernetes.io/h3 -> appProtocol invalid
        port: 80, protocol: GRPC, appProtocol: http -> appProtocol conflict
        port: 80, targetPort: 0 -> targetPort out_of_range
        port: 80, targetPort: a_b -> targetPort invalid_name
        "#,
    );
}

#[test]
fn bad_parents() {
    refuses(
        |parents| route("  - {}\n").replace("[{name: price}]", parents),
        "spec.parentRefs",
        r#"
        [] ->  required
        [{nmae: price}] -> [0].nmae unknown_field
        [{namespace: demo}] -> [0].name required
        [{name: price, sectionName: http}] -> [0].sectionName unsupported
        [{name: price, kind: Gateway}] -> [0].kind unsupported
        [{name: price, port: 0}] -> [0].port out_of_range
        [{name: price}, {name: price, namespace: default}] -> [1] duplicate
        [{name: a.b}] -> [0].name invalid_name
        "#,
    );
}

#[test]
fn bad_rules() {
    refuses(
        |spec| route("  - {}\n").replace("spec:", &format!("spec:\n  {spec}")),
        "spec.",
        r#"
        hostnames: [a] -> hostnames unsupported
        useDefaultGateways: All -> useDefaultGateways unsupported
        host: a -> host unknown_field
        "#,
    );
    refuses(
        rule,
        "spec.rules[0].",
        r#"
        retry: {attempts: 2} -> retry unsupported
        sessionPersistence: {} -> sessionPersistence unsupported
        name: A -> name invalid_name
        timeouts: {request: 5} -> timeouts.request invalid_duration
        timeouts: {request: 5 s} -> timeouts.request invalid_duration
        timeouts: {request: 1.5s} -> timeouts.request invalid_duration
        timeouts: {request: -1s} -> timeouts.request invalid_duration
        timeouts: {request: []} -> timeouts.request wrong_type
        timeouts: {request: 25h} -> timeouts.request out_of_range
        timeouts: {request: 1s, backendRequest: 1s} -> timeouts.backendRequest unsupported
        backendRefs: [{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 0}] -> backendRefs all_weights_zero
        backendRefs: [{name: a}] -> backendRefs[0].port required
        backendRefs: [{port: 80}] -> backendRefs[0].name required
        backendRefs: [{name: a, port: 80, weight: 1000001}] -> backendRefs[0].weight out_of_range
        backendRefs: [{name: a, port: 80, weight: -1}] -> backendRefs[0].weight out_of_range
        backendRefs: [{name: a, port: 80, weight: 50%}] -> backendRefs[0].weight wrong_type
        backendRefs: [{name: a, port: 80, filters: []}] -> backendRefs[0].filters unsupported
        backendRefs: [{name: a, port: 80}, {name: a, namespace: default, port: 80}] -> backendRefs[1] duplicate
    "#,
    );
    refuses(
        |rules| route(&format!("    {rules}\n")),
        "spec.",
        r#"
        [] -> rules required
        [{name: a}, {name: a}] -> rules[1].name duplicate
        "#,
    );
}

#[test]
fn bad_matches() {
    refuses(
        |condition| rule(&format!("matches: [{{{condition}}}]")),
        "spec.rules[0].matches[0].",
        r#"
        path: {value: v1} -> path.value invalid
        path: {value: /a/../b} -> path.value invalid
        path: {value: '/a?b'} -> path.value invalid
        path: {value: '/a//b'} -> path.value invalid
        path: {value: /ä} -> path.value invalid
        path: {value: ''} -> path.value required
        path: {type: Prefix, value: /} -> path.type invalid
        path: {type: RegularExpression, value: ''} -> path.value required
        path: {type: RegularExpression, value: '(a'} -> path.value invalid_regex
        path: {type: RegularExpression, value: 'a)(b'} -> path.value invalid_regex
        path: {type: RegularExpression, value: '(?=a)'} -> path.value invalid_regex
        path: {type: RegularExpression, value: '((a{100}){100}){100}'} -> path.value too_large
        method: get -> method invalid
        method: 'GET /' -> method invalid
        headers: [{name: a b, value: c}] -> headers[0].name invalid_name
        headers: [{name: a, value: b}, {name: A, value: c}] -> headers[1].name duplicate
        headers: [{name: a, value: true}] -> headers[0].value wrong_type
        headers: [{name: a}] -> headers[0].value required
        headers: [{name: a, type: Prefix, value: b}] -> headers[0].type invalid
        headers: [{name: a, value: "\u00e9"}] -> headers[0].value invalid
        queryParams: [{name: a=b, value: c}] -> queryParams[0].name invalid_name
        queryParams: [{name: a, value: 'a&b'}] -> queryParams[0].value invalid
        queryParams: [{name: a, value: b}, {name: a, value: c}] -> queryParams[1].name duplicate
        queryparams: [] -> queryparams unknown_field
        "#,
    );
}

#[test]
fn bad_filters() {
    let filter = |filter: &str| rule(&format!("filters: [{{{filter}}}]"));
    refuses(
        filter,
        "spec.rules[0].filters[0].",
        r#"
        type: URLRewrite -> type unsupported
        type: RequestRedirect -> type unsupported
        type: RequestMirror -> type unsupported
        type: CORS -> type unsupported
        type: Rewrite -> type invalid
        requestHeaderModifier: {set: [{name: a, value: b}]} -> type required
        type: RequestHeaderModifier -> requestHeaderModifier required
    "#,
    );
    refuses(
        |edits| filter(&format!("type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}")),
        "spec.rules[0].filters[0].requestHeaderModifier",
        r#"
        set: [] ->  required
        set: [{name: host, value: a}] -> .set[0].name reserved
        remove: [content-length] -> .remove[0] reserved
        add: [{name: Outrigger-Timing, value: a}] -> .add[0].name reserved
        set: [{name: a, value: ' b'}] -> .set[0].value invalid
        set: [{name: a, value: "b\r\nc: d"}] -> .set[0].value invalid
        set: [{name: a, value: b}, {name: A, value: c}] -> .set[1].name duplicate
        remove: [a, A] -> .remove[1] duplicate
        "#,
    );
    let twice = "type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}";
    let found = errors(&rule(&format!("filters: [{{{twice}}}, {{{twice}}}]")));
    assert_eq!(
        (found[0].violation.field.as_str(), found[0].violation.code),
        ("spec.rules[0].filters[1]", "duplicate")
    );
}

fn traffic_policy(spec: &str) -> String {
    format!("{HEAD}kind: TrafficPolicy\nmetadata: {{name: a}}\nspec: {{{spec}}}\n")
}

#[test]
fn bad_traffic_policies() {
    refuses(
        traffic_policy,
        "spec.",
        r#"
        timeouts: {} -> targetRefs required
        targetRefs: [] -> targetRefs required
        targetRef: {name: a}, targetRefs: [{name: a}] -> targetRef unsupported
        targetRefs: [{name: a, namespace: b}] -> targetRefs[0].namespace unsupported
        targetRefs: [{name: a, sectionName: b}] -> targetRefs[0].sectionName unsupported
        targetRefs: [{name: a, kind: HTTPRoute}] -> targetRefs[0].kind invalid
        targetRefs: [{port: 80}] -> targetRefs[0].name required
        targetRefs: [{name: a, port: 0}] -> targetRefs[0].port out_of_range
        targetRefs: [{name: a, port: 80}, {name: a}, {name: a, port: 80}] -> targetRefs[2] duplicate
    "#,
    );
    let thirty_three: String = (0..33).map(|index| format!("{{name: a{index}}}, ")).collect();
    refuses(
        |_| traffic_policy(&format!("targetRefs: [{thirty_three}]")),
        "spec.",
        "33 -> targetRefs too_many",
    );
    refuses(
        |spec| traffic_policy(&format!("targetRefs: [{{name: a}}], {spec}")),
        "spec.",
        r#"
        timeout: {request: 1s} -> timeout unknown_field
        timeouts: {request: 25h} -> timeouts.request out_of_range
        timeouts: {request: 1} -> timeouts.request invalid_duration
        timeouts: {perTry: 25h} -> timeouts.perTry out_of_range
        timeouts: {request: 1s, perTry: 1001ms} -> timeouts.perTry conflict
        timeouts: {connect: 0s} -> timeouts.connect out_of_range
        timeouts: {connect: 61s} -> timeouts.connect out_of_range
        timeouts: {idle: 25h} -> timeouts.idle out_of_range
        timeouts: {backendRequest: 1s} -> timeouts.backendRequest unknown_field
        retry: true -> retry wrong_type
        retry: {attempts: 11} -> retry.attempts out_of_range
        retry: {attempts: -1} -> retry.attempts out_of_range
        retry: {attempts: '2'} -> retry.attempts wrong_type
        retry: {statuses: 503} -> retry.statuses wrong_type
        retry: {statuses: [502, '503']} -> retry.statuses[1] wrong_type
        retry: {statuses: [499]} -> retry.statuses[0] out_of_range
        retry: {statuses: [600]} -> retry.statuses[0] out_of_range
        retry: {statuses: [66038]} -> retry.statuses[0] out_of_range
        retry: {statuses: [503, 429, 503]} -> retry.statuses[2] duplicate
        retry: {onReset: 'true'} -> retry.onReset wrong_type
        retry: {onReset: 1} -> retry.onReset wrong_type
        retry: {backoff: 25ms} -> retry.backoff wrong_type
        retry: {backoff: {base: 0s}} -> retry.backoff.base out_of_range
        retry: {backoff: {max: 61s}} -> retry.backoff.max out_of_range
        retry: {backoff: {base: 1s}} -> retry.backoff.base conflict
        retry: {backoff: {base: 2s, max: 1s}} -> retry.backoff.base conflict
        retryBudget: {percent: 101} -> retryBudget.percent out_of_range
        retryBudget: {percent: 20%} -> retryBudget.percent wrong_type
        retryBudget: {interval: 999ms} -> retryBudget.interval out_of_range
        retryBudget: {interval: 61s} -> retryBudget.interval out_of_range
        retryBudget: {minPerSecond: 1001} -> retryBudget.minPerSecond out_of_range
        outlier: {consecutiveFailures: 1001} -> outlier.consecutiveFailures out_of_range
        outlier: {baseEjection: 99ms} -> outlier.baseEjection out_of_range
        outlier: {baseEjection: 61m, maxEjection: 2h} -> outlier.baseEjection out_of_range
        outlier: {baseEjection: 2m} -> outlier.baseEjection conflict
        outlier: {maxEjection: 25h} -> outlier.maxEjection out_of_range
        outlier: {maxEjection: 500ms} -> outlier.baseEjection conflict
        outlier: {maxEjectedPercent: 51} -> outlier.maxEjectedPercent out_of_range
        limits: {connections: 0} -> limits.connections out_of_range
        limits: {connections: 1000001} -> limits.connections out_of_range
        limits: {requests: 0} -> limits.requests out_of_range
        limits: {pending: 1000001} -> limits.pending out_of_range
        limits: {retries: 3} -> limits.retries unknown_field
        "#,
    );
}

#[test]
fn a_refused_traffic_policy_is_told_what_to_write_instead() {
    let told: Vec<_> = errors(&traffic_policy(
        "targetRefs: [{name: a}], timeouts: {request: 1s, perTry: 2s}, retry: {statuses: [404], backoff: {base: 1s}}",
    ))
    .into_iter()
    .map(|error| format!("{}; {}", error.violation, error.violation.remedy))
    .collect();
    assert_eq!(
        told,
        [
            "spec.timeouts.perTry: no attempt can take 2s: the whole request may take 1s; write at most 1s, or leave it out",
            "spec.retry.statuses[0]: 404 is no status that trying again could mend; write 429, or a number from 500 to 599",
            "spec.retry.backoff.base: 1s is more than max, which is 250ms; write at most 250ms, or at least 1s for max",
        ]
    );
}

#[test]
fn what_people_write_most_often_wrong_has_a_remedy() {
    let mut wrong = Vec::new();
    for (document, remedy) in [
        (traffic_policy("targetRefs: [{name: a}], retryBudget: {minPerSecond: -1}"), "write 0 or more"),
        (
            traffic_policy("targetRefs: [{name: a}], retryBudget: {minPerSecond: 1001}"),
            "write a number from 0 to 1000",
        ),
        (traffic_policy("targetRefs: [{name: a}], retry: {onReset: 'yes'}"), "write true, without quotes"),
        (traffic_policy("targetRefs: [{name: a}], retry: {onReset: off}"), "write false, without quotes"),
        (traffic_policy("targetRefs: [{name: a}], retry: {onReset: 1}"), "write true or false"),
        (traffic_policy("targetRefs: [{name: a}], retries: {}"), "did you mean 'retry'?"),
        ("a: [ ".to_owned(), "close every '[', '{' and quote"),
        ("a: 'b".to_owned(), "close every '[', '{' and quote"),
        ("a: b: c".to_owned(), "check the indentation here, and put a text that contains ': ' in quotes"),
        ("a:\n\tb: c".to_owned(), "indent with spaces"),
        (
            "a:\n   b: c\n  d: e".to_owned(),
            "check the indentation here, and put a text that contains ': ' in quotes",
        ),
        ("a: *b".to_owned(), "put a text that begins with '*' or '&' in quotes"),
        ("a: !b c".to_owned(), "put a text that begins with '!' in quotes"),
    ] {
        let errors = errors(&document);
        let told: Vec<_> = errors.iter().map(|error| error.violation.remedy.as_str()).collect();
        if told != [remedy] {
            wrong.push(format!("{document}\n{errors:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bad_mesh_configs() {
    let config =
        |metadata: &str, spec: &str| format!("{HEAD}kind: MeshConfig\nmetadata: {metadata}\nspec: {spec}\n");
    refuses(
        |spec| config("{name: mesh}", &format!("{{{spec}}}")),
        "spec.",
        r#"
        externalTraffic: Allow -> externalTraffic invalid
        clusterDomain: Cluster.local -> clusterDomain invalid_name
        clusterDomain: cluster.local. -> clusterDomain invalid_name
        timeouts: {connect: 0s} -> timeouts.connect out_of_range
        timeouts: {discovery: 5m} -> timeouts.discovery out_of_range
        timeouts: {idle: 5m} -> timeouts.idle unknown_field
        mtls: strict -> mtls unknown_field
        "#,
    );
    refuses(
        |metadata| config(metadata, "{}"),
        "metadata.",
        r#"
        {name: other} -> name invalid
        {name: mesh, namespace: a} -> namespace invalid
    "#,
    );
}

#[test]
fn bad_documents() {
    let whole = |line: &str| line.replace("; ", "\n");
    refuses(
        whole,
        "",
        r#"
        [] ->  wrong_type
        text ->  wrong_type
        --- ->  required
        a: [ ->  malformed
        a: 1; a: 2 ->  duplicate
        a: *b ->  malformed
        a: !b c ->  malformed
        a: b: c ->  malformed
    "#,
    );
    refuses(
        |metadata| service("{ports: [{port: 80}]}").replace("{name: price}", metadata),
        "metadata.",
        r#"
        {} -> name required
        {name: Price} -> name invalid_name
        {name: 5} -> name wrong_type
        {nane: price} -> nane unknown_field
        {name: price, namespace: a.b} -> namespace invalid_name
        {name: price, labels: {a: 'b c'}} -> labels.a invalid
        {name: price, labels: {a: true}} -> labels.a wrong_type
        {name: price, annotations: {a: [b]}} -> annotations.a wrong_type
        "#,
    );
    refuses(
        |line| {
            let (version, kind) = line.split_once(' ').unwrap();
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: mesh}}\nspec: {{}}\n")
        },
        "",
        r#"
        outrigger.dev/v1 MeshConfig -> apiVersion unsupported
        v1 Service -> apiVersion unsupported
        outrigger.dev/v1alpha1 AuthorizationPolicy -> kind unsupported
        outrigger.dev/v1alpha1 MtlsPolicy -> kind unsupported
        outrigger.dev/v1alpha1 ExternalService -> kind unsupported
        outrigger.dev/v1alpha1 Fault -> kind unsupported
        outrigger.dev/v1alpha1 HTTPRoute -> kind unsupported
        outrigger.dev/v1alpha1 meshConfig -> kind invalid
        "#,
    );
    let specless = format!("{HEAD}kind: Service\nmetadata: {{name: price}}\n");
    refuses(|_| specless.clone(), "", "no spec -> spec required");
}
