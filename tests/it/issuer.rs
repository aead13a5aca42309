//! An authority that somebody else keeps: real sidecars of it, its renewal under load, and a mesh that moves to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::{get, post};
use jitney_tests::issuing::{Ca, Secret, mount};
use jitney_tests::programs::program;
use jitney_tests::{TestControlPlane, TestProxy, TestUpstream, model, wait};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::mtls::{STRICT, mesh, start};
use crate::pushed::free_ports;

fn mounted(outer: &Path) -> PathBuf {
    outer.join("issuer")
}

fn flags(outer: &Path) -> Vec<String> {
    vec!["--issuer".to_owned(), mounted(outer).display().to_string()]
}

pub(crate) async fn plane(documents: &str, secret: &Secret) -> TestControlPlane {
    let before = |outer: &Path| {
        mount(&mounted(outer), secret);
        flags(outer)
    };
    TestControlPlane::start_with(documents, before).await
}

/// Each root: its state, and who signs for it.
async fn roots(plane: &TestControlPlane) -> Vec<(String, String)> {
    let status = plane.page("/status").await;
    let text = |root: &Value, name: &str| root[name].as_str().unwrap().to_owned();
    let roots = status["trust"]["roots"].as_array().unwrap().iter();
    roots
        .map(|root| (text(root, "state"), text(root, "signer")))
        .collect()
}

