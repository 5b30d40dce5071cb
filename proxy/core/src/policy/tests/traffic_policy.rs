//! What a TrafficPolicy says, and what it leaves to the defaults.

use std::{collections::BTreeSet, time::Duration};

use super::{HEAD, parse, to_yaml};
use crate::model::{
    Object, Outlier, Resilience, ResilienceOverrides, Retry, RetryBudget, Spec, Timeouts, TrafficLimits,
    TrafficPolicySpec,
};

fn object(spec: &str) -> Object {
    let text = format!("{HEAD}kind: TrafficPolicy\nmetadata: {{name: price}}\nspec: {{{spec}}}\n");
    parse(&text).unwrap().remove(0).object
}

fn policy(spec: &str) -> TrafficPolicySpec {
    match object(&format!("targetRefs: [{{name: price}}], {spec}")).spec {
        Spec::TrafficPolicy(spec) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_field_is_read() {
    let policy = policy(
        "timeouts: {request: 2s, perTry: 500ms, connect: 3s, idle: 2h},
        retry: {attempts: 5, statuses: [503, 429], onReset: false, backoff: {base: 10ms, max: 1s}},
        retryBudget: {percent: 50, interval: 5s, minPerSecond: 1},
        outlier: {consecutiveFailures: 3, baseEjection: 2s, maxEjection: 30s, maxEjectedPercent: 50},
        limits: {connections: 1, requests: 2, pending: 0}",
    );
    assert_eq!(policy.targets[0].to_string(), "price");
    assert_eq!(
        Resilience::from(policy.overrides),
        Resilience {
            timeouts: Timeouts {
                request: Some(Duration::from_secs(2)),
                per_try: Some(Duration::from_millis(500)),
                connect: Some(Duration::from_secs(3)),
                idle: Some(Duration::from_secs(7_200)),
            },
            retry: Retry {
                attempts: 5,
                statuses: BTreeSet::from([429, 503]),
                reset: false,
                backoff_base: Duration::from_millis(10),
                backoff_max: Duration::from_secs(1),
            },
            budget: RetryBudget { percent: 50, interval: Duration::from_secs(5), min_per_second: 1 },
            outlier: Outlier {
                consecutive_failures: 3,
                base_ejection: Duration::from_secs(2),
                max_ejection: Duration::from_secs(30),
                max_ejected_percent: 50,
            },
            limits: TrafficLimits { connections: 1, requests: 2, pending: 0 },
        }
    );
}

#[test]
fn a_retry_that_is_there_retries_statuses_and_resets_unless_it_says_otherwise() {
    let retry = |text: &str| policy(text).overrides.retry;
    assert_eq!(retry(""), None);
    assert_eq!(retry("retry: null"), None);
    assert_eq!(retry("retry: {}"), Some(Retry::enabled()));
    assert_eq!(Retry::enabled().statuses, BTreeSet::from([502, 503, 504]));
    assert_eq!(retry("retry: {attempts: 3}"), Some(Retry { attempts: 3, ..Retry::enabled() }));
    assert_eq!(retry("retry: {statuses: [], onReset: false}"), Some(Retry::default()));
    assert_eq!(retry("retry: {onReset: false}"), Some(Retry { reset: false, ..Retry::enabled() }));
    let backoff_max = Duration::from_secs(1);
    assert_eq!(retry("retry: {backoff: {max: 1s}}"), Some(Retry { backoff_max, ..Retry::enabled() }));
}

#[test]
fn a_part_that_is_there_has_the_defaults_of_what_it_leaves_out() {
    assert_eq!(policy("").overrides, ResilienceOverrides::default());
    let overrides =
        policy("retryBudget: {percent: 0}, outlier: {}, limits: {requests: 5}, timeouts: {}").overrides;
    assert_eq!(
        overrides,
        ResilienceOverrides {
            timeouts: Timeouts::default(),
            retry: None,
            budget: Some(RetryBudget { percent: 0, ..RetryBudget::default() }),
            outlier: Some(Outlier::default()),
            limits: Some(TrafficLimits { requests: 5, ..TrafficLimits::default() }),
        }
    );
}

#[test]
fn no_timeout_is_not_the_default_timeout() {
    let timeouts = policy("timeouts: {request: 0s, perTry: 0s, idle: 0s}").overrides.timeouts;
    let zero = Some(Duration::ZERO);
    assert_eq!(timeouts, Timeouts { request: zero, per_try: None, connect: None, idle: zero });
    // Nothing is above a request without a timeout.
    policy("timeouts: {request: 0s, perTry: 24h}");
}

#[test]
fn it_reads_as_its_author_would_write_it() {
    let object = object(
        "targetRefs: [{name: price, port: 80, kind: Service}, {name: price}], retry: {attempts: 3}, \
                         timeouts: {request: 0s}",
    );
    let expected = "\
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: price
  namespace: default
spec:
  retry:
    attempts: 3
    backoff:
      base: 25ms
      max: 250ms
    onReset: true
    statuses:
    - 502
    - 503
    - 504
  targetRefs:
  - name: price
    port: 80
  - name: price
  timeouts:
    request: 0s
";
    assert_eq!(to_yaml(&object), expected);
    assert_eq!(parse(expected).unwrap()[0].object, object);
}

#[test]
fn the_reference_has_examples_that_are_read_and_the_defaults_of_the_code() {
    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/traffic-policy.md");
    let text = std::fs::read_to_string(REFERENCE).unwrap();
    let examples: Vec<TrafficPolicySpec> = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| match parse(rest.split("```").next().unwrap()).unwrap().remove(0).object.spec {
            Spec::TrafficPolicy(spec) => spec,
            other => panic!("{other:?}"),
        })
        .collect();
    let [whole, without, retry] = &examples[..] else { panic!("three examples, not {examples:#?}") };
    let said = &whole.overrides;
    assert!(said.retry.is_some() && said.budget.is_some() && said.outlier.is_some() && said.limits.is_some());
    assert_eq!(Resilience::from(without.overrides.clone()), Resilience::default());
    assert_eq!(retry.overrides.retry, Some(Retry { attempts: 3, ..Retry::enabled() }));
}
