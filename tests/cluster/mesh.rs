//! The charts on a node, as somebody installs them, and the example of three services: each pod gets its
//! sidecar, calls are batched where they arrive, and nobody can tell.

use std::process::Command;

use jitney_tests::issuing::Ca;
use jitney_tests::{Process, wait};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::helm::{chart, helm};
use crate::kubectl::{get, kubectl, kubectl_with, succeeded};
use crate::programs::path;
use crate::shop::{
    Asked, SERVICES, SHOP, SYSTEM, apply, as_told, asked, condition, line, pages, pods, rolled_out, says,
    serves, settled, sidecars, under_load, users,
};

/// Installs, tries and removes, in this order: one cluster has one control plane.
#[tokio::test]
async fn the_example_is_batched_and_nobody_can_tell() {
    as_told("kubectl apply --filename examples/kubernetes/shop.yaml\n");
    // First without sidecars: what everything after it has to be equal to.
    apply("shop.yaml", |text| {
        text.replace("jitney.dev/inject: enabled", "jitney.dev/inject: disabled")
    });
    rolled_out();
    serves().await;
    let direct = pages();
    assert_eq!(sidecars().len(), 0);

    apply("shop.yaml", str::to_owned);
    for service in SERVICES {
        kubectl(&[
            "rollout",
            "restart",
            "--namespace",
            SHOP,
            &format!("deployment/{service}"),
        ]);
    }
    rolled_out();
    serves().await;
    assert_eq!(sidecars().len(), 4);
    assert!(pages() == direct, "not what it was without sidecars");
    let before: Vec<Asked> = users().iter().map(asked).collect();
    assert!(
        before.iter().all(|asked| asked.calls == asked.rows),
        "{before:?}: without a policy"
    );

    apply("policy.yaml", str::to_owned);
    says("users", "2/2").await;
    says("orders", "1/1").await;
    let capture = Capture::start().await;
    assert!(pages() == direct, "not what it was without batches");
    capture.shows_tls_only();
    for (pod, before) in users().iter().zip(before) {
        let after = asked(pod);
        let (calls, rows) = (after.calls - before.calls, after.rows - before.rows);
        assert!(rows > 2 * calls, "{calls} calls for {rows} rows of {pod}");
    }

    looks_good();
    says_what_it_makes_of_a_call().await;
    calls_itself();
    a_trial_succeeds();
    restarts_lose_no_call();
    upgrade_and_rollback_lose_no_call().await;
    a_sidecar_may_listen_where_nothing_is_redirected(&direct).await;
    a_job_ends();
    a_change_is_told_and_a_fault_as_well().await;
    remove().await;
}

/// What is applied, checked by who may read it.
fn looks_good() {
    let line = ["check", "--source", "kubernetes:shop"];
    let said = succeeded(
        Command::new(path("jitney-control-plane"))
            .args(line)
            .output()
            .unwrap(),
    );
    assert_eq!(
        said,
        "shop/orders: 1 of 1 sidecar runs generation 1\nshop/users: 2 of 2 sidecars run generation 1\n\
         2 batchpolicies, 0 backends, 0 runtimes: no faults\n"
    );
}

