//! The webhook while nobody answers: what the chart says becomes of pods, and who is told of those that were missed.

use std::time::Duration;

use jitney_tests::wait::PATIENCE;
use jitney_tests::{caller, wait};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::helm::{chart, helm};
use crate::kubectl::{Namespace, apply, get, kubectl, refused, told};

const RELEASED: &str = "away";
const SHOP: &str = "away-shop";

/// Nothing answers for the Service: here is nobody who starts the release's pods.
#[tokio::test]
async fn missed_pods_are_refused_or_made_and_told_of() {
    let _alone = ALONE.lock().await;
    installed().await;
    let _system = Namespace::restricted(RELEASED);
    let _shop = Namespace::labelled(SHOP, &json!({"jitney.dev/inject": "enabled"}));
    let _other = Namespace::labelled("away-other", &json!({}));
    for namespace in [SHOP, "away-other"] {
        let account = json!({"name": "default", "namespace": namespace});
        apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}));
    }
    let release = |verb: &str, policy: &str| {
        let values = format!("injection.timeoutSeconds=1,injection.failurePolicy={policy}");
        let place = ["--namespace", RELEASED, "--set", &values];
        helm(&[&[verb, "jitney", &chart("jitney")], &place[..]].concat())
    };
    let _notes = release("install", "Fail");
    wait::until("pods that are to have a sidecar are not made", || {
        told(
            &["create", "--dry-run=server", "--filename", "-"],
            &pod(SHOP, "probe", &json!({})).to_string(),
        )
        .status
        .code()
            == Some(1)
    })
    .await;
    let said = refused(&pod(SHOP, "users", &json!({})));
    assert!(
        said.contains("failed calling webhook \"namespaces.inject.jitney.dev\""),
        "{said}"
    );
    let wishes = |word: &str| json!({"labels": {"jitney.dev/inject": word}});
    let said = refused(&pod("away-other", "asks", &wishes("enabled")));
    assert!(said.contains("\"pods.inject.jitney.dev\""), "{said}");
    // Whoever wants none needs nobody.
    apply(&pod(SHOP, "wants-none", &wishes("disabled")));
    apply(&pod("away-other", "unasked", &json!({})));
    let mut of_node = pod(SHOP, "of-the-node", &json!({}));
    of_node["spec"]["hostNetwork"] = true.into();
    apply(&of_node);

    let warned = release("upgrade", "Ignore");
    assert!(warned.contains("failurePolicy is Ignore"), "{warned}");
    wait::until("they are made without a sidecar", || {
        told(
            &["apply", "--filename", "-"],
            &pod(SHOP, "users", &json!({})).to_string(),
        )
        .status
        .success()
    })
    .await;
    apply(&pod("away-other", "asks", &wishes("enabled")));
    let made = get(&["pod", "users", "--namespace", SHOP]);
    assert_eq!(made["spec"]["initContainers"], json!(null));
    what_cannot_answer_is_not_ready().await;
    missed_are_told_of().await;
    odd_words_are_told_of().await;
    let _said = helm(&["uninstall", "jitney", "--namespace", RELEASED]);
}

/// Whoever replaced a good replica by it would have no pod made that is to have a sidecar.
async fn what_cannot_answer_is_not_ready() {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "jitney-webhook", "namespace": RELEASED},
        "stringData": {"x": "y"},
    });
    apply(&secret);
    let account = "jitney-control-plane";
    let plane = Plane::start(RELEASED, account, &["--webhook-configuration", "jitney"]);
    let admin = plane.address("admin endpoint listening").await.parse().unwrap();
    let told = async |path: &str, expected: &str| {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = caller::get(admin, path).await.unwrap();
            if answer.text().contains(expected) {
                return answer.status;
            }
            assert!(Instant::now() < end, "{path}: {}", answer.text());
            sleep(Duration::from_millis(100)).await;
        }
    };
    assert_eq!(told("/ready", "the webhook has no certificate").await, 503);
    told("/status", "the API server may not believe the webhook").await;
    kubectl(&["delete", "secret", "jitney-webhook", "--namespace", RELEASED]);
    assert_eq!(told("/ready", "ready\n").await, 200);
}

