//! Over random routes, policies and calls: whoever has a call by the words of the Gateway API and of GEP-713
//! has it at a sidecar, too.

use std::cmp::Reverse;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// A match, and whether a call has the same.
#[derive(Clone, Debug)]
struct Match {
    path: (&'static str, &'static str),
    method: Option<&'static str>,
    header: bool,
    parameter: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    matches: Vec<Match>,
    has_policy: bool,
}

#[derive(Clone, Debug)]
struct Route {
    /// A second of the same minute; `None`: not known.
    created: Option<u8>,
    rules: Vec<Rule>,
    has_policy: bool,
}

#[derive(Clone, Debug)]
struct Call {
    method: &'static str,
    path: &'static str,
    header: bool,
    parameter: bool,
}

const PATHS: [(&str, &str); 7] = [
    ("Exact", "/a"),
    ("Exact", "/a/b"),
    ("PathPrefix", "/"),
    ("PathPrefix", "/a"),
    ("PathPrefix", "/a/b/"),
    ("RegularExpression", "/a.*"),
    ("RegularExpression", "/(a/)?b"),
];

fn route() -> impl Strategy<Value = Route> {
    let methods = prop::sample::select(vec![None, None, Some("GET"), Some("POST")]);
    let one = (
        prop::sample::select(PATHS.to_vec()),
        methods,
        any::<bool>(),
        any::<bool>(),
    );
    let one = one.prop_map(|(path, method, header, parameter)| Match {
        path,
        method,
        header,
        parameter,
    });
    let rule = (prop::collection::vec(one, 1..4), any::<bool>());
    let rule = rule.prop_map(|(matches, has_policy)| Rule { matches, has_policy });
    let route = (
        prop::option::of(0..3_u8),
        prop::collection::vec(rule, 1..4),
        any::<bool>(),
    );
    route.prop_map(|(created, rules, has_policy)| Route {
        created,
        rules,
        has_policy,
    })
}

fn call() -> impl Strategy<Value = Call> {
    let methods = prop::sample::select(vec!["GET", "POST", "PUT"]);
    let paths = prop::sample::select(vec!["/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/"]);
    let call = (methods, paths, any::<bool>(), any::<bool>());
    call.prop_map(|(method, path, header, parameter)| Call {
        method,
        path,
        header,
        parameter,
    })
}

impl Match {
    fn object(&self) -> Value {
        let field = |is_there: bool, name: &str| match is_there {
            true => json!([{"name": name, "value": "1"}]),
            false => json!([]),
        };
        let (kind, value) = self.path;
        json!({
            "path": {"type": kind, "value": value},
            "method": self.method,
            "headers": field(self.header, "x-beta"),
            "queryParams": field(self.parameter, "v"),
        })
    }

    fn fits(&self, call: &Call) -> bool {
        let below = |prefix: &str| call.path == prefix || call.path.starts_with(&format!("{prefix}/"));
        let path = match self.path {
            ("Exact", path) => call.path == path,
            ("PathPrefix", prefix) => prefix == "/" || below(prefix.trim_end_matches('/')),
            (_, "/a.*") => call.path.starts_with("/a"),
            _ => ["/b", "/a/b"].contains(&call.path),
        };
        let method = self.method.is_none_or(|method| method == call.method);
        path && method && (call.header || !self.header) && (call.parameter || !self.parameter)
    }

    /// Gateway API, in its own words; expressions are between.
    fn precision(&self) -> impl Ord {
        let path = match self.path {
            ("Exact", _) => (2, 0),
            ("PathPrefix", prefix) => (0, prefix.trim_end_matches('/').len()),
            (_, expression) => (1, expression.len()),
        };
        (path, self.method.is_some(), self.header, self.parameter)
    }
}

impl Route {
    fn object(&self, name: &str) -> (RouteKind, Value) {
        let rules = self.rules.iter().enumerate().map(|(index, rule)| {
            let matches: Vec<Value> = rule.matches.iter().map(Match::object).collect();
            json!({"name": format!("rule-{index}"), "matches": matches})
        });
        let (kind, mut object) = super::route(name, &rules.collect());
        let created = self.created.map(|second| format!("2026-01-01T00:00:0{second}Z"));
        object["metadata"]["creationTimestamp"] = json!(created);
        (kind, object)
    }
}

/// Who has a call, by all that fits it.
fn owner(routes: &[Route], with_service: bool, call: &Call) -> String {
    let fitting = routes.iter().enumerate().flat_map(|(number, route)| {
        let rules = route.rules.iter().enumerate();
        rules.flat_map(move |(index, rule)| {
            let fitting = rule.matches.iter().filter(|one| one.fits(call));
            let unknown = route.created.is_none();
            let age = Reverse((unknown, route.created));
            fitting.map(move |one| (one.precision(), age, Reverse(number), Reverse(index)))
        })
    });
    let service = if with_service { "service" } else { "-" };
    let Some((.., Reverse(number), Reverse(index))) = fitting.max() else {
        return service.to_owned();
    };
    if routes[number].rules[index].has_policy {
        format!("rule-{number}-{index}")
    } else if routes[number].has_policy {
        format!("route-{number}")
    } else {
        service.to_owned()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nobody_has_a_call_that_is_anothers(
        routes in prop::collection::vec(route(), 1..4),
        with_service: bool,
        is_outbound: bool,
        calls in prop::collection::vec(call(), 24),
    ) {
        let mut policies = Vec::new();
        if with_service {
            policies.push(("service".to_owned(), service()));
        }
        for (number, route) in routes.iter().enumerate() {
            let name = format!("r-{number}");
            if route.has_policy {
                policies.push((format!("route-{number}"), rule(&name, None)));
            }
            for (index, _) in route.rules.iter().enumerate().filter(|(_, rule)| rule.has_policy) {
                let section = format!("rule-{index}");
                policies.push((format!("rule-{number}-{index}"), rule(&name, Some(&section))));
            }
        }
        let policies: Vec<(&str, Value)> =
            policies.iter().map(|(name, targets)| (name.as_str(), targets.clone())).collect();
        let placement = if is_outbound { "Outbound" } else { "Inbound" };
        let objects = routes.iter().enumerate().map(|(number, route)| route.object(&format!("r-{number}")));
        let catalog = catalog(&[("users", &[("http", 80)])], &objects.collect::<Vec<_>>());
        let all = resources_of(&documents(&policies, placement), &catalog);
        let policy = match is_outbound {
            true => assembled(&all).outbound("shop/users").unwrap().1.policy,
            false => inbound(&all),
        };
        for call in calls {
            let method = Method::from_bytes(call.method.as_bytes()).unwrap();
            let uri = format!("{}{}", call.path, if call.parameter { "?v=1" } else { "" });
            let mut headers = HeaderMap::new();
            if call.header {
                headers.insert("x-beta", HeaderValue::from_static("1"));
            }
            let found = whose(&policy, &method, &uri, &headers);
            prop_assert_eq!(found, owner(&routes, with_service, &call), "{:?}", call);
        }
    }
}
