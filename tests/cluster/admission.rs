//! Sidecars for pods, as an API server sees them.

use jitney_tests::wait;
use serde_json::{Value, json};

use crate::kubectl::{apply, dry_run, dry_run_output, kubectl_with, refused_dry_run, try_dry_run};
use crate::programs::control_plane;

/// What somebody may keep in Git, comments and all.
const MANIFESTS: &str = "\
# The service and what it runs on.
apiVersion: v1
kind: Service
metadata: {name: users, namespace: manifests}
spec: {selector: {app: users}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: users
  namespace: manifests
spec:
  selector: {matchLabels: {app: users}}
  template:
    metadata:
      labels: {app: users}
      annotations:
        jitney.dev/skip-outbound-ports: 5432,6379
        jitney.dev/proxy-memory-limit: 64Mi
    spec:
      initContainers:
      - {name: migrate, image: 'users:1', command: [migrate]}
      containers:
      - name: users
        image: users:1
        env: [{name: VERBOSE, value: 'yes'}, {name: MASK, value: '0022'}]
        volumeMounts: [{name: keys, mountPath: /keys}]
      volumes:
      - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
---
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: shards, namespace: manifests}
  spec:
    serviceName: shards
    selector: {matchLabels: {app: shards}}
    template:
      metadata: {labels: {app: shards}}
      spec: {containers: [{name: shard, image: 'shard:1'}]}
- apiVersion: batch/v1
  kind: CronJob
  metadata: {name: nightly, namespace: manifests}
  spec:
    schedule: '0 3 * * *'
    jobTemplate:
      spec:
        template:
          metadata: {annotations: {jitney.dev/mode: NoRedirect, jitney.dev/listen: '15080:8080'}}
          spec: {restartPolicy: Never, containers: [{name: nightly, image: 'nightly:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {generateName: once-, namespace: manifests}
spec: {serviceAccountName: once, containers: [{name: once, image: 'once:1'}]}
";

#[test]
fn server_takes_what_the_command_prints() {
    apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "manifests"}}));
    let once = json!({"name": "once", "namespace": "manifests"});
    apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": once}));

    let injected = control_plane(&["inject", "--filename", "-"], MANIFESTS);
    assert!(
        injected.contains("# The service and what it runs on."),
        "{injected}"
    );
    let taken = dry_run(&injected);

    let find = |kind: &str| taken.iter().find(|object| object["kind"] == kind).unwrap();
    let names = |containers: &Value| -> Vec<String> {
        let containers = containers.as_array().unwrap().iter();
        containers
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (before, all) = (
        ["jitney-redirect", "jitney-proxy"],
        ["jitney-redirect", "jitney-proxy", "migrate"],
    );
    let of_users = &find("Deployment")["spec"]["template"]["spec"];
    assert_eq!(names(&of_users["initContainers"]), all);
    assert_eq!(of_users["volumes"][0]["secret"]["defaultMode"], 0o400);
    assert_eq!(of_users["containers"][0]["env"][0]["value"], "yes");
    let of_shards = &find("StatefulSet")["spec"]["template"]["spec"];
    assert_eq!(names(&of_shards["initContainers"]), before);
    let of_nightly = &find("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(names(&of_nightly["initContainers"]), ["jitney-proxy"]);
    assert_eq!(names(&find("Pod")["spec"]["initContainers"]), before);
    assert_eq!(find("Pod")["metadata"]["labels"]["jitney.dev/injected"], "true");
}

/// A plain pod that wants a sidecar, and has enough of its own to be in the way.
fn plain(namespace: &str, name: &str, says: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"jitney.dev/inject": says}},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "users:1"}],
            "containers": [{"name": "users", "image": "users:1", "ports": [{"containerPort": 8080}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn bare(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": namespace},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "users", "image": "users:1"}]},
    })
}

/// A namespace whose pods get sidecars, and in which nothing else is needed to make them.
fn namespace(name: &str, labels: &Value) {
    apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
    let account = json!({"name": "default", "namespace": name});
    apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}));
}

