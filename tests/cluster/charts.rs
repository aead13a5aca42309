//! The chart of the control plane: what it refuses, what an API server makes of what it renders, and that a
//! release comes and goes without a trace.

use std::collections::BTreeSet;

use clap::{CommandFactory as _, Parser as _};
use jitney_control_plane::config::{Cli, Command};
use jitney_control_plane::inject::SettingsArgs;
use jitney_control_plane::inject::policy::policies;
use jitney_control_plane::inject::webhook::configuration;
use serde_json::{Value, json};

use crate::api::chart::installed;
use crate::helm::{chart, helm, refused};
use crate::kubectl::{Namespace, apply, kubectl_with};

mod release;

/// Values of each sort of installation.
const PRESETS: [(&str, &[&str]); 7] = [
    ("as it comes", &[]),
    ("highly available", &["--values", "values-ha.yaml"]),
    (
        "two namespaces",
        &["--set", "watchNamespaces={default,kube-public}"],
    ),
    (
        "as little as possible",
        &[
            "--set",
            "replicas=1,injection.mode=None,podDisruptionBudget.enabled=false",
        ],
    ),
    ("everything", &["--values", "everything"]),
    ("without a webhook", &["--set", "injection.mode=Policy"]),
    (
        "signed by somebody else",
        &["--set", "identity.issuer.secretName=jitney-issuer"],
    ),
];

