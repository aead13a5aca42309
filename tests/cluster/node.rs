//! A node with its kubelet: pods of the images that ship, as restricted as Kubernetes knows.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use jitney_tests::wait::PATIENCE;
use jitney_tests::{Answer, caller};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::kubectl::{Namespace, get};

mod inject;
mod leaving;

/// Where a sidecar's admin endpoint listens in these pods.
const ADMIN: &str = "0.0.0.0:15000";

#[test]
fn the_node_is_ready() {
    let node = get(&["node", "node-a"]);
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    assert_eq!(ready.unwrap()["status"], "True");
}

#[test]
fn shipped_programs_run_without_root_or_a_file_to_write() {
    let namespace = Namespace::restricted("programs");
    for name in ["proxy", "control-plane"] {
        let program = container(name, name, &["--version"]);
        namespace.apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "containers": [program]},
        }));
    }
    for name in ["proxy", "control-plane"] {
        namespace.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Succeeded");
        let version = format!("jitney-{name} {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(namespace.logs(name, name).trim(), version);
    }
}

/// One sidecar sends to the other by the name of its Service, which its static resolver looks up; this test,
/// on the node, calls the first by the name of its own.
#[tokio::test]
async fn services_are_called_by_name_from_pods_and_the_node() {
    let namespace = Namespace::restricted("names");
    for (name, upstream) in [("front", "back.names:15000"), ("back", "127.0.0.1:1")] {
        let sends = ["--listen", "0.0.0.0:8080", "--upstream", upstream];
        let mut sidecar = container(name, "proxy", &[&["run", "--admin", ADMIN], &sends[..]].concat());
        sidecar["readinessProbe"] = ready();
        namespace.apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [sidecar]},
        }));
        namespace.apply(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "selector": {"app": name},
                "ports": [
                    {"name": "calls", "port": 80, "targetPort": 8080},
                    {"name": "admin", "port": 15000},
                ],
            },
        }));
    }
    namespace.wait("pod/front", "condition=Ready");
    namespace.wait("pod/back", "condition=Ready");

    let front = "front.names.svc.cluster.local:80";
    let address = front.to_socket_addrs().unwrap().next().unwrap();
    let service = namespace.get("service/front");
    assert_eq!(service["spec"]["clusterIP"], address.ip().to_string());

    let backends = answer(address, "/backends").await.text();
    assert!(backends.contains("127.0.0.1:1"), "those of back: {backends}");
}

#[test]
fn a_job_completes_beside_a_native_sidecar() {
    let namespace = Namespace::restricted("jobs");
    let sends = ["--listen", "127.0.0.1:8080", "--upstream", "127.0.0.1:1"];
    let mut sidecar = container(
        "sidecar",
        "proxy",
        &[&["run", "--admin", ADMIN], &sends[..]].concat(),
    );
    sidecar["restartPolicy"] = "Always".into();
    sidecar["startupProbe"] = ready();
    let work = container("work", "control-plane", &["--version"]);
    namespace.apply(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {
            "backoffLimit": 0,
            "template": {"spec": {
                "restartPolicy": "Never",
                "initContainers": [sidecar],
                "containers": [work],
            }},
        },
    }));
    namespace.wait("job/once", "condition=Complete");

    let pods = get(&["pods", "--namespace", namespace.name]);
    let sidecar = &pods["items"][0]["status"]["initContainerStatuses"][0];
    assert_eq!(sidecar["restartCount"], 0);
    assert_eq!(
        sidecar["state"]["terminated"]["exitCode"], 0,
        "it left when asked"
    );
}

/// A container of an image that ships.
fn container(name: &str, image: &str, arguments: &[&str]) -> Value {
    json!({
        "name": name,
        "image": format!("jitney/{image}:test"),
        "imagePullPolicy": "Never",
        "args": arguments,
        "securityContext": {
            "runAsNonRoot": true,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// Asks a sidecar whether it is ready.
fn ready() -> Value {
    json!({"httpGet": {"path": "/ready", "port": 15000}, "periodSeconds": 1})
}

/// What is answered at a Service's address, once anything is: the kernel has its rules only after its pods are
/// ready, and until then nobody is there.
async fn answer(address: SocketAddr, path: &str) -> Answer {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = timeout(Duration::from_secs(1), caller::get(address, path)).await;
        match answer {
            Ok(Ok(answer)) if answer.status == 200 => return answer,
            other => assert!(Instant::now() < end, "{address} does not answer: {other:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}