#[tokio::test]
async fn policy_gives_plain_pods_what_the_command_does() {
    namespace("by-policy", &json!({"jitney.dev/inject": "enabled"}));
    namespace("by-command", &json!({}));
    let policies = control_plane(&["inject", "--print", "policy"], "");
    kubectl_with(&["apply", "--filename", "-"], &policies);
    let has_sidecar = |pod: &Value| pod["metadata"]["labels"]["jitney.dev/injected"] == "true";
    wait::until("the policies are in force", || {
        let opted_out = plain("by-policy", "probe", "disabled");
        assert!(!has_sidecar(&dry_run(&opted_out.to_string())[0]));
        // The one that looks at pods may be in force before the one that changes them.
        try_dry_run(&bare("by-policy")).is_some_and(|pod| has_sidecar(&pod))
    })
    .await;

    for pod in [bare as fn(&str) -> Value, |namespace| {
        plain(namespace, "users", "enabled")
    }] {
        let by_policy = dry_run(&pod("by-policy").to_string());
        let commanded = control_plane(&["inject", "--filename", "-"], &pod("by-command").to_string());
        let by_command = dry_run(&commanded);
        assert_eq!(without_chance(&by_policy[0]), without_chance(&by_command[0]));
        assert!(has_sidecar(&by_policy[0]));
    }

    // Once is enough.
    let once = control_plane(&["inject", "--filename", "-"], &bare("by-policy").to_string());
    let twice = &dry_run(&once)[0]["spec"]["initContainers"];
    assert_eq!(twice.as_array().unwrap().len(), 2);

    let mut wishes = bare("by-policy");
    wishes["metadata"]["annotations"] = json!({"jitney.dev/mode": "NoRedirect"});
    let said = refused_dry_run(&wishes);
    assert!(
        said.contains("the pod is to have a sidecar and was given none"),
        "{said}"
    );

    // As the webhook has it: nobody knows what is meant.
    let odd = plain("by-policy", "odd", "true");
    let said = refused_dry_run(&odd);
    let expected = "jitney.dev/inject: found \"true\", expected enabled or disabled";
    assert!(said.contains(expected), "{said}");

    // The kernel would take its connections for the sidecar's.
    for field in ["/spec", "/spec/containers/0"] {
        let mut ours = bare("by-policy");
        ours.pointer_mut(field).unwrap()["securityContext"]["runAsUser"] = json!(2102);
        let said = refused_dry_run(&ours);
        assert!(said.contains("user 2102 is the sidecar's"), "{field}: {said}");
    }
    warns_of_what_may_not_be_meant();
}

/// Of what the webhook would warn of, and of nothing else.
fn warns_of_what_may_not_be_meant() {
    let warned = |more: &Value| {
        let mut pod = bare("by-policy");
        json_patch(&mut pod["spec"], more);
        let output = dry_run_output(&pod);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let container = |more: &Value| {
        let mut one = json!({"name": "users", "image": "users:1"});
        json_patch(&mut one, more);
        json!({"containers": [one]})
    };
    let looks = "looks for jitney-control-plane.jitney-system.svc";
    for (more, expected) in [
        (json!({"dnsPolicy": "Default"}), looks),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.1"]}}),
            looks,
        ),
        (
            container(&json!({"readinessProbe": {"tcpSocket": {"port": 8080}}})),
            "over TCP it always succeeds",
        ),
        (
            container(&json!({"ports": [{"containerPort": 15006}]})),
            "a port of a container is the sidecar's",
        ),
    ] {
        let told = warned(&more);
        assert_eq!(told.matches("Warning: ").count(), 1, "{more}: {told}");
        assert!(told.contains(expected), "{more}: {told}");
    }
    let searches = json!({"nameservers": ["10.0.0.1"], "searches": ["cluster.local"]});
    for more in [
        json!({}),
        json!({"dnsPolicy": "None", "dnsConfig": searches}),
        container(
            &json!({"readinessProbe": {"exec": {"command": ["true"]}}, "ports": [{"containerPort": 8080}]}),
        ),
    ] {
        assert_eq!(warned(&more), "", "{more}");
    }
}

/// Sets the fields of a map.
fn json_patch(of: &mut Value, more: &Value) {
    for (field, value) in more.as_object().unwrap() {
        of[field] = value.clone();
    }
}

/// Spec and labels of a pod, but for the names that the server makes up.
fn without_chance(pod: &Value) -> (Value, Value) {
    let mut spec = pod["spec"].clone();
    for field in ["initContainers", "containers"] {
        for container in spec[field].as_array_mut().unwrap() {
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.retain(|mount| !is_made_up(&mount["name"]));
            }
        }
    }
    let volumes = spec["volumes"].as_array_mut().unwrap();
    volumes.retain(|volume| !is_made_up(&volume["name"]));
    (spec, pod["metadata"]["labels"].clone())
}

fn is_made_up(name: &Value) -> bool {
    name.as_str().unwrap().starts_with("kube-api-access-")
}
