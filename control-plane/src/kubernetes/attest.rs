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

/// Whose a token is. One that is bound to a pod is of no use to who calls itself otherwise: statuses tell pods apart by
/// their names.
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
    match pod.filter(|pod| *pod != node) {
        None => Ok(workload),
        Some(pod) => Err(AttestError::Refused {
            reason: format!("node: found {node:?}, and the token is of the pod {pod:?}"),
            workload: Some(workload),
        }),
    }
}

/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// For whom a sidecar's token is made.
const AUDIENCE: &str = "jitney.dev";

/// The longest that the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn told(user: &str, audience: &str) -> Result<String, String> {
        let status = TokenReviewStatus {
            audiences: Some(vec![audience.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                ..UserInfo::default()
            }),
        };
        let workload = workload_of(&status, "any").map_err(|error| error.to_string())?;
        Ok(workload.to_string())
    }

    #[test]
    fn only_service_accounts_with_a_token_for_us_are_known() {
        let users = "system:serviceaccount:shop:users";
        assert_eq!(told(users, "jitney.dev"), Ok("shop/users".to_owned()));
        for (user, audience, expected) in [
            (users, "https://kubernetes.default.svc", "audience"),
            (users, "", "audience"),
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

    #[test]
    fn a_token_of_a_pod_is_good_under_its_name_only() {
        let status = TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:users".to_owned()),
                extra: Some([(POD_NAME.to_owned(), vec!["users-1".to_owned()])].into()),
                ..UserInfo::default()
            }),
        };
        assert_eq!(workload_of(&status, "users-1").unwrap().to_string(), "shop/users");
        let refused = workload_of(&status, "users-2").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "node: found \"users-2\", and the token is of the pod \"users-1\""
        );
        let AttestError::Refused { workload, .. } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(workload.unwrap().to_string(), "shop/users");
    }
}
