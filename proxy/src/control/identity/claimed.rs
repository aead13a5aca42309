//! Whose a token says that it is. Nobody vouches for that here: it is good for a warning, and for nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jitney_api::Workload;
use serde::Deserialize;

/// What is of use in the claims of a Kubernetes token (RFC 7519).
#[derive(Deserialize)]
struct Claims<'c> {
    sub: &'c str,
}

/// The workload that a token names, be it of Kubernetes or of a control plane; `None` when it names none.
pub(super) fn claimed(token: &str) -> Option<Workload> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let (namespace, account) = match serde_json::from_slice(&claims) {
        Ok(Claims { sub }) => sub.strip_prefix("system:serviceaccount:")?.split_once(':')?,
        Err(_) => {
            let mut lines = std::str::from_utf8(&claims).ok()?.lines().skip(1);
            (lines.next()?, lines.next()?)
        }
    };
    format!("{namespace}/{account}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(claims: &str, expected: Option<&str>) {
        let token = format!("v1.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims));
        let found = claimed(&token).map(|workload| workload.to_string());
        assert_eq!(found.as_deref(), expected, "{claims}");
    }

    #[test]
    fn both_kinds_of_tokens_name_a_workload() {
        check("cluster.local\nshop\nusers\n1700000000\nabc", Some("shop/users"));
        check(
            r#"{"iss":"https://k8s","sub":"system:serviceaccount:shop:users"}"#,
            Some("shop/users"),
        );
    }

    #[test]
    fn what_names_nobody_is_nobodys() {
        for claims in [
            "",
            "cluster.local",
            "a\nB C\nusers",
            r#"{"sub":"somebody"}"#,
            "{}",
        ] {
            check(claims, None);
        }
        assert_eq!(claimed("no token at all"), None);
    }
}