/// A sidecar in a pod that was just made explains a call, in README's steps, through the connection that `kubectl`
/// makes to it.
async fn says_what_it_makes_of_a_call() {
    kubectl(&["rollout", "restart", "--namespace", SHOP, "deployment/users"]);
    rolled_out();
    let shell = |line: &str| Command::new("sh").args(["-c", line]).output().unwrap();
    let load = line("kubectl exec ");
    wait::until("pages are loaded", || shell(&load).status.success()).await;
    let forward = line("kubectl port-forward ").replace(" 15020", " :15020");
    let mut words = forward.split_whitespace();
    let mut forward = Command::new(words.next().unwrap());
    forward.args(words);
    let forward = Process::run("kubectl port-forward", forward);
    let near = || {
        let log = forward.log();
        let (_, rest) = log.split_once("Forwarding from 127.0.0.1:")?;
        Some(format!("127.0.0.1:{}", rest.split_once(' ')?.0))
    };
    wait::until("a port is forwarded", || near().is_some()).await;
    let explain = line("jitney-proxy explain ").replace("127.0.0.1:15020", &near().unwrap());
    let explain = explain.replace("jitney-proxy", &path("jitney-proxy").display().to_string());
    let said = succeeded(shell(&explain));
    for part in ["route: users/user-by-id", "codec: keyedGet"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(said.matches("backend: ").count(), 1, "{said}");
}

/// Nobody hands over what does not leave a pod: there the service itself answers, and not its sidecar.
fn calls_itself() {
    let from = [
        "exec",
        "--namespace",
        SHOP,
        "deployment/front",
        "--container",
        "front",
        "--",
    ];
    let load = ["/shop", "load", "front:80", "--pages", "8"];
    assert_eq!(kubectl(&[&from[..], &load].concat()).trim(), "8 pages, 0 failed");
}

/// `helm test` forms a batch of its own, and removes what it has needed for that.
fn a_trial_succeeds() {
    let said = helm(&["test", "jitney", "--namespace", SYSTEM, "--timeout", "80s"]);
    assert!(said.contains("Phase:          Succeeded"), "{said}");
    let left = kubectl(&["get", "namespaces", "--output=name"]);
    assert!(!left.contains("jitney-system-trial"), "{left}");
}

/// Callees and the control plane are replaced, one after the other, while pages are loaded.
fn restarts_lose_no_call() {
    under_load(|| {
        for (namespace, name) in [
            (SHOP, "users"),
            (SHOP, "orders"),
            (SYSTEM, "jitney-control-plane"),
        ] {
            let deployment = format!("deployment/{name}");
            kubectl(&["rollout", "restart", "--namespace", namespace, &deployment]);
            settled(namespace, name);
        }
    });
}

/// Another release of the control plane takes over the sidecars from the one before, and that from it, while
/// pages are loaded. The other one has an authority that somebody else keeps: the root of a Secret becomes the next.
async fn upgrade_and_rollback_lose_no_call() {
    let revision = || {
        let path = "jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}";
        let deployment = [
            "deployment/jitney-control-plane",
            "--namespace",
            SYSTEM,
            "--output",
            path,
        ];
        kubectl(&[&["get"], &deployment[..]].concat())
    };
    let told = || get(&["deployment", "jitney-control-plane", "--namespace", SYSTEM])["spec"].take();
    let (before, spec) = (revision(), told());
    let wait = ["--namespace", SYSTEM, "--wait", "--timeout", "80s"];
    let root = issuer();
    let values =
        "log.level=info\\,jitney_control_plane=debug,replicas=2,identity.issuer.secretName=somebody-elses";
    let upgrade = [
        "upgrade",
        "jitney",
        &chart("jitney"),
        "--reuse-values",
        "--set",
        values,
    ];
    replaced_under_load(&[&upgrade[..], &wait].concat());
    assert_ne!(revision(), before, "its pods are others");
    let (replicas, line) = (&told()["replicas"], told()["template"].to_string());
    assert_eq!(replicas, 2);
    assert!(
        line.contains("--log-level=info,jitney_control_plane=debug"),
        "{line}"
    );
    wait::until("pods have the root of the Secret", || {
        let roots = get(&["configmap", "jitney-roots", "--namespace", SHOP])["data"].take();
        let roots = roots["roots.pem"].as_str().unwrap_or_default();
        certificates(roots).len() == 2 && certificates(roots).contains(&root)
    })
    .await;
    // New replicas know of sidecars only from these themselves.
    says("users", "2/2").await;
    says("orders", "1/1").await;

    replaced_under_load(&[&["rollback", "jitney", "1"], &wait[..]].concat());
    assert_eq!(told(), spec);
    says("users", "2/2").await;
    says("orders", "1/1").await;
}

/// A Secret as cert-manager writes it; gives the root.
fn issuer() -> CertificateDer<'static> {
    let root = Ca::root("root");
    let data: Value = root
        .issue("issuing")
        .secret(&root)
        .into_iter()
        .map(|(name, text)| (name.to_owned(), Value::from(text)))
        .collect();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "somebody-elses", "namespace": SYSTEM},
        "type": "kubernetes.io/tls",
        "stringData": data,
    });
    let _applied = kubectl_with(&["apply", "--filename", "-"], &secret.to_string());
    certificates(&root.pem).remove(0)
}

fn certificates(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .map(Result::unwrap)
        .collect()
}

/// Has helm do something, and waits until all replicas from before it have gone.
fn replaced_under_load(arguments: &[&str]) {
    let in_system = [
        "--namespace",
        SYSTEM,
        "--selector",
        "app.kubernetes.io/component=control-plane",
    ];
    let before = kubectl(&[&["get", "pods", "--output=name"], &in_system[..]].concat());
    let before: Vec<&str> = before.lines().collect();
    assert!(!before.is_empty());
    under_load(|| {
        let _said = helm(arguments);
        settled(SYSTEM, "jitney-control-plane");
        let gone = ["wait", "--namespace", SYSTEM, "--timeout=80s", "--for", "delete"];
        kubectl(&[&gone[..], &before].concat());
    });
}

