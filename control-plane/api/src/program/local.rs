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

/// Where an admin endpoint listens; [`serve`](super::serve) gives it to every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServedAt(pub(super) SocketAddr);

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
    let at = request.extensions().get::<ServedAt>().map(|at| at.0);
    (StatusCode::FORBIDDEN, refusal(at)).into_response()
}

/// Why somebody may not, and the way out where nobody may.
fn refusal(at: Option<SocketAddr>) -> String {
    let told = "only from this machine, to 127.0.0.1, [::1] or localhost, and neither by a web page nor through a proxy\n";
    let is_beyond = |at: &SocketAddr| {
        let address = at.ip().to_canonical();
        !address.is_loopback() && !address.is_unspecified()
    };
    let Some(at) = at.filter(is_beyond) else {
        return told.to_owned();
    };
    let (port, all) = (at.port(), if at.is_ipv4() { "0.0.0.0" } else { "[::]" });
    format!(
        "{told}here nobody can, as --admin {at} listens on no address of that kind: start with --admin {all}:{port}, or \
         with 127.0.0.1:{port} if nobody else is to read it\n"
    )
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
    fn an_endpoint_that_nobody_reaches_so_says_the_way_out() {
        for (at, way_out) in [
            ("127.0.0.1:9901", None),
            ("0.0.0.0:9901", None),
            ("[::]:9901", None),
            ("[::ffff:127.0.0.1]:9901", None),
            ("10.78.0.2:15014", Some("--admin 0.0.0.0:15014")),
            ("[fd00::2]:15014", Some("--admin [::]:15014")),
        ] {
            let told = refusal(Some(at.parse().unwrap()));
            assert!(told.starts_with("only from this machine"), "{at}: {told}");
            assert_eq!(told.contains("nobody can"), way_out.is_some(), "{at}: {told}");
            assert!(
                way_out.is_none_or(|way_out| told.contains(way_out) && told.contains(at)),
                "{at}: {told}"
            );
        }
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
