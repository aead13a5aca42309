//! Sidecars for pods, on a node: the webhook is asked by a real API server, and an injected pod is run by a
//! real kubelet.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jitney_tests::wait::PATIENCE;
use jitney_tests::{caller, wait};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::answer;
use crate::kubectl::{Namespace, apply, dry_run, get, kubectl, kubectl_with, refused_dry_run};
use crate::programs::{control_plane, path};

/// The node, as pods and the API server see it.
const NODE: &str = "10.99.0.1";
const SYSTEM: &str = "jitney-system";

/// A control plane on the node, behind the Service by which sidecars and the API server know it.
struct ControlPlane {
    child: Child,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let documents = folder.path().join("users.yaml");
        fs::write(&documents, asking("Permissive")).unwrap();
        serve_as(SYSTEM);
        let source = format!("files:{}", documents.display());
        let child = Command::new(path("jitney-control-plane"))
            .args([
                "run",
                "--source",
                &source,
                "--admin",
                "127.0.0.1:15014",
                "--log-level",
                "warn",
            ])
            .args([
                "--listen",
                &format!("{NODE}:15010"),
                "--webhook",
                &format!("{NODE}:15017"),
            ])
            .arg("--state")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// Has it push what callers of the service have to prove.
    fn ask(&self, mtls: &str) {
        fs::write(self.folder.path().join("users.yaml"), asking(mtls)).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// What its program says of its state.
    fn told(&self, words: &[&str]) -> String {
        let state = self.state();
        control_plane(&[words, &["--state", state.to_str().unwrap()]].concat(), "")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if !std::thread::panicking() {
            kubectl(&[
                "delete",
                "mutatingwebhookconfiguration",
                "jitney-injector",
                "--ignore-not-found",
            ]);
        }
    }
}

/// Documents of one workload.
fn asking(mtls: &str) -> String {
    let metadata = json!({"name": "users", "namespace": "shop"});
    let endpoints = json!({"endpoints": ["10.244.0.250:8080"]});
    let backend = json!({"kind": "Backend", "metadata": metadata, "spec": endpoints});
    let runtime = json!({"kind": "Runtime", "metadata": metadata, "spec": {"mtls": {"mode": mtls}}});
    format!("{backend}\n---\n{runtime}\n")
}

/// A Service that leads to this node.
fn serve_as(namespace: &str) {
    apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
    let metadata = json!({
        "name": "jitney-control-plane",
        "namespace": namespace,
        "labels": {"kubernetes.io/service-name": "jitney-control-plane"},
    });
    let ports = json!([{"name": "sidecars", "port": 15010}, {"name": "webhook", "port": 15017}]);
    apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}));
    apply(&json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [NODE], "conditions": {"ready": true}}],
    }));
}

/// A service that answers at `/ready` and elsewhere, and is asked by kubelet whether it lives.
fn users(namespace: &str) -> Value {
    let arguments = [
        "run",
        "--admin",
        "0.0.0.0:8080",
        "--listen",
        "127.0.0.1:8081",
        "--upstream",
        "127.0.0.1:1",
    ];
    let mut service = super::container("users", "proxy", &arguments);
    service["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1});
    service["livenessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "users", "namespace": namespace},
        "spec": {"containers": [service]},
    })
}

#[tokio::test]
async fn pods_get_their_sidecars_from_the_webhook_and_serve() {
    let plane = ControlPlane::start();
    let _asked = Namespace::labelled("asked", &json!({"jitney.dev/inject": "enabled"}));
    let _unasked = Namespace::labelled("unasked", &json!({}));
    for name in ["asked", "unasked"] {
        wait::until("the account is there", || {
            !get(&["serviceaccounts", "--namespace", name])["items"]
                .as_array()
                .unwrap()
                .is_empty()
        })
        .await;
    }
    kubectl_with(
        &["apply", "--filename", "-"],
        &control_plane(&["inject", "--print", "webhook"], ""),
    );
    webhook_injects().await;
    injected_pod_serves(&plane).await;
}