/// A pod that is given no rights over its network: its Service leads to a port of its sidecar, where calls are batched
/// and come from other sidecars by mTLS, as elsewhere.
async fn a_sidecar_may_listen_where_nothing_is_redirected(direct: &str) {
    let deployment = "metadata: {labels: {app: orders}";
    let service = "selector: {app: orders}\n  ports: [{name: http, port: 80, targetPort: 8080}]";
    apply("shop.yaml", |text| {
        assert!(text.contains(deployment) && text.contains(service));
        let annotations = "annotations: {jitney.dev/mode: NoRedirect, jitney.dev/listen: '15080:8080'}";
        text.replace(deployment, &format!("{deployment}, {annotations}"))
            .replace(service, &service.replace("8080", "15080"))
    });
    settled(SHOP, "orders");
    says("orders", "1/1").await;
    let orders = pods("app=orders");
    assert_eq!(orders.len(), 1);
    assert!(!orders[0].to_string().contains("NET_ADMIN"), "{}", orders[0]);
    let ip = orders[0]["status"]["podIP"].as_str().unwrap().to_owned();
    let (before, capture) = (asked(&ip), Capture::start().await);
    assert!(pages() == direct, "not what it was where the kernel redirects");
    capture.shows_tls_only();
    let after = asked(&ip);
    let (calls, rows) = (after.calls - before.calls, after.rows - before.rows);
    assert!(rows > 2 * calls, "{calls} calls for {rows} rows");
}

/// Its sidecar does not keep a pod that has done its work.
fn a_job_ends() {
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once", "namespace": SHOP},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "load",
                "image": "jitney/example-shop:test",
                "args": ["load", "front:80", "--pages", "8"],
            }],
        }}},
    });
    let _applied = kubectl_with(&["apply", "--filename", "-"], &job.to_string());
    let complete = ["--for", "condition=Complete", "--timeout=60s", "job/once"];
    kubectl(&[&["wait", "--namespace", SHOP], &complete[..]].concat());
    let pods = pods("batch.kubernetes.io/job-name=once");
    assert_eq!(pods[0]["metadata"]["labels"]["jitney.dev/injected"], "true");
}

async fn a_change_is_told_and_a_fault_as_well() {
    let patch = |merge: &str| {
        kubectl(&[
            "patch",
            "batchpolicy",
            "users",
            "--namespace",
            SHOP,
            "--type",
            "merge",
            "--patch",
            merge,
        ])
    };
    patch(r#"{"spec": {"mode": "Shadow"}}"#);
    wait::until("the change is in force everywhere", || {
        let status = get(&["batchpolicy", "--namespace", SHOP, "users"])["status"].take();
        condition(&status, "Programmed")["message"] == "2 of 2 sidecars run generation 2"
    })
    .await;
    patch(r#"{"spec": {"targetRefs": [{"kind": "Service", "name": "usres"}]}}"#);
    wait::until("it is told that the target is not there", || {
        let status = get(&["batchpolicy", "--namespace", SHOP, "users"])["status"].take();
        condition(&status, "Accepted")["message"] == "there is no Service \"usres\" in namespace shop"
    })
    .await;
}

async fn remove() {
    kubectl(&["delete", "namespace", SHOP, "--timeout=80s"]);
    let _said = helm(&["uninstall", "jitney", "--namespace", SYSTEM, "--wait"]);
    wait::until("nothing of it is left", || {
        let kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings,roles,rolebindings,secrets,configmaps,leases,all";
        let left = kubectl(&["get", kinds, "--all-namespaces", "--output", "name"]);
        // That of the definitions, which stay, is helm's own.
        left.lines().all(|name| !name.contains("jitney") || name.contains("jitney-crds"))
    })
    .await;
}

/// What pods say to each other, as the kernel sees it on all interfaces of the node.
struct Capture {
    process: Process,
    file: tempfile::NamedTempFile,
}

impl Capture {
    async fn start() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut python = Command::new("python3");
        python.args(["-c", CAPTURE]).arg(file.path());
        let process = Process::run("the capture", python);
        wait::until("it captures", || process.log().contains("capturing")).await;
        Self { process, file }
    }

    /// Of calls between pods nothing can be read; of those that this test makes from the node it can.
    fn shows_tls_only(self) {
        drop(self.process);
        let frames = std::fs::read(self.file.path()).unwrap();
        let shows = |text: &str| frames.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(shows("GET /pages/"), "{} bytes", frames.len());
        assert!(
            frames.windows(3).any(|window| window == TLS_DATA),
            "nothing is TLS"
        );
        for plain in ["GET /users", "GET /orders"] {
            assert!(!shows(plain), "{plain:?} is to be read on the wire");
        }
    }
}

/// The head of a record of application data (RFC 8446, 5.2).
const TLS_DATA: [u8; 3] = [0x17, 3, 3];

const CAPTURE: &str = "
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print('capturing', file=sys.stderr, flush=True)
with open(sys.argv[1], 'wb', buffering=0) as kept:
    while True:
        kept.write(wire.recv(65536))
";
