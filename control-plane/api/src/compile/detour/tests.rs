//! Faults of detours, told by place and field; and which backend a name stands for.

use crate::{Diagnostic, Documents, Sources, check, compile};

const BACKENDS: &str = "kind: Backend\nmetadata: {name: users}\nspec: {endpoints: ['10.0.0.1:80']}\n---\n\
     kind: Backend\nmetadata: {name: users-v2}\nspec: {endpoints: ['10.0.0.2:80']}\n---\n\
     kind: Backend\nmetadata: {name: bytes}\nspec: {endpoints: ['10.0.0.3:80'], protocol: TCP}\n---\n";

fn read(text: &str) -> Documents {
    Documents::read(&Sources::inline("p.yaml", text))
}

fn policy(traffic: &str) -> String {
    format!(
        "{BACKENDS}kind: BatchPolicy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{kind: Backend, name: users}}]\n  \
         traffic: {{{traffic}}}\n"
    )
}

#[track_caller]
fn says(traffic: &str, expected: &[&str]) {
    let told: Vec<String> = check(&read(&policy(traffic)))
        .iter()
        .map(Diagnostic::to_string)
        .collect();
    assert_eq!(told, expected, "{traffic}");
}

#[test]
fn shares_that_cannot_be_are_refused() {
    says(
        "backendRefs: [{name: users, weight: 90}, {name: users-v2, weight: 10}]",
        &[],
    );
    says(
        "backendRefs: []",
        &["p.yaml:17:26: spec.traffic.backendRefs: found 0 backends, expected 1 to 16"],
    );
    says(
        "backendRefs: [{name: user-v2}]",
        &[
            "p.yaml:17:34: spec.traffic.backendRefs[0].name: backend \"user-v2\" is not defined in these files \
           (did you mean users-v2?)",
        ],
    );
    says(
        "backendRefs: [{name: users, weight: 0}, {name: users-v2, weight: 0}]",
        &["p.yaml:17:26: spec.traffic.backendRefs: found no weight above 0, expected at least one"],
    );
    says(
        "backendRefs: [{name: users, weight: 1000001}, {name: users}]",
        &[
            "p.yaml:17:49: spec.traffic.backendRefs[0].weight: found 1000001, expected 0 to 1000000",
            "p.yaml:17:66: spec.traffic.backendRefs[1].name: found \"users\" a second time, expected it once",
        ],
    );
    says(
        "backendRefs: [{weight: 1}]",
        &["p.yaml:17:27: spec.traffic.backendRefs[0].name: found nothing, but this field is required"],
    );
    says(
        "backendRefs: [{name: bytes}]",
        &[
            "p.yaml:17:34: spec.traffic.backendRefs[0].name: found \"bytes\", which is protocol: TCP and takes no \
           calls, for those to users",
        ],
    );
    let many: Vec<String> = (0..17).map(|n| format!("{{name: b{n}}}")).collect();
    let found = check(&read(&policy(&format!("backendRefs: [{}]", many.join(", ")))));
    let expected = "p.yaml:17:26: spec.traffic.backendRefs: found 17 backends, expected 1 to 16";
    assert_eq!(found[0].to_string(), expected);
}

#[test]
fn copies_that_cannot_be_are_refused() {
    says("requestMirror: {backendRef: {name: users-v2}, percent: 0.5}", &[]);
    for percent in ["-1", "100.5"] {
        says(
            &format!("requestMirror: {{backendRef: {{name: users-v2}}, percent: {percent}}}"),
            &[&format!(
                "p.yaml:17:68: spec.traffic.requestMirror.percent: found {percent}, expected 0 to 100"
            )],
        );
    }
    says(
        "requestMirror: {backendRef: {name: recorder}}",
        &[
            "p.yaml:17:48: spec.traffic.requestMirror.backendRef.name: backend \"recorder\" is not defined in these \
           files",
        ],
    );
    says(
        "requestMirror: {backendRef: {name: users}}",
        &[
            "p.yaml:17:48: spec.traffic.requestMirror.backendRef.name: found \"users\", expected another backend than \
           the target",
        ],
    );
    says(
        "requestMirror: {backendRef: {name: bytes}}",
        &[
            "p.yaml:17:48: spec.traffic.requestMirror.backendRef.name: found \"bytes\", which is protocol: TCP and \
           takes no calls, for those to users",
        ],
    );
    says(
        "requestMirror: {percent: 1}",
        &["p.yaml:17:28: spec.traffic.requestMirror.backendRef: found nothing, but this field is required"],
    );
}

#[test]
fn faults_that_cannot_be_are_refused() {
    says(
        "faultInjection: {delay: {fixedDelay: 1s}, abort: {httpStatus: 503, grpcStatus: 14, percentage: 0.1}}",
        &[],
    );
    says(
        "faultInjection: {}",
        &["p.yaml:17:29: spec.traffic.faultInjection: found neither delay nor abort, expected at least one"],
    );
    says(
        "faultInjection: {abort: {percentage: 101}}",
        &[
            "p.yaml:17:37: spec.traffic.faultInjection.abort: found neither httpStatus nor grpcStatus, expected at \
             least one",
            "p.yaml:17:50: spec.traffic.faultInjection.abort.percentage: found 101, expected 0 to 100",
        ],
    );
    says(
        "faultInjection: {abort: {httpStatus: 199}}",
        &["p.yaml:17:50: spec.traffic.faultInjection.abort.httpStatus: found 199, expected 200 to 599"],
    );
    says(
        "faultInjection: {abort: {grpcStatus: 0}}",
        &["p.yaml:17:50: spec.traffic.faultInjection.abort.grpcStatus: found 0, expected 1 to 16"],
    );
    for found in ["0s", "2h"] {
        says(
            &format!("faultInjection: {{delay: {{fixedDelay: {found}}}}}"),
            &[&format!(
                "p.yaml:17:50: spec.traffic.faultInjection.delay.fixedDelay: found {found}, expected a time above 0, \
                 at most 1h"
            )],
        );
    }
}

#[test]
fn a_sidecar_before_one_upstream_knows_no_backends() {
    let lone = "kind: BatchPolicy\nmetadata: {name: p}\nspec: {traffic: {backendRefs: [{name: users}]}}\n";
    let told = check(&read(lone));
    assert_eq!(
        told[0].to_string(),
        "p.yaml:3:39: spec.traffic.backendRefs[0].name: backend \"users\" is not defined: expected a Backend in \
         these files"
    );
}

#[test]
fn the_targets_own_name_is_itself() {
    let text = policy("backendRefs: [{name: users, weight: 3}, {name: users-v2}]");
    let compiled = compile(&read(&text)).unwrap();
    let detours = &compiled.backends[0].policy.traffic.detours;
    let others: Vec<&str> = detours.others().map(|name| &**name).collect();
    assert_eq!(others, ["users-v2"]);
    let split = detours.split.as_ref().unwrap();
    assert_eq!(split.choose(0), None);
    assert_eq!(split.choose(u64::MAX).map(|name| &**name), Some("users-v2"));
    assert!(compiled.backends[1].policy.traffic.detours.is_none(), "one hop");
}
