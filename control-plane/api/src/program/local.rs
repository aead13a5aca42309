//! Who may change the state of a program: another on this machine that means to.
//!
//! The peer's address alone does not say that: a web page in a browser on this machine, or a call
//! that some proxy passes on, arrives from the loopback, too.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::HOST;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Lets requests through that only read, and those that may change something; 403 to others. A layer of
/// a router that [`serve`](super::serve) serves.
pub async fn only_local(
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
        "only from this machine, to 127.0.0.1, [::1] or localhost, and neither by a web page nor through a proxy\n",
    )
        .into_response()
}

fn may_change(peer: IpAddr, headers: &HeaderMap) -> bool {
    let is_meant = headers
        .get_all(HOST)
        .iter()
        .all(|host| host.to_str().is_ok_and(is_loopback));
    is_meant
        && peer.to_canonical().is_loopback()
        && !TELL_TALES.iter().any(|name| headers.contains_key(*name))
}

/// Whether a host and port are this machine's alone. A page whose name was made to lead here after it was
/// loaded (DNS rebinding) asks its own host.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let is_address = |address: IpAddr| address.to_canonical().is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_address)
}

/// Browsers send one of the first two with every request of a page that is not a plain GET,
/// whatever name the page used to get here; proxies add one of the others.
const TELL_TALES: [&str; 5] = ["origin", "sec-fetch-site", "forwarded", "x-forwarded-for", "via"];

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
        check("127.0.0.1", &[], true);
        check("::1", &[("host", "[::1]:9901")], true);
        check("::ffff:127.0.0.1", &[], true);
        for host in [
            "LocalHost:9901",
            "localhost",
            "127.0.0.2",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
        ] {
            check("127.0.0.1", &[("host", host)], true);
        }
        for host in [
            "evil.example:9901",
            "localhost.evil.example",
            "10.0.0.7:9901",
            "[::1",
            "",
            "[fe80::1]:9901",
        ] {
            check("127.0.0.1", &[("host", host)], false);
        }
        check("10.0.0.7", &[("host", "127.0.0.1:9901")], false);
        check("fe80::1", &[], false);
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "same-origin"),
            ("forwarded", "for=10.0.0.7"),
            ("x-forwarded-for", "10.0.0.7"),
            ("via", "1.1 gateway"),
        ] {
            check("127.0.0.1", &[("host", "localhost"), (name, value)], false);
        }
    }
}