/// All that can be turned on, and much that can be another than it is.
const EVERYTHING: &str = "
global: {imageRegistry: 'registry.example.org:5000/mirror', imagePullSecrets: [mirror]}
image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}
imagePullSecrets: [own, mirror]
proxy: {image: {tag: '2'}, resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1.5, memory: 2Gi}}}
trustDomain: mesh.example.org
log: {level: debug, format: json}
injection: {failurePolicy: Ignore, timeoutSeconds: 10, excludedNamespaces: [monitoring]}
sidecars: {max: 20000, streamAge: 1h0m5s, perSecond: 50}
identity: {issuer: {secretName: our.issuer}}
serviceAccount: {annotations: {a: b}}
service: {annotations: {a: b}, admin: true}
autoscaling: {enabled: true, minReplicas: 3, maxReplicas: 9}
podDisruptionBudget: {maxUnavailable: 25%}
networkPolicy: {enabled: true, adminFrom: [{namespaceSelector: {}}]}
nodeSelector: {disk: fast}
tolerations: [{key: control-plane, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: system-cluster-critical
terminationGracePeriodSeconds: 60
commonLabels: {team: mesh, app.kubernetes.io/name: ours-wins}
podLabels: {pod: label}
podAnnotations: {note: 'yes'}
extraEnv: [{name: NO_COLOR, value: '1'}]
monitoring:
  podMonitors: {enabled: true, labels: {release: prometheus}}
  prometheusRule: {enabled: true}
  dashboards: {enabled: true, annotations: {folder: jitney}}
";

/// Values that are wrong, and how the one at fault is named.
const WRONG: [(&str, &str); 37] = [
    ("replica=2", "replica"),
    ("replicas=0", "/replicas"),
    ("replicas=two", "/replicas"),
    ("image.tag=a:b", "/image/tag"),
    ("image.digest=sha256:0", "/image/digest"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("image.registry=example.org", "registry"),
    ("proxy.image.repository=Jitney", "/proxy/image/repository"),
    (
        "proxy.resources.limits.memory=1GB",
        "/proxy/resources/limits/memory",
    ),
    (
        "proxy.resources.limits.memory=1Ei",
        "/proxy/resources/limits/memory",
    ),
    (
        "proxy.resources.limits.memory=16Mi",
        "proxy.resources.limits.memory is 16Mi, less than proxy.resources.requests.memory, 32Mi",
    ),
    (
        "proxy.resources.requests.cpu=null,proxy.resources.limits.cpu=0.001",
        "proxy.resources.limits.cpu is 0.001, less than proxy.resources.requests.cpu, 10m",
    ),
    (
        "resources.requests.memory=1G,resources.limits.memory=500M",
        "resources.limits.memory is 500M, less than resources.requests.memory, 1G",
    ),
    ("resources.requests.cpu=much", "/resources/requests/cpu"),
    ("resources.request.cpu=1", "request"),
    (
        "proxy.resources.requests.memory=1000000000000000000000",
        "/proxy/resources/requests/memory",
    ),
    ("sidecars.streamAge=0s", "/sidecars/streamAge"),
    ("sidecars.streamAge=0h00m", "/sidecars/streamAge"),
    ("sidecars.streamAge=99999999999999h", "/sidecars/streamAge"),
    ("sidecars.perSecond=5000000000", "/sidecars/perSecond"),
    ("sidecars.max=0", "/sidecars/max"),
    (
        "monitoring.podMonitors.interval=0s",
        "/monitoring/podMonitors/interval",
    ),
    ("trustDomain=Mesh", "/trustDomain"),
    ("watchNamespaces={Shop}", "/watchNamespaces/0"),
    ("watchNamespaces=shop", "/watchNamespaces"),
    (
        "watchNamespaces={kube-system}",
        "watchNamespaces names kube-system",
    ),
    ("identity.issuer.secretName=A", "/identity/issuer/secretName"),
    (
        "identity.issuer.secretName=jitney-authority",
        "identity.issuer.secretName is jitney-authority, which the control plane keeps",
    ),
    ("injection.mode=Sidecar", "/injection/mode"),
    ("injection.failurePolicy=fail", "/injection/failurePolicy"),
    ("injection.timeoutSeconds=31", "/injection/timeoutSeconds"),
    ("log.format=xml", "/log/format"),
    ("log.level=loud", "/log/level"),
    ("log.level=jitney_control_plane=loud", "/log/level"),
    (
        "autoscaling.enabled=true,autoscaling.minReplicas=7",
        "autoscaling.minReplicas is 7",
    ),
    ("commonLabels.a=b c", "/commonLabels/a"),
    (
        "terminationGracePeriodSeconds=1",
        "/terminationGracePeriodSeconds",
    ),
];

#[test]
fn wrong_values_are_refused_by_name() {
    for (values, expected) in WRONG {
        let said = refused(&["template", &chart("jitney"), "--set", values]);
        assert!(said.contains(expected), "{values}: {said}");
    }
}

#[test]
fn it_is_refused_where_its_kinds_are_not_known() {
    let (chart, online) = (chart("jitney"), "v1/Pod");
    let said = refused(&["template", &chart, "--api-versions", online]);
    assert!(said.contains("does not know the kind BatchPolicy"), "{said}");
    assert!(said.contains("install the chart jitney-crds first"), "{said}");
    let all_the_same = ["--api-versions", online, "--set", "requireCRDs=false"];
    let _rendered = helm(&[&["template", &chart][..], &all_the_same].concat());
}

#[tokio::test]
async fn every_preset_is_taken_by_the_server() {
    installed().await;
    let said = helm(&["lint", "--strict", &chart("jitney")]);
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
    let namespace = Namespace::restricted("presets");
    // What `helm test` makes before all else of it.
    let _of_trial = Namespace::labelled("presets-trial", &json!({}));
    for namespace in ["presets-trial", "default"] {
        let account = json!({"name": "jitney-trial", "namespace": namespace});
        apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}));
    }
    for (preset, values) in PRESETS {
        let objects = rendered(preset, namespace.name, values);
        let (operators, ours): (Vec<&Value>, Vec<&Value>) = objects.iter().partition(|one| is_operators(one));
        assert_eq!(
            operators.len(),
            if preset == "everything" { 3 } else { 0 },
            "{preset}"
        );
        for object in operators {
            check_operators(object);
        }
        let ours: Vec<Value> = ours.into_iter().map(without_webhook).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": ours}).to_string();
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--force-conflicts",
            "--filename",
            "-",
        ];
        let said = kubectl_with(&apply, &list);
        assert_eq!(said.lines().count(), ours.len(), "{preset}: {said}");
        for object in &objects {
            check_labels(preset, object);
        }
    }
}

#[test]
fn little_is_created_unless_it_is_asked_for() {
    let kinds = |preset: usize| {
        let (name, values) = PRESETS[preset];
        let objects = rendered(name, "few", values);
        let kinds = objects
            .iter()
            .map(|object| object["kind"].as_str().unwrap().to_owned());
        kinds.collect::<BTreeSet<_>>()
    };
    let (plain, least, all) = (kinds(0), kinds(3), kinds(4));
    for kind in ["PodDisruptionBudget", "MutatingWebhookConfiguration"] {
        assert!(plain.contains(kind) && !least.contains(kind), "{kind}");
    }
    for kind in [
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodMonitor",
        "PrometheusRule",
    ] {
        assert!(all.contains(kind) && !plain.contains(kind), "{kind}");
    }
    // What can be read in namespaces that are not watched.
    let (name, values) = PRESETS[2];
    let objects = rendered(name, "few", values);
    let role = objects
        .iter()
        .find(|object| object["kind"] == "ClusterRole")
        .unwrap();
    assert!(!role["rules"].to_string().contains("pods"), "{role}");
}

