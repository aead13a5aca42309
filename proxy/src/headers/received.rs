//! What a listener does to the head of each request before anything else sees it: what callers may not
//! claim goes, and what its settings say about them is put in.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{Entry, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, VIA};
use http::{Request, Version};
use jitney_api::{Forwarded, HeaderRules, RequestId};
use smallvec::SmallVec;

use super::{list, plain, strip_trailers};
use crate::error::{Error, ErrorKind};

/// What a listener does to heads. By default it only removes what belongs to the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received(HeaderRules);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Of `x-jitney-*`, what a caller may say, and what another sidecar does.
const SPOKEN: [&[u8]; 2] = [b"x-jitney-batch", b"x-jitney-batch-size"];

/// A request that passed one listener so often goes round in a loop. More than once, as a service may call
/// others through the sidecar that it was called through, with the fields that it was called with.
const LOOP: usize = 5;

impl From<HeaderRules> for Received {
    fn from(rules: HeaderRules) -> Self {
        Self(rules)
    }
}

impl Received {
    /// Does all that to a request of this caller.
    ///
    /// # Errors
    /// [`ErrorKind::Loop`] for one that goes round in a loop.
    pub(crate) fn treat<B>(&self, request: &mut Request<B>, peer: SocketAddr) -> Result<(), Error> {
        remove(request.headers_mut(), is_of_the_mesh);
        if let Some(name) = &self.0.via {
            enter(request, name.as_str())?;
        }
        match self.0.forwarded {
            Forwarded::Keep => {}
            Forwarded::Append => append_forwarded(request, peer),
            Forwarded::Replace => {
                remove(request.headers_mut(), tells_of_the_caller);
                append_forwarded(request, peer);
            }
            Forwarded::Remove => remove(request.headers_mut(), tells_of_the_caller),
        }
        if self.0.request_id == RequestId::Make
            && let Entry::Vacant(id) = request.headers_mut().entry(X_REQUEST_ID)
            && let Ok(made) = HeaderValue::try_from(request_id())
        {
            id.insert(made);
        }
        Ok(())
    }
}

/// Removes from the trailers of a request what no caller may say, and what tells of callers, whatever the listener does
/// to that in heads: some upstreams add trailers to the head, where it would come last and so be believed. It has
/// no place there (RFC 9110 section 6.5.1). What is about one connection goes, too.
pub(crate) fn treat_trailers(trailers: &mut HeaderMap) {
    strip_trailers(trailers);
    remove(trailers, |name| is_of_the_mesh(name) || tells_of_the_caller(name));
}

/// Removes all fields whose names are such.
fn remove(headers: &mut HeaderMap, is_such: fn(&str) -> bool) {
    let found = headers.keys().filter(|name| is_such(name.as_str())).cloned();
    // A head without any is the common one.
    let found: SmallVec<[HeaderName; 4]> = found.collect();
    for name in &found {
        headers.remove(name);
    }
}

/// True for `x-jitney-*` that no caller may say, however some upstreams spell it.
fn is_of_the_mesh(name: &str) -> bool {
    name.len() > 9 && name.starts_with('x') && {
        let plain = plain(name);
        plain.starts_with(b"x-jitney-") && !SPOKEN.contains(&name.as_bytes())
    }
}

fn tells_of_the_caller(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'x' | b'f')) && {
        let plain = plain(name);
        plain.starts_with(b"x-forwarded-") || matches!(&*plain, b"forwarded" | b"x-real-ip")
    }
}

