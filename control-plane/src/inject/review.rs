//! What the API server asks of a webhook, and what it is told: `admission.k8s.io/v1`, bytes in, JSON out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, Decision, Pod, SettingsArgs};

/// What became of a pod that a webhook was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a sidecar now.
    Injected,
    /// It stays as it is.
    Left,
    /// It is not made, and its author is told why.
    Denied,
    /// What was asked is no question.
    Failed,
}

impl Outcome {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Injected, Self::Left, Self::Denied, Self::Failed];
}

/// A body that is no question.
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    /// It is something else.
    #[error("no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// It is one of another version.
    #[error("found {0:?}, expected an AdmissionReview of {VERSION}")]
    Version(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

/// Answers a question about a pod that is about to be made.
///
/// # Errors
/// When it is none.
pub fn answer(body: &[u8], asked: Asked, settings: &SettingsArgs) -> Result<(Value, Outcome), BadReview> {
    let review: Review = serde_json::from_slice(body)?;
    if (&*review.api_version, &*review.kind) != (VERSION, "AdmissionReview") {
        let found = format!("{} of {}", review.kind, review.api_version);
        return Err(BadReview::Version(found.chars().take(SHOWN_MAX).collect()));
    }
    let (mut response, outcome) = decided(&review.request, asked, settings);
    response["uid"] = review.request.uid.into();
    let answer = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    Ok((answer, outcome))
}

fn decided(request: &Request, asked: Asked, settings: &SettingsArgs) -> (Value, Outcome) {
    let Kind { group, version, kind } = &request.kind;
    let is_new_pod = (&**group, &**version, &**kind) == ("", "v1", "Pod") && request.operation == "CREATE";
    if !is_new_pod {
        return (json!({"allowed": true}), Outcome::Left);
    }
    let called = called(&request.namespace, &request.object["metadata"]);
    let pod = Pod {
        called: &called,
        metadata: &request.object["metadata"],
        spec: &request.object["spec"],
        namespace: &request.namespace,
    };
    match super::inject(pod, asked, settings) {
        Ok(Decision::Inject(injection)) => {
            tracing::debug!(pod = called, "given a sidecar");
            let response = json!({
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": STANDARD.encode(Value::from(injection.patch).to_string()),
                "warnings": injection.warnings,
            });
            (response, Outcome::Injected)
        }
        Ok(Decision::Leave(left)) => {
            tracing::debug!(pod = called, %left, "given no sidecar");
            (json!({"allowed": true}), Outcome::Left)
        }
        Err(refused) => {
            tracing::info!(%refused, "a pod is not made");
            let status = json!({"code": 403, "reason": "Forbidden", "message": refused.to_string()});
            (json!({"allowed": false, "status": status}), Outcome::Denied)
        }
    }
}

/// A pod's namespace and name, as far as it has one yet.
fn called(namespace: &str, metadata: &Value) -> String {
    let text = |field: &str| metadata[field].as_str().filter(|text| !text.is_empty());
    let name = text("name").map(str::to_owned);
    let name = name.or_else(|| text("generateName").map(|start| format!("{start}*")));
    format!("pod {namespace}/{}", name.as_deref().unwrap_or("?"))
}

const VERSION: &str = "admission.k8s.io/v1";
/// Characters of what was found that a message repeats.
const SHOWN_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::tests::settings;

    fn asked(pod: &Value, more: &Value) -> Value {
        let mut review = json!({
            "apiVersion": VERSION,
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": "shop",
                "operation": "CREATE",
                "object": pod,
            },
        });
        json_patch::merge(&mut review, more);
        review
    }

    #[track_caller]
    fn told(review: &Value) -> (Value, Outcome) {
        let (answer, outcome) = answer(review.to_string().as_bytes(), Asked::ForAll, &settings(&[])).unwrap();
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], "705ab4f5");
        (answer["response"].clone(), outcome)
    }

    fn pod(annotations: &Value) -> Value {
        json!({
            "metadata": {"generateName": "users-", "annotations": annotations},
            "spec": {"containers": [{"name": "users"}]},
        })
    }

    #[test]
    fn pod_is_patched() {
        let (response, outcome) = told(&asked(&pod(&json!({"jitney.dev/typo": "1"})), &json!({})));
        assert_eq!(outcome, Outcome::Injected);
        assert_eq!(response["allowed"], true);
        assert_eq!(
            response["warnings"],
            json!(["pod shop/users-*: annotation jitney.dev/typo means nothing to the sidecar"])
        );
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut pod = pod(&json!({}));
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["initContainers"][1]["name"], "jitney-proxy");
    }

    #[test]
    fn pod_is_denied_with_the_reason() {
        let (response, outcome) = told(&asked(&pod(&json!({"jitney.dev/mode": "x"})), &json!({})));
        assert_eq!(outcome, Outcome::Denied);
        let expected = r#"pod shop/users-*: jitney.dev/mode: found "x", expected Redirect or NoRedirect"#;
        let status = json!({"code": 403, "reason": "Forbidden", "message": expected});
        assert_eq!(
            response,
            json!({"uid": "705ab4f5", "allowed": false, "status": status})
        );
    }

    #[test]
    fn all_else_is_let_through() {
        let of = |request: Value| asked(&pod(&json!({})), &json!({"request": request}));
        for review in [
            of(json!({"namespace": "kube-system"})),
            of(json!({"operation": "UPDATE"})),
            of(json!({"kind": {"kind": "Service"}})),
            of(json!({"kind": {"group": "x.dev"}})),
            of(json!({"object": {"metadata": {"annotations": {"jitney.dev/inject": "disabled"}}}})),
        ] {
            let (response, outcome) = told(&review);
            assert_eq!(outcome, Outcome::Left, "{review}");
            assert_eq!(response, json!({"uid": "705ab4f5", "allowed": true}));
        }
    }

    #[test]
    fn whatever_is_no_question_is_told() {
        for (body, expected) in [
            ("", "no AdmissionReview"),
            ("[]", "no AdmissionReview"),
            ("{\"apiVersion\": 1}", "no AdmissionReview"),
            (
                &*asked(&json!({}), &json!({"apiVersion": "admission.k8s.io/v1beta1"})).to_string(),
                "found \"AdmissionReview of admission.k8s.io/v1beta1\"",
            ),
        ] {
            let told = answer(body.as_bytes(), Asked::ForAll, &settings(&[])).unwrap_err();
            assert!(told.to_string().starts_with(expected), "{told}");
        }
    }
}