/// What `helm test` makes it makes in a namespace whose pods get sidecars, and removes when all went well.
#[test]
fn trial_is_where_sidecars_are() {
    for (preset, expected) in [
        (0, Some("few-trial")),
        (2, Some("default")),
        (3, None),
        (5, Some("few-trial")),
    ] {
        let (name, values) = PRESETS[preset];
        let objects = rendered(name, "few", values);
        let of_trial = objects.iter().filter(|object| is_of_trial(object));
        let of_trial: Vec<&Value> = of_trial.collect();
        let has_namespace = of_trial.iter().any(|object| object["kind"] == "Namespace");
        assert_eq!(has_namespace, expected == Some("few-trial"), "{name}");
        assert_eq!(of_trial.is_empty(), expected.is_none(), "{name}");
        for object in of_trial {
            let place = match object["kind"] == "Namespace" {
                true => &object["metadata"]["name"],
                false => &object["metadata"]["namespace"],
            };
            assert_eq!(place.as_str(), expected, "{name}: {object}");
        }
    }
}

/// A pod about which nobody is asked: the webhooks of other tests may be there, and answer nothing.
fn without_webhook(object: &Value) -> Value {
    let mut object = object.clone();
    if object["kind"] == "Pod" {
        object["metadata"]["labels"]["jitney.dev/inject"] = "disabled".into();
    }
    object
}

fn is_of_trial(object: &Value) -> bool {
    object["metadata"]["annotations"]["helm.sh/hook"] == "test"
}

#[test]
fn webhook_asks_what_the_program_answers() {
    let [chart, program] = [webhooks(&rendered("as it comes", "few", &[])), {
        let command = printing("webhook");
        configuration(&settings(&command))["webhooks"].clone()
    }];
    // The chart's Service has a port that every API server reaches; asking once more changes nothing.
    let alike = |mut webhooks: Value| {
        for webhook in webhooks.as_array_mut().unwrap() {
            let webhook = webhook.as_object_mut().unwrap();
            webhook["clientConfig"]["service"]
                .as_object_mut()
                .unwrap()
                .remove("port");
            webhook.remove("reinvocationPolicy");
        }
        webhooks
    };
    assert_eq!(alike(chart), alike(program));
}

/// What the API server does itself is what the program would have it do, word for word.
#[test]
fn policies_are_those_of_the_program() {
    let limits = "proxy.resources.limits.cpu=2,proxy.resources.limits.memory=1500000000,proxy.image.tag=v2";
    let ours = [
        "--proxy-cpu-limit",
        "2",
        "--proxy-memory-limit",
        "1500000000",
        "--proxy-image",
        "jitney/proxy:v2",
    ];
    for (values, flags) in [("", &[][..]), (limits, &ours)] {
        let objects = rendered(
            "policies",
            "few",
            &["--set", "injection.mode=Policy", "--set", values],
        );
        let mut rendered: Vec<Value> = objects.into_iter().filter(is_injectors).collect();
        for object in &mut rendered {
            object["metadata"].as_object_mut().unwrap().remove("labels");
        }
        let command = printing("policy");
        let mut expected = policies(&settings(&[&command, flags].concat()));
        for all in [&mut rendered, &mut expected] {
            all.sort_by_key(|object| (object["kind"].to_string(), object["metadata"].to_string()));
        }
        assert_eq!(rendered, expected);
    }
    let old = [
        "template",
        &chart("jitney"),
        "--set",
        "injection.mode=Policy",
        "--kube-version",
        "1.35.0",
    ];
    let said = refused(&old);
    assert!(said.contains("needs Kubernetes 1.36"), "{said}");
}

fn is_injectors(object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    ["jitney-injector", "jitney-injector-warnings"].contains(&name)
}

