//! Which route matches which head.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use super::*;
use crate::codec::JsonRpc;
use crate::policy::{Policy, Traffic};

/// A route for tests, on which everything is as by default.
pub(crate) fn sample(name: &str, matches: Vec<RouteMatch>) -> Route {
    Route {
        id: RouteId(0),
        name: name.into(),
        policy: name.into(),
        generation: 1,
        matches,
        codec: AnyCodec::JsonRpc(JsonRpc),
        mode: Mode::Active,
        limits: Arc::new(Limits::default()),
        key: KeyRules::default(),
        on_failure: OnFailure::default(),
        timeouts: Timeouts::default(),
        priority_header: None,
    }
}

#[track_caller]
fn template(text: &str) -> PathMatch {
    PathMatch::Template(Template::parse(text).expect("a template"))
}

fn regex(text: &str) -> PathMatch {
    PathMatch::RegularExpression(full_match(text).expect("an expression"))
}

/// The captures as `name=value,…`, or `-` when the path does not match.
#[track_caller]
fn check(path_match: &PathMatch, path: &str, expected: &str) {
    let found = match path_match.captures(path) {
        Some(captures) => captures
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(","),
        None => "-".to_owned(),
    };
    assert_eq!(found, expected, "{path_match:?} on {path:?}");
}

#[test]
fn exact_paths_are_equal_bytes() {
    let exact = PathMatch::Exact("/a/b".into());
    check(&exact, "/a/b", "");
    for other in ["/a/b/", "/a", "/A/b", "/a/%62", "/a//b"] {
        check(&exact, other, "-");
    }
}

#[test]
fn prefixes_are_whole_segments() {
    for prefix in [PathMatch::prefix("/a"), PathMatch::prefix("/a/")] {
        for path in ["/a", "/a/", "/a/b", "/a//"] {
            check(&prefix, path, "");
        }
        for path in ["/ab", "/", "/b/a", "/A"] {
            check(&prefix, path, "-");
        }
    }
    check(&PathMatch::default(), "/", "");
    check(&PathMatch::default(), "/anything/at/all", "");
    check(&PathMatch::default(), "*", "-");
}

#[test]
fn variables_are_raw_and_never_cross_a_slash() {
    let users = template("/users/{id}");
    check(&users, "/users/7", "id=7");
    check(&users, "/users/a%2Fb%20c", "id=a%2Fb%20c");
    check(&users, "/users/a,b;c=1", "id=a,b;c=1");
    for path in [
        "/users/",
        "/users",
        "/users/7/",
        "/users/7/x",
        "/Users/7",
        "//users/7",
    ] {
        check(&users, path, "-");
    }
    let two = template("/v1/{project}/models/{model}:predict");
    check(&two, "/v1/p/models/m:predict", "project=p,model=m");
    check(&two, "/v1/p/models/a:b:predict", "project=p,model=a:b");
    for path in [
        "/v1/p/models/:predict",
        "/v1/p/models/m",
        "/v1//models/m:predict",
        "/v1/p/x/m:predict",
    ] {
        check(&two, path, "-");
    }
    check(&template("/v{major}/x"), "/v2/x", "major=2");
    check(&template("/plain"), "/plain", "");
    check(&template("/plain"), "/plain/", "-");
    check(&template("/t/{id}/"), "/t/7/", "id=7");
    check(&template("/t/{id}/"), "/t/7", "-");
}

#[test]
fn dot_segments_are_no_values() {
    for dots in [".", "..", "%2e", "%2E.", ".%2e", "%2e%2E"] {
        check(&template("/users/{id}"), &format!("/users/{dots}"), "-");
    }
    for name in ["...", ".a", "a.", "%2f", "%2e%2e%2e"] {
        check(
            &template("/users/{id}"),
            &format!("/users/{name}"),
            &format!("id={name}"),
        );
    }
}

#[test]
fn templates_that_would_guess_are_refused() {
    for (text, expected) in [
        ("users/{id}", TemplateError::Relative),
        ("/users/{id", TemplateError::Brace),
        ("/users/id}", TemplateError::Brace),
        ("/users/{}", TemplateError::Name(String::new())),
        ("/users/{a-b}", TemplateError::Name("a-b".into())),
        ("/users/{a}/{a}", TemplateError::Twice("a".into())),
        ("/users/{a}{b}", TemplateError::Crowded),
        ("/users/{a}-{b}", TemplateError::Crowded),
        ("/users/{a}?x", TemplateError::Character('?')),
        ("/users/ü", TemplateError::Character('ü')),
    ] {
        assert_eq!(Template::parse(text), Err(expected), "{text}");
    }
}

#[test]
fn expressions_fit_the_whole_value() {
    let ids = regex("/users/[0-9]+|/x");
    check(&ids, "/users/12", "");
    check(&ids, "/x", "");
    for path in ["/users/12/", "/a/users/12", "/xy", "/users/12\n"] {
        check(&ids, path, "-");
    }
    full_match("a)|(b").expect_err("no expression on its own");
    full_match("(?x) a # comment").expect_err("a comment would swallow the group's end");
    full_match("(a{1000}){1000}").expect_err("too large");
}

#[test]
fn first_match_wins_and_all_parts_of_a_match_must_fit() {
    let get = |path| RouteMatch {
        method: Some(Method::GET),
        path,
        ..RouteMatch::default()
    };
    let beta = RouteMatch {
        headers: vec![HeaderMatch {
            name: HeaderName::from_static("x-beta"),
            value: ValueMatch::Exact("yes".into()),
        }],
        query: vec![
            QueryMatch {
                name: "v".into(),
                value: ValueMatch::RegularExpression(full_match("[23]").unwrap()),
            },
            QueryMatch {
                name: "debug".into(),
                value: ValueMatch::Present,
            },
        ],
        ..get(template("/users/{id}"))
    };
    let routes = vec![
        Arc::new(sample("p/beta", vec![beta])),
        Arc::new(sample("p/me", vec![get(PathMatch::Exact("/users/me".into()))])),
        Arc::new(sample("p/user", vec![get(template("/users/{id}"))])),
    ];
    let policy = Policy::new(1, Traffic::default(), routes);
    let find = |method: Method, uri: &'static str, beta: &[&'static str]| {
        let uri = Uri::from_static(uri);
        let mut headers = HeaderMap::new();
        for value in beta {
            headers.append("x-beta", http::HeaderValue::from_static(value));
        }
        let head = Head {
            method: &method,
            uri: &uri,
            headers: &headers,
        };
        policy.route(&head).map(|matched| matched.route.name.to_string())
    };
    for (method, uri, headers, expected) in [
        (Method::GET, "/users/me", &[][..], Some("p/me")),
        (Method::GET, "/users/7", &[], Some("p/user")),
        (Method::POST, "/users/7", &[], None),
        (Method::GET, "/", &[], None),
        (Method::GET, "/users/me?v=2&debug", &["no", "yes"], Some("p/beta")),
        (Method::GET, "/users/7?debug=&v=3", &["yes"], Some("p/beta")),
        (Method::GET, "/users/7?debug&v=4", &["yes"], Some("p/user")),
        (Method::GET, "/users/7?v=4&v=3&debug", &["yes"], Some("p/user")),
        (Method::GET, "/users/7?v=3", &["yes"], Some("p/user")),
        (Method::GET, "/users/7?v=3&debug", &["yes, no"], Some("p/user")),
    ] {
        assert_eq!(
            find(method.clone(), uri, headers).as_deref(),
            expected,
            "{method} {uri} {headers:?}"
        );
    }
}
