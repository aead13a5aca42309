//! Replicas that have nothing in common but a Secret, each with a folder in which somebody else keeps the authority:
//! a kubelet changes them at different times, and all come to the same roots.

use jitney_tests::issuing::{Ca, Secret, mount};
use jitney_tests::{caller, wait};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use super::rights::allow_all;
use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::kubectl::{Namespace, kubectl};

const NAMESPACE: &str = "issuer";

/// A control plane, and what is mounted for it.
struct Replica {
    plane: Plane,
    mounted: TempDir,
}

impl Replica {
    fn start(secret: &Secret) -> Self {
        let mounted = tempfile::tempdir().unwrap();
        mount(mounted.path(), secret);
        let issuer = mounted.path().to_str().unwrap();
        let flags = ["--webhook-configuration", "rights", "--issuer", issuer];
        let plane = Plane::start(NAMESPACE, "plane", &flags);
        Self { plane, mounted }
    }

    async fn roots(&self) -> Vec<Value> {
        let admin = self.plane.address("admin endpoint listening").await;
        let answer = caller::get(admin.parse().unwrap(), "/status").await;
        let status: Value = serde_json::from_str(&answer.unwrap().text()).unwrap();
        status["trust"]["roots"].as_array().unwrap().clone()
    }

    /// Returns when the roots are as expected, each with its state and signer.
    async fn until(&self, expected: &Value) {
        let end = Instant::now() + 2 * wait::PATIENCE;
        loop {
            let roots = self.roots().await;
            let found: Value = roots
                .iter()
                .map(|root| json!([root["state"], root["signer"]]))
                .collect();
            if found == *expected {
                return;
            }
            assert!(Instant::now() < end, "{found}: {}", self.plane.said());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_folders_that_change_at_different_times() {
    let _alone = ALONE.lock().await;
    installed().await;
    let namespace = Namespace::labelled(NAMESPACE, &json!({}));
    allow_all(&namespace);
    let [a, b] = ["a", "b"].map(Ca::root);
    let one = a.issue("one").secret(&a);
    let replicas = [Replica::start(&one), Replica::start(&one)];
    for replica in &replicas {
        replica.until(&json!([["Issuing", "CN=one"]])).await;
    }

    // The other one's kubelet is late, and it hears of it by the Secret.
    let two = a.issue("two").secret(&a);
    mount(replicas[0].mounted.path(), &two);
    for replica in &replicas {
        replica.until(&json!([["Issuing", "CN=two"]])).await;
    }
    mount(replicas[1].mounted.path(), &two);

    let other = b.issue("b1").secret(&b);
    for replica in &replicas {
        mount(replica.mounted.path(), &other);
    }
    for replica in &replicas {
        replica
            .until(&json!([["Issuing", "CN=two"], ["Next", "CN=b1"]]))
            .await;
    }
    same(&replicas).await;
    let admin = replicas[0].plane.address("admin endpoint listening").await;
    let refused = caller::post(admin.parse().unwrap(), "/trust/switch", "")
        .await
        .unwrap();
    assert_eq!(refused.status, 409);
    let told = refused.text();
    assert!(
        told.contains("other replicas keep what they know to themselves"),
        "{told}"
    );
}

/// Both, and the Secret, hold the same roots since the same time.
async fn same(replicas: &[Replica; 2]) {
    let end = Instant::now() + 2 * wait::PATIENCE;
    let of = |roots: Vec<Value>| -> Vec<Value> {
        let of = |root: &Value| json!([root["id"], root["state"], root["since"]]);
        roots.iter().map(of).collect()
    };
    loop {
        let (one, other) = (of(replicas[0].roots().await), of(replicas[1].roots().await));
        let kept: Value = serde_json::from_str(&kubectl(&[
            "get",
            "secret",
            "jitney-authority",
            "--namespace",
            NAMESPACE,
            "--output",
            "go-template={{index .data \"authority.json\" | base64decode}}",
        ]))
        .unwrap();
        let count = kept["roots"].as_array().map(Vec::len);
        if one == other && count == Some(2) {
            return;
        }
        assert!(
            Instant::now() < end,
            "{one:?} {other:?} {count:?}: {}",
            replicas[0].plane.said()
        );
        sleep(Duration::from_millis(20)).await;
    }
}
