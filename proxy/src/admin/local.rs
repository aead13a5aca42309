//! Who may change the state of the sidecar: a program on this machine that means to.
//!
//! The peer's address alone does not say that: a web page in a browser on this machine, or a call
//! that some proxy passes on, arrives from the loopback, too.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Lets requests through that only read, and those that may change something.
pub(super) async fn only(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let is_reading = [Method::GET, Method::HEAD].contains(request.method());
    if is_reading || may_change(peer.ip(), request.headers()) {
        return next.run(request).await;
    }
    (
        StatusCode::FORBIDDEN,
        "only from this machine, addressed as such, and not by a web page\n",
    )
        .into_response()
}

fn may_change(peer: IpAddr, headers: &HeaderMap) -> bool {
    let is_named_local = headers
        .get(HOST)
        .is_none_or(|host| host.to_str().is_ok_and(is_local_name));
    peer.to_canonical().is_loopback() && is_named_local && !headers.contains_key(ORIGIN)
}

/// A name that was resolved may lead here from anywhere; an address or `localhost` may not.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, headers: &[(&'static str, &'static str)], allowed: bool) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        assert_eq!(
            may_change(peer.parse().unwrap(), &headers),
            allowed,
            "{peer} {headers:?}"
        );
    }

    #[test]
    fn only_programs_on_this_machine_may_change_anything() {
        check("127.0.0.1", &[("host", "127.0.0.1:9901")], true);
        check("127.0.0.1", &[("host", "localhost:9901")], true);
        check("127.0.0.1", &[("host", "localhost")], true);
        check("127.0.0.1", &[], true);
        check("::1", &[("host", "[::1]:9901")], true);
        check("::ffff:127.0.0.1", &[("host", "127.0.0.1")], true);
        check("10.0.0.7", &[("host", "127.0.0.1:9901")], false);
        check("fe80::1", &[("host", "localhost")], false);
        // A page in a browser on this machine; a name that was made to resolve to it; a proxied call.
        check(
            "127.0.0.1",
            &[("host", "127.0.0.1:9901"), ("origin", "https://evil.example")],
            false,
        );
        check("127.0.0.1", &[("host", "evil.example:9901")], false);
        check("127.0.0.1", &[("host", "users.shop.svc")], false);
    }
}
