//! The chart of definitions: one release for all tests, which goes while its definitions stay.

use std::collections::BTreeSet;
use std::process::Command;

use jitney_tests::wait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::helm::{chart, helm, refused, try_helm};
use crate::kubectl::{Namespace, get, kubectl, succeeded};

/// The definitions, by the names that objects of these kinds have in commands.
pub(super) const DEFINITIONS: [&str; 3] = [
    "batchpolicies.jitney.dev",
    "backends.jitney.dev",
    "runtimes.jitney.dev",
];

/// Returns when the chart is installed and its kinds are served and explained.
pub(crate) async fn installed() {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let install = async || {
        let output = try_helm(&["install", RELEASE, &chart(RELEASE)]);
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        let notes = succeeded(output);
        assert!(
            notes.contains("kubectl explain batchpolicy.spec.routes"),
            "{notes}"
        );
        assert!(!told.to_lowercase().contains("warning"), "{told}");
        for definition in DEFINITIONS {
            let object = format!("customresourcedefinition/{definition}");
            kubectl(&["wait", "--timeout=60s", "--for", "condition=Established", &object]);
            wait::until("its kind is served", || {
                Command::new("kubectl")
                    .args(["explain", definition])
                    .output()
                    .unwrap()
                    .status
                    .success()
            })
            .await;
        }
    };
    INSTALLED.get_or_init(install).await;
}

#[test]
fn it_has_no_faults() {
    let said = helm(&["lint", "--strict", &chart(RELEASE)]);
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
    for (values, expected) in [
        ("keep=false", "keep"),
        ("labels=a", "labels"),
        ("annotations.a=1", "annotations"),
        ("aggregateRoles=yes", "aggregateRoles"),
    ] {
        let said = refused(&["template", &chart(RELEASE), "--set", values]);
        assert!(said.contains(expected), "{values}: {said}");
    }
}

/// Who may view, edit or administer a namespace: a controller, which does not run here, adds up what is labelled.
#[tokio::test]
async fn roles_of_kubernetes_are_extended() {
    installed().await;
    let may = |role: &str| -> BTreeSet<String> {
        let found = get(&["clusterrole", &format!("jitney-crds-{role}")]);
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        assert_eq!(found["metadata"]["labels"][&label], "true", "{found}");
        let texts = |of: &Value| -> Vec<String> { serde_json::from_value(of.clone()).unwrap() };
        let rules = found["rules"].as_array().unwrap().iter();
        let allowed = rules.flat_map(|rule| {
            let resources = texts(&rule["resources"]).into_iter();
            resources.flat_map(|one| {
                texts(&rule["verbs"])
                    .into_iter()
                    .map(move |verb| format!("{verb} {one}"))
            })
        });
        allowed.collect()
    };
    let [view, edit, admin] = ["view", "edit", "admin"].map(may);
    for definition in DEFINITIONS {
        let (plural, _) = definition.split_once('.').unwrap();
        for verb in ["get", "list", "watch"] {
            assert!(
                view.contains(&format!("{verb} {plural}")),
                "{verb} {plural}: {view:?}"
            );
        }
        let is_for_admins = plural == "runtimes";
        for verb in ["create", "update", "patch", "delete"] {
            let right = format!("{verb} {plural}");
            assert_eq!(admin.contains(&right), is_for_admins, "{right}");
            assert_eq!(edit.contains(&right), !is_for_admins, "{right}");
        }
    }
    let all = view.iter().chain(&edit).chain(&admin);
    let written = all.filter(|right| {
        right.contains("/status")
            && !["get", "list", "watch"]
                .iter()
                .any(|verb| right.starts_with(verb))
    });
    assert_eq!(written.count(), 0);
    let without = helm(&["template", &chart(RELEASE), "--set", "aggregateRoles=false"]);
    assert!(!without.contains("kind: ClusterRole"), "{without}");
}

#[tokio::test]
async fn what_it_defines_outlives_it() {
    installed().await;
    let namespace = Namespace::restricted("outlives");
    namespace.apply(json!({
        "apiVersion": "jitney.dev/v1alpha1",
        "kind": "BatchPolicy",
        "metadata": {"name": "kept"},
        "spec": {"routes": [{"codec": {"jsonRpc": {}}}]},
    }));

    let labels = ["--set", "labels.team=mesh", "--set", "annotations.note=yes"];
    let _upgraded = helm(&[&["upgrade", RELEASE, &chart(RELEASE)][..], &labels].concat());
    for definition in DEFINITIONS {
        let metadata = get(&["customresourcedefinition", definition])["metadata"].take();
        assert_eq!(metadata["labels"]["team"], "mesh", "{metadata}");
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/part-of"], "jitney",
            "{metadata}"
        );
        assert_eq!(metadata["annotations"]["note"], "yes", "{metadata}");
    }
    let policy = get(&["customresourcedefinition", DEFINITIONS[0]]);
    assert_eq!(
        policy["metadata"]["labels"]["gateway.networking.k8s.io/policy"],
        "Inherited"
    );

    let said = helm(&["uninstall", RELEASE]);
    for definition in DEFINITIONS {
        assert!(said.contains(definition), "it says what it keeps: {said}");
        let metadata = get(&["customresourcedefinition", definition])["metadata"].take();
        assert_eq!(metadata["deletionTimestamp"], json!(null), "{metadata}");
    }
    assert_eq!(namespace.get("batchpolicy/kept")["spec"]["mode"], "Active");

    // What was kept is taken up again.
    let _again = helm(&["install", RELEASE, &chart(RELEASE)]);
}

const RELEASE: &str = "jitney-crds";