/// Adds this listener to `Via`.
fn enter<B>(request: &mut Request<B>, name: &str) -> Result<(), Error> {
    let headers = request.headers();
    let entries = headers.get_all(VIA).iter().flat_map(list);
    // received-protocol, white space, received-by, perhaps a comment.
    let by = |entry: &[u8]| {
        let mut words = entry
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        words
            .nth(1)
            .is_some_and(|by| by.eq_ignore_ascii_case(name.as_bytes()))
    };
    if entries.filter(|entry| by(entry)).count() >= LOOP {
        return Err(ErrorKind::Loop.into());
    }
    let version = match request.version() {
        Version::HTTP_09 | Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    add_element(request.headers_mut(), &VIA, &format!("{version} {name}"));
    Ok(())
}

/// Says what this listener saw, behind what others said.
fn append_forwarded<B>(request: &mut Request<B>, peer: SocketAddr) {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let host = authority.and_then(|authority| HeaderValue::try_from(authority).ok());
    let host = host.or_else(|| request.headers().get(HOST).cloned());
    let headers = request.headers_mut();
    let peer = peer.ip().to_canonical();
    if headers.contains_key(FORWARDED) {
        let element = match peer {
            IpAddr::V4(peer) => format!("for={peer};proto=http"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\";proto=http"),
        };
        add_element(headers, &FORWARDED, &element);
    }
    add_element(headers, &X_FORWARDED_FOR, &peer.to_string());
    // Connections are taken in without TLS.
    let proto = headers.entry(X_FORWARDED_PROTO);
    proto.or_insert_with(|| HeaderValue::from_static("http"));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

/// Adds an element to a list, which is one line from then on: many read only the first, or only the last.
fn add_element(headers: &mut HeaderMap, name: &HeaderName, element: &str) {
    let mut line = Vec::new();
    for value in headers.get_all(name) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(element.as_bytes());
    if let Ok(line) = HeaderValue::from_maybe_shared(bytes::Bytes::from(line)) {
        headers.insert(name, line);
    }
}

/// A UUID of version 4 that no other request has: numbers under a hash whose key is this process's.
fn request_id() -> String {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (KEY.hash_one((0_u8, number)), KEY.hash_one((1_u8, number)));
    let mut text = String::with_capacity(36);
    // Writing to a String does not fail.
    let _written = write!(
        text,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of a request that came with these, sorted, after `rules`, given as JSON.
    #[track_caller]
    fn treated(rules: &str, fields: &[(&'static str, &str)]) -> Result<Vec<String>, ErrorKind> {
        let rules: HeaderRules = serde_json::from_str(rules).unwrap();
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let peer = "[::ffff:192.0.2.7]:999".parse().unwrap();
        let treated = Received::from(rules).treat(&mut request, peer);
        treated.map_err(|error| error.kind())?;
        let fields = request.headers().iter();
        let mut fields: Vec<String> = fields
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        Ok(fields)
    }

    const CLAIMS: [(&str, &str); 8] = [
        ("host", "shop"),
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x_forwarded_host", "elsewhere"),
        ("x-forwarded-client-cert", "By=admin"),
        ("x-real-ip", "10.0.0.1"),
    ];

    #[test]
    fn what_belongs_to_the_mesh_is_removed_always() {
        let fields = [
            ("x-jitney-batch", "never"),
            ("x-jitney-batch-size", "3"),
            ("x-jitney-client-id", "spiffe://admin"),
            ("x_jitney_client_id", "spiffe://admin"),
            ("x.jitney.client.id", "spiffe://admin"),
            ("x!jitney~client|id", "spiffe://admin"),
            ("x-jitneys", "1"),
        ];
        assert_eq!(
            treated("{}", &fields).unwrap(),
            ["x-jitney-batch-size: 3", "x-jitney-batch: never", "x-jitneys: 1"]
        );
    }

    #[test]
    fn forwarded_is_kept_by_default_and_otherwise_as_the_rules_say() {
        assert_eq!(treated("{}", &CLAIMS).unwrap().len(), CLAIMS.len());
        assert_eq!(
            treated(r#"{"forwarded": "Append"}"#, &CLAIMS).unwrap(),
            [
                "forwarded: for=10.0.0.1, for=192.0.2.7;proto=http",
                "host: shop",
                "x-forwarded-client-cert: By=admin",
                "x-forwarded-for: 10.0.0.1, 10.0.0.2, 192.0.2.7",
                "x-forwarded-host: shop",
                "x-forwarded-proto: https",
                "x-real-ip: 10.0.0.1",
                "x_forwarded_host: elsewhere",
            ]
        );
        assert_eq!(
            treated(r#"{"forwarded": "Replace"}"#, &CLAIMS).unwrap(),
            [
                "host: shop",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop",
                "x-forwarded-proto: http",
            ]
        );
        assert_eq!(
            treated(r#"{"forwarded": "Remove"}"#, &CLAIMS).unwrap(),
            ["host: shop"]
        );
    }

    #[test]
    fn trailers_tell_nothing_of_callers() {
        let mut trailers: HeaderMap = CLAIMS
            .iter()
            .chain(&[("x-jitney-client-id", "spiffe://admin"), ("x-sum", "1")])
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        treat_trailers(&mut trailers);
        let left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-sum"]);
    }

    #[test]
    fn a_request_id_is_made_once_and_never_replaced() {
        assert_eq!(treated("{}", &[]).unwrap(), [""; 0]);
        let rules = r#"{"requestId": "Make"}"#;
        assert_eq!(
            treated(rules, &[("x-request-id", "a")]).unwrap(),
            ["x-request-id: a"]
        );
        let made = [0, 1].map(|_| treated(rules, &[]).unwrap().remove(0));
        assert_ne!(made[0], made[1]);
        let id = made[0].strip_prefix("x-request-id: ").unwrap();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert!(id[14..].starts_with('4') && "89ab".contains(&id[19..20]), "{id}");
    }

    #[test]
    fn who_passes_too_often_goes_round_in_a_loop() {
        let rules = r#"{"via": "edge"}"#;
        assert_eq!(treated(rules, &[]).unwrap(), ["via: 1.1 edge"]);
        let passed = |times| vec!["2 Edge (of the city)"; times].join(",1.1 edges , ");
        let four = treated(rules, &[("via", "1.1 other"), ("via", &passed(4))]).unwrap();
        assert!(four[0].ends_with("(of the city), 1.1 edge"), "{four:?}");
        assert_eq!(
            treated(rules, &[("via", &passed(5))]).unwrap_err(),
            ErrorKind::Loop
        );
        assert_eq!(
            treated("{}", &[("via", &passed(9))]).unwrap().len(),
            1,
            "not asked to look"
        );
    }
}