/// The API server believes who answers for the Service, and does what it says.
async fn webhook_injects() {
    wait::until("the API server is told whom to believe", || {
        let configuration = get(&["mutatingwebhookconfiguration", "jitney-injector"]);
        let webhooks = configuration["webhooks"].as_array().unwrap();
        webhooks
            .iter()
            .all(|webhook| webhook["clientConfig"]["caBundle"].is_string())
    })
    .await;
    let has_sidecar = |pod: &Value| {
        let created = &dry_run(&pod.to_string())[0];
        created["metadata"]["labels"]["jitney.dev/injected"] == "true"
    };
    wait::until("pods of the namespace get sidecars", || {
        // Until the rules of its Service are there, nobody answers, and no pod is made.
        let created = crate::kubectl::try_dry_run(&users("asked"));
        created.is_some_and(|pod| pod["spec"]["initContainers"][1]["name"] == "jitney-proxy")
    })
    .await;

    let says = |namespace: &str, value: &str| {
        let mut pod = users(namespace);
        pod["metadata"]["annotations"] = json!({"jitney.dev/inject": value});
        pod
    };
    assert!(!has_sidecar(&says("asked", "disabled")));
    assert!(!has_sidecar(&users("unasked")));
    assert!(has_sidecar(&says("unasked", "enabled")));
    let said = refused_dry_run(&says("asked", "yes"));
    assert!(
        said.contains("pod asked/users: jitney.dev/inject: found \"yes\", expected enabled or disabled"),
        "{said}"
    );
}

/// The kernel hands a pod's connections to its sidecar, which has a certificate; kubelet's probes get through.
async fn injected_pod_serves(plane: &ControlPlane) {
    let shop = Namespace::labelled("shop", &json!({}));
    let roots = plane.told(&["trust", "roots"]);
    shop.apply(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "jitney-roots"},
        "data": {"roots.pem": roots},
    }));
    // In files, a control plane believes its own tokens only, and not those of accounts.
    let token = plane.told(&["token", "shop/users"]);
    shop.apply(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token"},
        "stringData": {"token": token},
    }));
    let images = [
        "--proxy-image",
        "jitney/proxy:test",
        "--redirect-image",
        "jitney/redirect:test",
    ];
    let injected = control_plane(
        &[&["inject", "--filename", "-"], &images[..]].concat(),
        &users("shop").to_string(),
    );
    let mut pod = dry_run(&injected).remove(0);
    pod.as_object_mut().unwrap().remove("status");
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    let identity = volumes
        .iter_mut()
        .find(|volume| volume["name"] == "jitney-identity");
    identity.unwrap()["projected"]["sources"][0] = json!({"secret": {"name": "token"}});
    let zone = "topology.kubernetes.io/zone=zone-a";
    kubectl(&["label", "node", "--all", "--overwrite", zone]);
    shop.apply(pod);
    shop.wait("pod/users", "condition=Ready");

    let running = shop.get("pod/users");
    let ip = running["status"]["podIP"].as_str().unwrap();
    let service: SocketAddr = format!("{ip}:8080").parse().unwrap();
    let sidecar: SocketAddr = format!("{ip}:15020").parse().unwrap();
    assert_eq!(answer(service, "/ready").await.text(), "ready\n");
    assert_eq!(
        answer(sidecar, "/ready").await.text(),
        "ready\n",
        "with a control plane"
    );
    takes_calls_in_its_zone(sidecar).await;

    // Kubelet has no certificate, and asks the sidecar.
    let probe = &running["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    assert_eq!(probe["path"], "/probes/users/readiness");
    plane.ask("Strict");
    let end = Instant::now() + PATIENCE;
    while caller::get(service, "/ready")
        .await
        .is_ok_and(|answer| answer.status == 200)
    {
        assert!(Instant::now() < end, "bare calls are served still");
        sleep(Duration::from_millis(50)).await;
    }
    let probed = answer(sidecar, "/probes/users/readiness").await;
    assert_eq!(probed.text(), "ready\n");
    shop.wait("pod/users", "condition=Ready");
}

/// The kernel hands over what comes, and the sidecar knows where its node is.
async fn takes_calls_in_its_zone(sidecar: SocketAddr) {
    let metrics = answer(sidecar, "/metrics").await.text();
    let counted = |line: &str| line.starts_with("jitney_calls_total{") && !line.ends_with(" 0");
    assert!(metrics.lines().any(counted), "{metrics}");
    let config: Value = serde_json::from_str(&answer(sidecar, "/config").await.text()).unwrap();
    assert_eq!(config["settings"]["zone"], "zone-a", "{config}");
}
