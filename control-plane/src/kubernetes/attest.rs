//! A service account's token shows whose sidecar one is: the API server tells, and nobody else can.

use std::time::Duration;

use jitney_api::Workload;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tonic::async_trait;

use crate::identity::{Attest, AttestError, KeyHash};

/// Asks the API server about tokens. Only those are good that were made for sidecars: others lie around in
/// every pod, and are shown to anybody.
#[derive(Clone)]
pub struct TokenReviews {
    reviews: Api<TokenReview>,
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").finish_non_exhaustive()
    }
}

impl TokenReviews {
    /// Over this connection.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
        }
    }
}

#[async_trait]
impl Attest for TokenReviews {
    /// The token may be shown again: a sidecar that starts anew has the same one for an hour.
    async fn workload(&self, token: &str, _: &KeyHash, node: &str) -> Result<Workload, AttestError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let asked = self.reviews.create(&parameters, &review);
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "the API server does not tell whose a token is");
            AttestError::Unavailable("token: the API server does not tell whose it is".into())
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let review = answer.map_err(|late| unavailable(&late))?;
        let review = review.map_err(|error| unavailable(&error))?;
        workload_of(&review.status.unwrap_or_default(), node)
    }

    fn way_out(&self, _: Option<&Workload>) -> String {
        format!(
            "its pod's sidecar shows a token of the pod's account for the audience {AUDIENCE}, which kubelet renews"
        )
    }
}

/// Whose a token is. One that is bound to a pod is of no use to who calls itself otherwise, and one that is bound to none
/// to who calls itself as a pod may be called: statuses tell pods apart by their names, and a pod that is not there may come.
fn workload_of(status: &TokenReviewStatus, node: &str) -> Result<Workload, AttestError> {
    let refused = |reason: String| AttestError::Refused {
        reason,
        workload: None,
    };
    if status.authenticated != Some(true) {
        let error = status.error.as_deref().unwrap_or("it is not one of this cluster");
        return Err(refused(format!("token: {error}")));
    }
    // An API server that knows no audiences would take any token.
    let is_for_us = status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == AUDIENCE);
    if !is_for_us {
        return Err(refused(format!("token: not for the audience {AUDIENCE}")));
    }
    let info = status.user.as_ref();
    let user = info.and_then(|user| user.username.as_deref()).unwrap_or_default();
    let account = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let workload = account.and_then(|(namespace, account)| format!("{namespace}/{account}").parse().ok());
    let workload: Workload =
        workload.ok_or_else(|| refused(format!("token: {user:?} is no service account")))?;
    let extra = info.and_then(|user| user.extra.as_ref());
    let pod = extra.and_then(|extra| extra.get(POD_NAME)?.first());
    let (reason, way_out) = match pod {
        Some(pod) if pod == node => return Ok(workload),
        Some(pod) => (
            format!("node: found {node:?}, and the token is of the pod {pod:?}"),
            "a pod's sidecar is called as its pod is: --node \"$(POD_NAME)\"".to_owned(),
        ),
        None if !may_be_a_pods(node) => return Ok(workload),
        None => (
            format!("node: found {node:?}, which may be a pod's name, and the token is bound to no pod"),
            format!(
                "a sidecar outside of pods has a --node that no pod can have, such as {OUTSIDE}{node}; a pod's shows the \
                 token that kubelet mounts, or one of `kubectl create token --bound-object-kind Pod`"
            ),
        ),
    };
    Err(AttestError::Misnamed {
        reason,
        way_out,
        workload,
    })
}

/// Whether a pod can be called so: a subdomain in DNS (RFC 1123), as the API server wants it.
fn may_be_a_pods(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let has_ends = ends.into_iter().all(|end| end.copied().is_some_and(is_inner));
        has_ends && bytes.iter().all(|byte| is_inner(*byte) || *byte == b'-')
    };
    name.len() <= POD_NAME_BYTES && name.split('.').all(is_label)
}

/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// The longest name of a pod.
const POD_NAME_BYTES: usize = 253;

/// What a name may begin with that is no pod's.
const OUTSIDE: &str = "outside/";

/// For whom a sidecar's token is made.
const AUDIENCE: &str = "jitney.dev";

/// The longest that the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    /// Of a token that is good for this audience, and bound to this pod.
    fn good(user: &str, audience: &str, pod: Option<&str>) -> TokenReviewStatus {
        TokenReviewStatus {
            audiences: Some(vec![audience.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: pod.map(|pod| [(POD_NAME.to_owned(), vec![pod.to_owned()])].into()),
                ..UserInfo::default()
            }),
        }
    }

    fn told(user: &str, audience: &str) -> Result<String, String> {
        let workload = workload_of(&good(user, audience, Some("any")), "any");
        let workload = workload.map_err(|error| error.to_string())?;
        Ok(workload.to_string())
    }

    const USERS: &str = "system:serviceaccount:shop:users";

    #[test]
    fn only_service_accounts_with_a_token_for_us_are_known() {
        assert_eq!(told(USERS, "jitney.dev"), Ok("shop/users".to_owned()));
        for (user, audience, expected) in [
            (USERS, "https://kubernetes.default.svc", "audience"),
            (USERS, "", "audience"),
            ("kubernetes-admin", "jitney.dev", "no service account"),
            ("system:serviceaccount:shop", "jitney.dev", "no service account"),
            (
                "system:serviceaccount:shop:a:b",
                "jitney.dev",
                "no service account",
            ),
        ] {
            let fault = told(user, audience).unwrap_err();
            assert!(fault.contains(expected), "{user} {audience}: {fault}");
        }
        let none = workload_of(&TokenReviewStatus::default(), "any")
            .unwrap_err()
            .to_string();
        assert!(none.contains("not one of this cluster"), "{none}");
    }

    /// What is said of a name with a token of this pod, or of none.
    #[track_caller]
    fn misnamed(pod: Option<&str>, node: &str) -> String {
        let refused = workload_of(&good(USERS, AUDIENCE, pod), node).unwrap_err();
        let AttestError::Misnamed { workload, .. } = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!(workload.to_string(), "shop/users");
        refused.to_string()
    }

    #[test]
    fn a_token_of_a_pod_is_good_under_its_name_only() {
        let status = good(USERS, AUDIENCE, Some("users-1"));
        assert_eq!(workload_of(&status, "users-1").unwrap().to_string(), "shop/users");
        for node in ["users-2", "outside/users-1", ""] {
            let told = misnamed(Some("users-1"), node);
            let expected = format!("node: found {node:?}, and the token is of the pod \"users-1\"; ");
            assert!(told.starts_with(&expected) && told.contains("--node"), "{told}");
        }
    }

    #[test]
    fn a_token_of_no_pod_is_good_under_names_that_no_pod_can_have() {
        let status = good(USERS, AUDIENCE, None);
        let longest = "a".repeat(POD_NAME_BYTES);
        for node in ["users-1", "users", "0", "laptop.example.org", &longest] {
            let told = misnamed(None, node);
            let expected = format!(
                "node: found {node:?}, which may be a pod's name, and the token is bound to no pod; "
            );
            assert!(told.starts_with(&expected), "{told}");
            assert!(told.contains(&format!("such as outside/{node};")), "{told}");
        }
        let too_long = "a".repeat(POD_NAME_BYTES + 1);
        let free = [
            "outside/users-1",
            "laptop/127.0.0.1:8080",
            "Users",
            "users_1",
            "-users",
            "users.",
            "",
            &too_long,
        ];
        for node in free {
            assert_eq!(
                workload_of(&status, node).unwrap().to_string(),
                "shop/users",
                "{node:?}"
            );
        }
    }
}