#[test]
fn program_knows_what_it_is_told() {
    let command = Cli::command();
    let flags = command.find_subcommand("run").unwrap().get_arguments();
    let known: BTreeSet<_> = flags.filter_map(|flag| flag.get_env()?.to_str()).collect();
    let parses = |preset: &str, container: &Value| {
        let arguments = container["args"].as_array().unwrap().iter();
        let arguments = arguments.map(|argument| argument.as_str().unwrap());
        let parsed = Cli::try_parse_from(["jitney-control-plane"].into_iter().chain(arguments));
        assert!(parsed.is_ok(), "{preset}: {}", parsed.unwrap_err());
    };
    for (preset, values) in PRESETS {
        let objects = rendered(preset, "few", values);
        for object in objects.iter().filter(|object| is_of_trial(object)) {
            for pod in [&object["spec"], &object["spec"]["template"]["spec"]] {
                let container = &pod["containers"][0];
                assert!(container.is_null() || container["name"] == "trial");
                if !container.is_null() {
                    parses(preset, container);
                }
            }
        }
        let container = &deployment(&objects)["spec"]["template"]["spec"]["containers"][0];
        parses(preset, container);
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let is_ours = name.starts_with("JITNEY_");
            assert!(!is_ours || known.contains(name), "{preset}: {name} means nothing");
        }
    }
}

fn is_operators(object: &Value) -> bool {
    object["apiVersion"] == "monitoring.coreos.com/v1"
}

/// What no schema is here for: that it names what is there.
#[track_caller]
fn check_operators(object: &Value) {
    let (spec, name) = (&object["spec"], &object["metadata"]["name"]);
    if object["kind"] == "PrometheusRule" {
        for group in spec["groups"].as_array().unwrap() {
            for rule in group["rules"].as_array().unwrap() {
                assert!(rule["alert"].is_string() && rule["expr"].is_string(), "{rule}");
                assert!(rule["annotations"]["summary"].is_string(), "{rule}");
            }
        }
        return;
    }
    assert_eq!(object["metadata"]["labels"]["release"], "prometheus");
    let endpoint = &spec["podMetricsEndpoints"][0];
    assert_eq!(
        (&endpoint["path"], &endpoint["interval"]),
        (&json!("/metrics"), &json!("30s"))
    );
    let (port, selected) = match name.as_str().unwrap() {
        "jitney-proxy" => ("jitney-admin", "jitney.dev/injected"),
        _ => ("admin", "app.kubernetes.io/component"),
    };
    assert_eq!(endpoint["port"], port);
    assert!(spec["selector"]["matchLabels"][selected].is_string(), "{spec}");
}

#[track_caller]
fn check_labels(preset: &str, object: &Value) {
    let labels = &object["metadata"]["labels"];
    for (label, value) in [
        ("name", Some("jitney")),
        ("instance", Some(RELEASE)),
        ("version", Some(env!("CARGO_PKG_VERSION"))),
        ("component", None),
        ("part-of", Some("jitney")),
        ("managed-by", Some("Helm")),
    ] {
        let found = labels[format!("app.kubernetes.io/{label}")].as_str();
        assert!(
            found.is_some() && (value.is_none() || found == value),
            "{preset}: {object}"
        );
    }
    if preset == "everything" {
        assert_eq!(labels["team"], "mesh", "{object}");
    }
}

/// What the chart renders, without a cluster.
#[track_caller]
fn rendered(preset: &str, namespace: &str, values: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let everything = folder.path().join("everything.yaml");
    std::fs::write(&everything, EVERYTHING).unwrap();
    let chart = chart("jitney");
    let file = |value: &&str| match *value {
        "everything" => everything.display().to_string(),
        "values-ha.yaml" => format!("{chart}/values-ha.yaml"),
        value => value.to_owned(),
    };
    let mut arguments = ["template", RELEASE, &chart, "--namespace", namespace]
        .map(str::to_owned)
        .to_vec();
    arguments.extend(values.iter().map(file));
    if preset == "everything" {
        arguments.extend(["--api-versions", "monitoring.coreos.com/v1"].map(str::to_owned));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = helm(&arguments);
    let documents = serde_saphyr::from_multiple::<Value>(&text).unwrap();
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

fn deployment(objects: &[Value]) -> &Value {
    objects
        .iter()
        .find(|object| object["kind"] == "Deployment" && !is_of_trial(object))
        .unwrap()
}

fn webhooks(objects: &[Value]) -> Value {
    let configuration = objects
        .iter()
        .find(|object| object["kind"] == "MutatingWebhookConfiguration");
    configuration.unwrap()["webhooks"].clone()
}

/// The settings of a command line.
fn settings(command: &[&str]) -> SettingsArgs {
    let Command::Inject(arguments) = Cli::parse_from(command).command else {
        panic!("{command:?}")
    };
    arguments.settings
}

const RELEASE: &str = "jitney";

/// The line that has the program print what has the API server inject.
const fn printing(what: &str) -> [&str; 6] {
    ["x", "inject", "--control-plane-namespace", "few", "--print", what]
}