async fn until_roots(plane: &TestControlPlane, expected: &[(&str, &str)]) {
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    let expected: Vec<_> = expected
        .iter()
        .map(|(state, signer)| ((*state).into(), (*signer).into()))
        .collect();
    loop {
        let found = roots(plane).await;
        if found == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{found:?}: {}", plane.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The certificates that a sidecar shows, PEM.
fn shown(plane: &TestControlPlane, node: &str) -> Vec<String> {
    let kept = fs::read_to_string(plane.folder().join("snapshots").join(node).join("identity.pem")).unwrap();
    let sections = kept.split_inclusive("-----END CERTIFICATE-----\n");
    let certificates =
        sections.filter_map(|section| section.find("-----BEGIN CERT").map(|at| &section[at..]));
    certificates.map(str::to_owned).collect()
}

/// Somebody who calls all the time.
pub(crate) struct Callers {
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    calling: JoinHandle<()>,
}

impl Callers {
    pub(crate) fn of(proxy: &TestProxy) -> Self {
        let (is_over, served, address) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicUsize>::default(),
            proxy.address,
        );
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&served));
        let calling = tokio::spawn(async move {
            while !over.load(Ordering::Acquire) {
                let answer = get(address, "/users/7").await.unwrap();
                assert_eq!(answer.text(), model::user("7", ""));
                count.fetch_add(1, Ordering::AcqRel);
            }
        });
        Self {
            is_over,
            served,
            calling,
        }
    }

    /// Panics if one of the calls failed.
    pub(crate) async fn end(self) {
        let so_far = self.served.load(Ordering::Acquire);
        let (calling, served) = (&self.calling, &self.served);
        wait::until("another call", || {
            calling.is_finished() || served.load(Ordering::Acquire) > so_far + 1
        })
        .await;
        self.is_over.store(true, Ordering::Release);
        self.calling.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuing_certificate_is_renewed_under_load_and_sidecars_of_both_talk() {
    let users = TestUpstream::start(model::users).await;
    let root = Ca::root("root");
    // As cert-manager makes keys, unless it is told otherwise.
    let one = root.issue_for("one", KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let ([inbound, outbound], [other]) = (free_ports(), free_ports());
    let orders = format!(
        "---\nkind: Listener\nmetadata: {{name: orders-to-users, namespace: shop}}\n\
         spec: {{address: \"127.0.0.1:{other}\", backend: users, workload: orders}}\n"
    );
    let endpoint = format!("127.0.0.1:{inbound}");
    let documents = mesh(
        &users.address.to_string(),
        [inbound, outbound],
        &endpoint,
        "mtls: Strict",
    );
    let plane = plane(&format!("{documents}{orders}{STRICT}"), &one.secret(&root)).await;
    let roots_pem = plane.folder().join("state/roots.pem");
    assert_eq!(
        certificates(&fs::read_to_string(&roots_pem).unwrap()),
        certificates(&root.pem),
        "sidecars trust the root alone"
    );
    let _callee = start(&plane, "users", "users-1").await;
    let caller = start(&plane, "front", "front-1").await;
    until_roots(&plane, &[("Issuing", "CN=one")]).await;
    let chain = shown(&plane, "front-1");
    assert_eq!(
        (chain.len(), certificates(&chain[1])),
        (2, certificates(&one.pem)),
        "and not the root"
    );

    let callers = Callers::of(&caller);
    let two = root.issue("two");
    mount(&mounted(plane.folder()), &two.secret(&root));
    until_roots(&plane, &[("Issuing", "CN=two")]).await;
    let late = start(&plane, "orders", "orders-1").await;
    assert_eq!(
        certificates(&shown(&plane, "orders-1")[1]),
        certificates(&two.pem)
    );
    assert_eq!(
        get(late.address, "/users/7").await.unwrap().text(),
        model::user("7", "")
    );
    callers.end().await;
    assert_eq!(
        shown(&plane, "front-1"),
        chain,
        "who has a good one does not come for another"
    );
    let metrics = get(plane.admin, "/metrics").await.unwrap().text();
    assert_eq!(
        metrics
            .matches("jitney_signer_expiration_timestamp_seconds{root=")
            .count(),
        1,
        "{metrics}"
    );
    let left = plane.metric("jitney_signer_life_left_ratio", "root=").await;
    assert!(left > 0.99 && left < 1.0, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_made_its_own_authority_moves_over_and_no_call_fails() {
    let users = TestUpstream::start(model::users).await;
    let ports = free_ports();
    let endpoint = format!("127.0.0.1:{}", ports[0]);
    let documents = mesh(&users.address.to_string(), ports, &endpoint, "mtls: Strict");
    let mut plane = TestControlPlane::start(&format!("{documents}{STRICT}")).await;
    let _callee = start(&plane, "users", "users-1").await;
    let caller = start(&plane, "front", "front-1").await;
    let callers = Callers::of(&caller);
    let root = Ca::root("root");
    let issuing = root.issue("issuing");
    plane.end().await;
    mount(&mounted(plane.folder()), &issuing.secret(&root));
    plane.restart_with(flags(plane.folder())).await;
    until_roots(&plane, &[("Issuing", "self"), ("Next", "CN=issuing")]).await;
    let refused = post(plane.admin, "/trust/add", "").await.unwrap();
    assert_eq!(refused.status, 409);
    assert_eq!(
        refused.text(),
        "the roots come from --issuer: another one is added when it is there\n"
    );
    // By hand it is done sooner than by time.
    for step in ["switch", "drop"] {
        let end = tokio::time::Instant::now() + 2 * wait::PATIENCE;
        loop {
            let answer = post(plane.admin, &format!("/trust/{step}"), "").await.unwrap();
            if answer.status == 200 {
                break;
            }
            assert_eq!(answer.status, 409, "{}", answer.text());
            assert!(tokio::time::Instant::now() < end, "{step}: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    until_roots(&plane, &[("Issuing", "CN=issuing")]).await;
    callers.end().await;
    for node in ["users-1", "front-1"] {
        assert_eq!(certificates(&shown(&plane, node)[1]), certificates(&issuing.pem));
    }
    // Without the flag it goes on as it is, and says so.
    plane.end().await;
    plane.restart_with(Vec::new()).await;
    until_roots(&plane, &[("Issuing", "CN=issuing")]).await;
    assert!(
        plane.log().contains("signs still, although there is no --issuer"),
        "{}",
        plane.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_to_the_same_roots() {
    let [a, b] = ["a", "b"].map(Ca::root);
    let plane = plane(
        "kind: Backend\nmetadata: {name: a}\nspec: {endpoints: [\"127.0.0.1:9\"]}\n",
        &a.secret(&a),
    )
    .await;
    let replica = plane.replica().await;
    until_roots(&replica, &[("Issuing", "self")]).await;
    mount(&mounted(plane.folder()), &b.issue("b1").secret(&b));
    let expected = [("Issuing", "self"), ("Next", "CN=b1")];
    until_roots(&plane, &expected).await;
    until_roots(&replica, &expected).await;
    let ids = async |plane: &TestControlPlane| plane.page("/status").await["trust"]["roots"].clone();
    let (one, other) = (ids(&plane).await, ids(&replica).await);
    assert_eq!(
        (&one[1]["id"], &one[1]["since"]),
        (&other[1]["id"], &other[1]["since"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_is_told_and_nothing_changes() {
    let root = Ca::root("root");
    let plane = plane(
        "kind: Backend\nmetadata: {name: a}\nspec: {endpoints: [\"127.0.0.1:9\"]}\n",
        &root.secret(&root),
    )
    .await;
    let mut data = root.issue("issuing").secret(&root);
    data[1].1 = KeyPair::generate().unwrap().serialize_pem();
    mount(&mounted(plane.folder()), &data);
    let faults = async || plane.page("/status").await["state"]["faults"].clone();
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while faults().await == serde_json::json!([]) {
        assert!(tokio::time::Instant::now() < end, "{}", plane.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = faults().await[0].as_str().unwrap().to_owned();
    let folder = mounted(plane.folder());
    let expected = format!(
        "certificates are signed by the last good issuer: --issuer {}: tls.key: it is not the key of the first \
         certificate in tls.crt, CN=issuing",
        folder.display()
    );
    assert!(told.starts_with(&expected), "{told}");
    assert!((plane.metric("jitney_state_faults", "").await - 1.0).abs() < 0.1);
    assert_eq!(roots(&plane).await, [("Issuing".to_owned(), "self".to_owned())]);
    mount(&folder, &root.issue("issuing").secret(&root));
    until_roots(&plane, &[("Issuing", "CN=issuing")]).await;
    assert_eq!(faults().await, serde_json::json!([]));
}

#[test]
fn a_control_plane_does_not_start_with_another_authority_than_it_was_to() {
    let outer = tempfile::tempdir().unwrap();
    let (folder, state) = (mounted(outer.path()), outer.path().join("state"));
    fs::write(
        outer.path().join("a.yaml"),
        "kind: Backend\nmetadata: {name: a}\nspec: {endpoints: [\"127.0.0.1:9\"]}\n",
    )
    .unwrap();
    let told = || {
        let path = |path: &Path| path.display().to_string();
        let output = Command::new(program("jitney-control-plane"))
            .args([
                "run",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--source",
            ])
            .arg(format!("files:{}", path(&outer.path().join("a.yaml"))))
            .args(["--state", &path(&state), "--issuer", &path(&folder)])
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let begin = format!("--issuer {}: ", folder.display());
    let nothing = told();
    assert!(
        nothing.contains(&format!("{begin}tls.crt: cannot be read: No such file")),
        "{nothing}"
    );
    let [root, other] = ["root", "other"].map(Ca::root);
    mount(&folder, &root.issue("issuing").secret(&other));
    let another = told();
    let expected = format!("{begin}ca.crt: none of its certificates (CN=other) vouches for CN=issuing");
    assert!(another.contains(&expected), "{another}");
    assert!(
        !state.join("authority.json").exists(),
        "nothing is made for what does not start"
    );
}

/// The certificates in a text.
fn certificates(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .map(Result::unwrap)
        .collect()
}
