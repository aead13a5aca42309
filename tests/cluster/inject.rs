//! Sidecars for pods, as an API server sees them.

use serde_json::json;

use crate::kubectl::{apply, dry_run};
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
          metadata: {annotations: {jitney.dev/mode: NoRedirect}}
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
    let names = |containers: &serde_json::Value| -> Vec<String> {
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
