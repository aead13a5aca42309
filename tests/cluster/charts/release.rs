//! A release of the chart: installed, used as its account may, upgraded, rolled back and uninstalled.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use jitney_tests::wait;
use serde_json::json;

use super::RELEASE;
use crate::api::chart::installed;
use crate::helm::{chart, helm};
use crate::kubectl::{Namespace, config_of, get, kubectl, kubectl_with, told, try_dry_run};
use crate::programs::path;

/// What a release's account may do, and what it may not, by what `kubectl auth can-i` asks.
const RIGHTS: [(&str, bool); 27] = [
    ("list pods --all-namespaces", true),
    ("watch endpointslices.discovery.k8s.io --all-namespaces", true),
    ("watch batchpolicies.jitney.dev --all-namespaces", true),
    (
        "patch batchpolicies.jitney.dev --subresource=status -n default",
        true,
    ),
    ("create tokenreviews.authentication.k8s.io", true),
    ("patch configmaps/jitney-roots -n default", true),
    ("create configmaps/jitney-roots -n default", true),
    ("delete configmaps/jitney-roots -n default", true),
    ("watch secrets/jitney-authority -n released", true),
    ("update secrets/jitney-webhook -n released", true),
    ("create secrets -n released", true),
    (
        "patch leases.coordination.k8s.io/jitney-control-plane -n released",
        true,
    ),
    ("patch mutatingwebhookconfigurations/jitney", true),
    ("get clusterroles/jitney-control-plane", true),
    ("create events.events.k8s.io -n default", true),
    ("create configmaps -n default", false),
    ("delete configmaps/jitney-roots-of-others -n default", false),
    ("list mutatingwebhookconfigurations", false),
    ("patch secrets/jitney-authority -n released", false),
    ("get configmaps/jitney-roots-of-others -n default", false),
    ("list secrets -n released", false),
    ("get secrets/jitney-authority -n default", false),
    ("delete secrets/jitney-authority -n released", false),
    ("patch batchpolicies.jitney.dev -n default", false),
    ("patch mutatingwebhookconfigurations/others", false),
    ("update clusterroles/jitney-control-plane", false),
    ("create pods -n released", false),
];

#[tokio::test]
async fn release_comes_and_goes_without_a_trace() {
    installed().await;
    let namespace = Namespace::restricted(RELEASED);
    let in_namespace = ["--namespace", RELEASED];
    let run = |words: &[&str], values: &[&str]| helm(&[words, &in_namespace, values].concat());
    let chart = chart("jitney");

    let notes = run(&["install", RELEASE, &chart], &[]);
    assert!(notes.contains("jitney.dev/inject=enabled"), "{notes}");
    assert!(!notes.contains("Warning"), "{notes}");
    check_rights();
    check_pod(&namespace);

    // What the control plane writes is nobody else's.
    let bundle = believe().await;
    let warned = run(
        &["upgrade", RELEASE, &chart],
        &[
            "--set",
            "replicas=1,injection.timeoutSeconds=7,injection.failurePolicy=Ignore",
        ],
    );
    assert!(warned.contains("there is one replica"), "{warned}");
    assert!(warned.contains("failurePolicy is Ignore"), "{warned}");
    assert_eq!(believed(), (7, bundle.clone()));
    let _back = run(&["rollback", RELEASE, "1"], &[]);
    assert_eq!(believed(), (5, bundle.clone()));
    let by_client = ["--server-side=false", "--set", "injection.timeoutSeconds=9"];
    let _as_helm_3_does = run(&["upgrade", RELEASE, &chart], &by_client);
    assert_eq!(believed(), (9, bundle));

    let none = ["--set", "injection.mode=None"];
    let warned = run(&["upgrade", RELEASE, &chart], &none);
    assert!(warned.contains("injection.mode is None"), "{warned}");
    let left = get(&["mutatingwebhookconfigurations"]);
    assert!(!left.to_string().contains("\"jitney\""), "{left}");

    assert!(!released().is_empty());
    let _gone = run(&["uninstall", RELEASE], &[]);
    assert_eq!(released(), Vec::<String>::new());
}

/// As the release's account.
const ACCOUNT: &str = "--as=system:serviceaccount:released:jitney-control-plane";

