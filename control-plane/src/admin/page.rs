//! The page: one without any outside asset, which reads `/status`.

use std::hash::{BuildHasher, RandomState};

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

/// Serves the page. Its script may run by a number that is new each time, so that text which found
/// its way into the page could not; and the script writes text, never markup.
pub(super) async fn page() -> Response {
    let nonce = format!("{:016x}{:016x}", random(), random());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, PAGE.replace("{{nonce}}", &nonce)).into_response()
}

/// Each hasher state starts from random keys of the system.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

const PAGE: &str = include_str!("page.html");