/// Where another mesh's word asks for sidecars nobody gets one, and an Event says which word does.
async fn odd_words_are_told_of() {
    let labels = json!({"jitney.dev/inject": "true"});
    let _odd = Namespace::labelled("away-odd", &labels);
    let wishes = json!({"labels": labels});
    apply(&pod("away-other", "asks-oddly", &wishes));
    let _plane = Plane::start(
        RELEASED,
        "jitney-control-plane",
        &["--webhook-configuration", "jitney"],
    );
    for (namespace, name) in [("default", "away-odd"), ("away-other", "asks-oddly")] {
        wait::until("an Event tells of the word", || {
            let events = get(&["events.events.k8s.io", "--namespace", namespace]);
            let mut events = events["items"].as_array().unwrap().iter();
            let note = "jitney.dev/inject: found \"true\", expected enabled or disabled: nobody gets a sidecar by it";
            events.any(|event| {
                event["regarding"]["name"] == name
                    && event["reason"] == "InjectNotUnderstood"
                    && event["note"] == note
            })
        })
        .await;
    }
}

/// Each by an Event beside it, and all by a metric, once the control plane is back.
async fn missed_are_told_of() {
    let account = "jitney-control-plane";
    let plane = Plane::start(RELEASED, account, &["--webhook-configuration", "jitney"]);
    let admin = plane.address("admin endpoint listening").await.parse().unwrap();
    for (namespace, name) in [(SHOP, "users"), ("away-other", "asks")] {
        wait::until("an Event tells of the pod", || {
            events(namespace)
                .iter()
                .any(|event| event["regarding"]["name"] == name)
        })
        .await;
    }
    let [event] = &events(SHOP)[..] else {
        panic!("{:?}", events(SHOP))
    };
    assert_eq!(
        (&event["type"], &event["action"]),
        (&json!("Warning"), &json!("Inject"))
    );
    let note = event["note"].as_str().unwrap();
    assert!(
        note.contains("no replica of the control plane answered when it was made"),
        "{note}"
    );
    let uid = get(&["pod", "users", "--namespace", SHOP])["metadata"]["uid"].take();
    assert_eq!(event["regarding"]["uid"], uid);

    counted(admin, 2).await;
    kubectl(&[
        "delete",
        "pod",
        "users",
        "--namespace",
        SHOP,
        "--grace-period=0",
        "--force",
    ]);
    counted(admin, 1).await;
    // Made anew it has one, or says that it wants none.
    let merge = r#"{"metadata": {"labels": {"jitney.dev/inject": "disabled"}}}"#;
    kubectl(&[
        "patch",
        "pod",
        "asks",
        "--namespace",
        "away-other",
        "--patch",
        merge,
    ]);
    counted(admin, 0).await;
    let said = plane.said();
    assert!(!said.contains("forbidden"), "{said}");
}

fn events(namespace: &str) -> Vec<Value> {
    let events = get(&["events.events.k8s.io", "--namespace", namespace]);
    let events = events["items"].as_array().unwrap().iter();
    let ours = events.filter(|event| event["reason"] == "SidecarMissing");
    ours.cloned().collect()
}

/// Waits until so many pods are missed, as a scraper hears it.
async fn counted(admin: std::net::SocketAddr, expected: usize) {
    let line = format!("jitney_pods_missed {expected}\n");
    let end = Instant::now() + PATIENCE;
    loop {
        let metrics = caller::get(admin, "/metrics").await.unwrap().text();
        if metrics.contains(&line) {
            return;
        }
        assert!(Instant::now() < end, "not {line}{metrics}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn pod(namespace: &str, name: &str, more: &Value) -> Value {
    let mut metadata = json!({"namespace": namespace, "name": name});
    if let Some(more) = more.as_object() {
        metadata.as_object_mut().unwrap().extend(more.clone());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "users", "image": "users:1"}]},
    })
}