#[track_caller]
fn check_rights() {
    for (right, is_allowed) in RIGHTS {
        let words: Vec<&str> = right.split(' ').collect();
        let asked = [&["auth", "can-i", ACCOUNT], &words[..]].concat();
        let said = told(&asked, "");
        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.trim(), if is_allowed { "yes" } else { "no" }, "{right}");
    }
    // By name, where `can-i` cannot ask: server-side apply and a watch of one.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "jitney-roots", "namespace": RELEASED}});
    let apply = ["apply", "--server-side", "--filename", "-", ACCOUNT];
    let _made = kubectl_with(&apply, &map.to_string());
    let one = [
        "get",
        "secrets",
        "--namespace",
        RELEASED,
        ACCOUNT,
        "--field-selector",
    ];
    let _listed = kubectl(&[&one[..], &["metadata.name=jitney-authority"]].concat());
}

/// A namespace of the level `restricted` takes the pods, which no controller makes here.
#[track_caller]
fn check_pod(namespace: &Namespace) {
    let mut pod = namespace.get("deployment/jitney-control-plane")["spec"]["template"].take();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "one".into();
    pod["metadata"]["namespace"] = namespace.name.into();
    assert!(try_dry_run(&pod).is_some(), "{pod}");
}

/// Runs the program as the release's account until it has made and written all that it does; gives whom the
/// webhooks believe then.
async fn believe() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (kubeconfig, log) = (folder.path().join("kubeconfig"), folder.path().join("log"));
    std::fs::write(
        &kubeconfig,
        config_of(RELEASED, "jitney-control-plane").to_string(),
    )
    .unwrap();
    let log_file = std::fs::File::create(&log).unwrap();
    let any = "127.0.0.1:0";
    let child = Command::new(path("jitney-control-plane"))
        .args(["run", "--source", "kubernetes", "--owner", "jitney-control-plane"])
        .args(["--listen", any, "--admin", any, "--webhook", any])
        .args([
            "--control-plane-namespace",
            RELEASED,
            "--webhook-configuration",
            "jitney",
        ])
        .arg("--state")
        .arg(folder.path().join("state"))
        .env("KUBECONFIG", kubeconfig)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().unwrap())
        .stderr(log_file)
        .spawn()
        .unwrap();
    let running = Running(child);
    let has = |object: &str, field: &str| {
        let output = format!("jsonpath={field}");
        let wanted = [
            "get",
            "--ignore-not-found",
            "--namespace",
            RELEASED,
            object,
            "--output",
            &output,
        ];
        !kubectl(&wanted).is_empty()
    };
    wait::until("the program has written all of its objects", || {
        has("secret/jitney-authority", "{.metadata.ownerReferences}")
            && has("secret/jitney-webhook", "{.metadata.ownerReferences}")
            && has("configmap/jitney-roots", "{.metadata.ownerReferences}")
            && has("lease/jitney-control-plane", "{.spec.holderIdentity}")
            && has(
                "mutatingwebhookconfiguration/jitney",
                "{.webhooks[1].clientConfig.caBundle}",
            )
    })
    .await;
    drop(running);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("webhook listening"), "{said}");
    assert!(!said.to_lowercase().contains("forbidden"), "{said}");
    let (timeout, bundle) = believed();
    assert!(timeout == 5 && !bundle.is_empty());
    bundle
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How long the API server waits for the webhooks, and whom it believes: the same of all.
#[track_caller]
fn believed() -> (u64, String) {
    let webhooks = get(&["mutatingwebhookconfiguration", "jitney"])["webhooks"].take();
    let told = webhooks.as_array().unwrap().iter().map(|webhook| {
        let bundle = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        (webhook["timeoutSeconds"].as_u64().unwrap(), bundle.to_owned())
    });
    let told: BTreeSet<_> = told.collect();
    assert_eq!(told.len(), 1, "{webhooks}");
    told.into_iter().next().unwrap()
}

/// All that is labelled as the release's, and what helm remembers of it.
fn released() -> Vec<String> {
    let kinds = kubectl(&["api-resources", "--verbs=list", "--output=name"]);
    let kinds = kinds.lines().collect::<Vec<_>>().join(",");
    let labelled = |label: &str| {
        kubectl(&[
            "get",
            &kinds,
            "--all-namespaces",
            "--output=name",
            "--selector",
            label,
        ])
    };
    let instance = format!("app.kubernetes.io/instance={RELEASE}");
    let all = [
        labelled(&instance),
        labelled(&format!("owner=helm,name={RELEASE}")),
    ]
    .concat();
    all.lines().map(str::to_owned).collect()
}

/// Where it is.
const RELEASED: &str = "released";
