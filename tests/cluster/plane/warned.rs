//! What whoever makes pods is warned of, beside whoever that is: an Event, as a ReplicaSet's controller tells nobody.

use std::process::Command;

use jitney_tests::wait;
use serde_json::{Value, json};

use super::rights::allow_all;
use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::kubectl::{Namespace, fed, get, succeeded};

const NAMESPACE: &str = "warned";

#[tokio::test]
async fn who_makes_pods_is_told_once_what_their_sidecars_may_not_do() {
    let _alone = ALONE.lock().await;
    installed().await;
    let namespace = Namespace::labelled(NAMESPACE, &json!({}));
    allow_all(&namespace);
    let shop = Namespace::labelled("warned-shop", &json!({}));
    shop.apply(json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "users-5d8f"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "users"}},
            "template": {
                "metadata": {"labels": {"app": "users"}},
                "spec": {"containers": [{"name": "users", "image": "users:1"}]},
            },
        },
    }));
    let uid = shop.get("replicaset/users-5d8f")["metadata"]["uid"].take();
    let plane = Plane::start(NAMESPACE, "plane", &["--webhook-configuration", "rights"]);
    let address = plane.address("webhook listening").await;
    let asked = |dns: &str, is_dry: bool| {
        let answer = ask(&address, &uid, dns, is_dry);
        let warnings = answer["response"]["warnings"].as_array().unwrap();
        assert!(warnings[0].as_str().unwrap().contains(dns), "{answer}");
    };
    asked("None", true);
    asked("Default", false);
    asked("Default", false);
    wait::until("an Event tells of it", || !events().is_empty()).await;
    // One after another, so that whatever was told before this is there.
    asked("None", false);
    wait::until("an Event tells of the other", || events().len() > 1).await;
    let found = events();
    let of_default = |event: &&Value| event["note"].as_str().unwrap().contains("\"Default\"");
    let event = found.iter().find(of_default).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(event["regarding"]["kind"], "ReplicaSet", "{event}");
    assert_eq!(event["regarding"]["uid"], uid, "{event}");
    assert_eq!(event["type"], "Warning", "{event}");
    let note = event["note"].as_str().unwrap();
    assert!(
        note.starts_with("of its pods: dnsPolicy: \"Default\" knows no names of the cluster"),
        "{note}"
    );
    assert!(!plane.said().contains("forbidden"), "{}", plane.said());
}

/// As the API server asks about a pod of the ReplicaSet.
fn ask(address: &str, uid: &Value, dns: &str, is_dry: bool) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "users-5d8f", "uid": uid, "controller": true});
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "warned-shop",
            "operation": "CREATE",
            "dryRun": is_dry,
            "object": {
                "metadata": {"generateName": "users-5d8f-", "ownerReferences": [owner]},
                "spec": {"dnsPolicy": dns, "containers": [{"name": "users", "image": "users:1"}]},
            },
        },
    });
    let url = format!("https://{address}/inject");
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--insecure",
        "--max-time",
        "30",
        "--data-binary",
        "@-",
        &url,
    ]);
    serde_json::from_str(&succeeded(fed(&mut curl, &review.to_string()))).unwrap()
}

fn events() -> Vec<Value> {
    let events = get(&["events.events.k8s.io", "--namespace", "warned-shop"]);
    let events = events["items"].as_array().unwrap().iter();
    events
        .filter(|event| event["reason"] == "SidecarWarning")
        .cloned()
        .collect()
}
