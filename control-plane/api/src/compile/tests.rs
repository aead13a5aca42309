//! Policies as text, and what is made or said of them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use jitney_core::batch::{Dispatch, Order};
use jitney_core::codec::Codec;
use jitney_core::key::Sharing;
use jitney_core::policy as core;
use jitney_core::route::Head;

use super::*;
use crate::Sources;

/// The policy of DESIGN, with every field there is.
const FULL: &str = r#"
apiVersion: jitney.dev/v1alpha1
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs:
  - {group: "", kind: Service, name: users, sectionName: http}
  mode: Active
  placement: Inbound
  routes:
  - name: user-by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
    batch: {maxSize: 64, maxBytes: 1Mi, timeout: 0s, dispatch: Adaptive, order: Fifo, maxQueueSize: 1024, maxQueueBytes: 16Mi, queueTimeout: 2s}
    key: {identity: Strict, includeHeaders: [], ignoreHeaders: [user-agent]}
    onFailure: {replay: Idempotent, isolate: Bisect}
  traffic:
    timeouts: {request: 10s, perTry: 2s}
    retry: {attempts: 2, on: [connect-failure, "503"], budget: {ratio: 0.2, minPerSecond: 10}}
    loadBalancer: {type: PeakEwma}
    circuitBreaker: {maxRequests: 1024, consecutiveFailures: 7, successRate: 0.8}
    rateLimit: {requestsPerSecond: 500, per: identity}
  rollout: {percent: 100}
"#;

const SHORT: &str = r#"
kind: BatchPolicy
metadata: {name: users}
spec:
  mode: Active
  routes:
  - match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
"#;

fn read(text: &str) -> Documents {
    Documents::read(&Sources::inline("p.yaml", text))
}

#[track_caller]
fn upstream(text: &str) -> Arc<Policy> {
    match compile_for_upstream(&read(text)) {
        Ok(compiled) => compiled.policy,
        Err(faults) => panic!("{}", lines(&faults)),
    }
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .map(|diagnostic| format!("{diagnostic}\n"))
        .collect()
}

/// Everything that `check` says of a text.
#[track_caller]
fn says(text: &str, expected: &str) {
    assert_eq!(lines(&check(&read(text))), expected, "{text}");
}

/// A policy of one route, in block style so that lines can be told apart.
fn with_route(route: &str) -> String {
    format!("kind: BatchPolicy\nmetadata: {{name: p}}\nspec:\n  routes:\n{route}")
}

#[test]
fn the_policy_of_the_design_is_taken_whole() {
    let policy = upstream(FULL);
    let [route] = policy.routes() else {
        panic!("one route")
    };
    assert_eq!((&*route.name, &*route.policy), ("users/user-by-id", "users"));
    // The length of a target is what caps a batch of GETs.
    let max_bytes = route.codec.max_bytes().unwrap();
    assert!(max_bytes < 8192);
    assert_eq!(
        *route.limits,
        jitney_core::batch::Limits {
            max_bytes,
            ..Default::default()
        }
    );
    assert_eq!(route.codec.name(), "keyedGet");
    assert_eq!(route.codec.item_variable(), Some("id"));
    assert_eq!(route.key.ignored(), ["user-agent"]);
    assert_eq!(route.timeouts.per_try, Some(Duration::from_secs(2)));
    assert_eq!(policy.traffic.timeouts.request, Some(Duration::from_secs(10)));
    let retry = policy.traffic.retry.as_ref().unwrap();
    assert!(retry.on.connect_failure && !retry.on.reset);
    assert_eq!(retry.on.statuses, [http::StatusCode::SERVICE_UNAVAILABLE]);
    assert_eq!(policy.traffic.rate_limit.unwrap().per, core::RatePer::Identity);
}

#[test]
fn the_shortest_policy_has_the_defaults() {
    let policy = upstream(SHORT);
    let [route] = policy.routes() else {
        panic!("one route")
    };
    assert_eq!(&*route.name, "users/0");
    assert_eq!(route.mode, core::Mode::Active);
    assert_eq!(
        (route.limits.max_size, route.limits.max_queue_bytes),
        (64, 16 << 20)
    );
    assert_eq!(route.on_failure, core::OnFailure::default());
    assert_eq!(route.key.sharing(), Sharing::Strict);
    assert_eq!(route.timeouts, core::Timeouts::default());
    assert_eq!(policy.traffic, core::Traffic::default());
    let (method, headers) = (Method::GET, HeaderMap::new());
    let find = |uri| {
        let uri = Uri::from_static(uri);
        policy
            .route(&Head {
                method: &method,
                uri: &uri,
                headers: &headers,
            })
            .map(|found| found.captures.len())
    };
    assert_eq!(find("/users/7"), Some(1));
    assert_eq!(find("/users"), None);
}

#[test]
fn every_setting_reaches_the_core() {
    let policy = upstream(&with_route(
        "  - name: a
    match:
      method: POST
      path: {type: RegularExpression, value: '/v[0-9]+/.*'}
      headers: [{name: X-A, value: b}, {type: Present, name: x-b}]
      queryParams: [{type: RegularExpression, name: q, value: '[ab]'}]
    codec: {preset: openai-embeddings}
    batch: {maxSize: 8, maxBytes: 64k, timeout: 2ms, dispatch: Fixed, order: Priority, priorityHeader: X-Class,
      maxQueueSize: 9, maxQueueBytes: 65000, queueTimeout: 1m}
    key: {identity: Shared, includeHeaders: [Cookie], ignoreHeaders: [X-Forwarded-For]}
    onFailure: {isolate: Singles}
  mode: Shadow
  traffic:
    timeouts: {request: 0s, perTry: 1s}
    retry: {on: [5xx, reset, 429]}
    loadBalancer: {type: ConsistentHash, header: X-User}
    rateLimit: {requestsPerSecond: 0.5}
",
    ));
    let [route] = policy.routes() else {
        panic!("one route")
    };
    assert_eq!(route.mode, core::Mode::Shadow);
    assert_eq!((route.limits.max_size, route.limits.max_bytes), (8, 64_000));
    assert_eq!(
        (route.limits.dispatch, route.limits.order),
        (Dispatch::Fixed, Order::Priority)
    );
    assert_eq!(
        (route.limits.timeout, route.limits.queue_timeout),
        (Duration::from_millis(2), Duration::from_secs(60))
    );
    assert_eq!(
        (route.limits.max_queue_size, route.limits.max_queue_bytes),
        (9, 65_000)
    );
    assert_eq!(route.priority_header.as_ref().unwrap(), "x-class");
    assert_eq!(route.key.sharing(), Sharing::Shared);
    assert_eq!(
        (route.key.included()[0].as_str(), route.key.ignored()[0].as_str()),
        ("cookie", "x-forwarded-for")
    );
    let expected = core::OnFailure {
        replay: core::Replay::Declared,
        isolate: core::Isolate::Singles,
    };
    assert_eq!(route.on_failure, expected, "an inference preset declares replay");
    assert!(route.codec.all_or_nothing());
    assert_eq!(
        policy.traffic.timeouts,
        core::Timeouts {
            request: None,
            per_try: Some(Duration::from_secs(1))
        }
    );
    let retry = policy.traffic.retry.as_ref().unwrap();
    assert_eq!(
        (retry.attempts, retry.on.statuses.len(), retry.on.connect_failure),
        (2, 101, false)
    );
    assert_eq!(
        policy.traffic.load_balancer,
        core::LoadBalancer::ConsistentHash {
            header: http::HeaderName::from_static("x-user")
        }
    );
}

#[test]
fn all_faults_of_a_file_are_told_at_once_with_their_places() {
    says(
        "kind: BatchPolicy
metadata: {name: Users}
spec:
  mode: On
  tragetRefs: []
  routes:
  - name: a
    match: {method: get, path: {type: Template, value: '/users/{id'}}
    codec: {keyedget: {}}
  - name: a
    codec:
      preset: kserve-v2
    batch: {maxSize: 0, maxBytes: 1MB, timeout: 5, queueTimeout: soon}
  - match: {path: {type: Template, value: '/users/{id}'}}
    codec:
      keyedGet:
        batchPath: /users
        key: id
    onFailure: {replay: always}
  traffic:
    retry: {attempts: many, on: [503, sometimes]}
",
        "p.yaml:2:18: metadata.name: found \"Users\", expected lower-case letters, digits, '-' and '.', with a \
letter or digit at both ends
p.yaml:4:9: spec.mode: found \"On\", expected one of Active, Shadow, Disabled
p.yaml:5:3: spec.tragetRefs: unknown field (did you mean targetRefs?); expected one of targetRefs, mode, \
placement, routes, traffic, rollout
p.yaml:8:21: spec.routes[0].match.method: found \"get\", expected a method in capitals, such as GET or POST
p.yaml:8:56: spec.routes[0].match.path.value: found \"/users/{id\": has a brace without its counterpart
p.yaml:9:13: spec.routes[0].codec.keyedget: unknown field (did you mean keyedGet?); expected one of preset, \
jsonArray, jsonRpc, keyedGet
p.yaml:10:11: spec.routes[1].name: found the name \"a\" a second time, expected one of its own
p.yaml:12:15: spec.routes[1].codec.preset: found \"kserve-v2\", expected one of kserve-v1, tf-serving, \
openai-embeddings, tei-embed (did you mean kserve-v1?)
p.yaml:13:22: spec.routes[1].batch.maxSize: found 0, expected 1 to 65536
p.yaml:13:35: spec.routes[1].batch.maxBytes: found \"1MB\", expected a number of bytes such as 500, 64k or 1Mi
p.yaml:13:49: spec.routes[1].batch.timeout: found 5, expected a duration with its unit, such as 2ms, 10s or 1h30m
p.yaml:13:66: spec.routes[1].batch.queueTimeout: found \"soon\", expected a duration with its unit, such as \
2ms, 10s or 1h30m
p.yaml:17:20: spec.routes[2].codec.keyedGet.batchPath: found \"/users\", expected a template that has the \
route's variable, such as /users?ids={id}
p.yaml:19:25: spec.routes[2].onFailure.replay: found \"always\", expected one of Never, Idempotent, Declared
p.yaml:21:23: spec.traffic.retry.attempts: found \"many\", expected a whole number that is not negative
p.yaml:21:39: spec.traffic.retry.on[1]: found \"sometimes\", expected one of connect-failure, reset, \
refused-stream, gateway-error, 5xx, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, or a status from 400 to 599
",
    );
}

/// What is said of a policy whose only route is `rule`, in flow style.
#[track_caller]
fn says_of_route(rule: &str, expected: &str) {
    let faults = check(&read(&with_route(&format!("  - {{{rule}}}\n"))));
    let found = faults
        .iter()
        .map(|fault| format!("{}: {}", fault.field, fault.message))
        .collect::<Vec<_>>();
    assert_eq!(found, [format!("spec.routes[0].{expected}")], "{rule}");
    assert!(
        faults.iter().all(|fault| fault.line == 5 && fault.column > 4),
        "{faults:?}"
    );
}

const CODEC: &str = "codec: {jsonRpc: {}}";

#[test]
fn matches_that_could_not_work_are_refused() {
    let keyed = "codec: {keyedGet: {batchPath: '/u?i={id}', key: /id}}";
    let template = "path: {type: Template, value: '/u/{id}'}";
    for (rule, expected) in [
        (
            format!("match: {{method: GET}}, {CODEC}"),
            "match.method: found \"GET\", expected a method with a body, such as POST, for this codec",
        ),
        (
            format!("match: {{method: POST, {template}}}, {keyed}"),
            "match.method: found \"POST\", expected GET: keyedGet merges nothing else",
        ),
        (
            format!("match: {{path: {{value: /u}}}}, {keyed}"),
            "match.path: found type PathPrefix, expected a template with a variable, such as {type: Template, value: \"/users/{id}\"}, for keyedGet",
        ),
        (
            format!("match: {{path: {{type: Template, value: /u}}}}, {keyed}"),
            "match.path.value: found \"/u\", expected a template with a variable, such as {type: Template, value: \"/users/{id}\"}, for keyedGet",
        ),
        (
            format!("match: {{path: {{value: u}}}}, {CODEC}"),
            "match.path.value: found \"u\", expected a path that begins with a slash",
        ),
        (
            format!("match: {{path: {{value: '/u?a'}}}}, {CODEC}"),
            "match.path.value: found \"/u?a\", expected a path without query and fragment; parameters go to queryParams",
        ),
        (
            format!("match: {{path: {{value: '/a b'}}}}, {CODEC}"),
            "match.path.value: found \"/a b\", expected a raw path, in which spaces and letters beyond ASCII are percent-encoded",
        ),
        (
            format!("match: {{path: {{value: '/u/{{id}}'}}}}, {CODEC}"),
            "match.path.value: found \"/u/{id}\", expected a path without braces; variables need type: Template",
        ),
        (
            format!("match: {{path: {{type: RegularExpression, value: '/('}}}}, {CODEC}"),
            "match.path.value: found \"/(\": unclosed group; expected a regular expression",
        ),
        (
            format!("match: {{headers: [{{name: 'a b', value: x}}]}}, {CODEC}"),
            "match.headers[0].name: found \"a b\", expected the name of a header field",
        ),
        (
            format!("match: {{headers: [{{name: a}}]}}, {CODEC}"),
            "match.headers[0].value: found nothing, expected a value, or type: Present",
        ),
        (
            format!("match: {{queryParams: [{{name: a, type: Present, value: b}}]}}, {CODEC}"),
            "match.queryParams[0].value: found \"b\", expected no value with type: Present",
        ),
    ] {
        says_of_route(&rule, expected);
    }
}

#[test]
fn codecs_need_their_settings() {
    for (rule, expected) in [
        (
            "codec: {}".to_owned(),
            "codec: found no codec, expected one of preset, jsonArray, jsonRpc, keyedGet",
        ),
        (
            "codec: {jsonRpc: {}, preset: kserve-v1}".to_owned(),
            "codec: found several codecs, expected exactly one",
        ),
        (
            "codec: {jsonArray: {items: instances, results: /p}}".to_owned(),
            "codec.jsonArray.items: found \"instances\", expected a JSON pointer: empty, or starting with /",
        ),
        (
            "codec: {jsonArray: {items: /i}}".to_owned(),
            "codec.jsonArray.results: found nothing, but this field is required",
        ),
        (
            "match: {}".to_owned(),
            "codec: found nothing, but this field is required",
        ),
    ] {
        says_of_route(&rule, expected);
    }
}

#[test]
fn caps_and_keys_have_bounds() {
    for (rule, expected) in [
        (
            format!("{CODEC}, batch: {{maxSize: 64, maxQueueSize: 8}}"),
            "batch.maxQueueSize: found 8, expected at least maxSize, which is 64: no batch would ever be full",
        ),
        (
            format!("{CODEC}, batch: {{timeout: 3s}}"),
            "batch.timeout: found 3s, expected at most queueTimeout, which is 2s: calls would be shed before they leave",
        ),
        (
            format!("{CODEC}, batch: {{priorityHeader: x-p}}"),
            "batch.priorityHeader: found \"x-p\", expected it only together with order: Priority",
        ),
        (
            format!("{CODEC}, batch: {{maxSize: -1}}"),
            "batch.maxSize: found -1, expected a whole number that is not negative",
        ),
        (
            format!("{CODEC}, batch: [1]"),
            "batch: found a list, expected a map of fields",
        ),
        (
            format!("{CODEC}, key: {{ignoreHeaders: [Authorization]}}"),
            "key.ignoreHeaders[0]: authorization is a credential: callers share a batch across identities only with `identity: Shared`",
        ),
        (
            format!("{CODEC}, key: {{ignoreHeaders: [a], includeHeaders: [A]}}"),
            "key.ignoreHeaders[0]: found \"a\" in includeHeaders, too; expected it in one of them",
        ),
        (
            format!("{CODEC}, name: 'a/b'"),
            "name: found \"a/b\", expected 1 to 63 letters, digits, '-', '_' or '.'",
        ),
        (format!("{CODEC}, name: 7"), "name: found 7, expected a string"),
    ] {
        says_of_route(&rule, expected);
    }
}

#[test]
fn what_is_no_yaml_is_told_with_its_place() {
    for (text, expected) in [
        (
            "kind: A: B\n",
            "p.yaml:1:8: not valid YAML: mapping values are not allowed in this context\n",
        ),
        (
            "a: [1\nb: 2\n",
            "p.yaml:2:2: not valid YAML: illegal placement of ':' indicator\n",
        ),
        (
            "kind: A\nkind: B\n",
            "p.yaml:2:1: found the field \"kind\" twice, expected it once\n",
        ),
        (
            "a: *b\n",
            "p.yaml:1:4: not valid YAML: alias references unknown anchor\n",
        ),
        (
            "- 1\n",
            "p.yaml:1:1: found no map of fields, expected a document with kind: BatchPolicy, Backend, Listener, Runtime\n",
        ),
        (
            "spec: {}\n",
            "p.yaml:1:1: kind: found nothing, expected one of BatchPolicy, Backend, Listener, Runtime\n",
        ),
        (
            "kind: batchpolicy\n",
            "p.yaml:1:7: kind: found \"batchpolicy\", expected one of BatchPolicy, Backend, Listener, Runtime (did you mean BatchPolicy?)\n",
        ),
        (
            "kind: Backend\napiVersion: v1\n",
            "p.yaml:2:13: apiVersion: found \"v1\", expected jitney.dev/v1alpha1\n",
        ),
        (
            "",
            "p.yaml: warning: holds no document, so that nothing is gathered by it\n",
        ),
        (
            "# nothing\n---\n",
            "p.yaml: warning: holds no document, so that nothing is gathered by it\n",
        ),
    ] {
        says(text, expected);
    }
}

#[test]
fn a_bomb_of_aliases_is_refused_in_time() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    let faults = check(&read(&bomb));
    assert_eq!(faults.len(), 1);
    assert!(
        faults[0]
            .message
            .starts_with("found more than a policy file may hold"),
        "{}",
        faults[0]
    );
    let deep = format!("kind: {}", "[".repeat(5000));
    assert_eq!(check(&read(&deep)).len(), 1);
}

#[test]
fn json_is_accepted_and_yaml_of_several_documents() {
    let json = "{\n\t\"kind\": \"Listener\",\n\t\"metadata\": {\"name\": \"in\"},\n\t\"spec\": {\"address\": \"[::1]:0\"}\n}\n";
    let backend =
        "---\nkind: Backend\nmetadata: {name: users}\nspec: {endpoints: ['127.0.0.1:9000', 'h:1']}\n";
    let documents = read(&format!("{json}{backend}---\n{SHORT}"));
    let compiled = compile(&documents).map_err(|faults| lines(&faults)).unwrap();
    assert_eq!(compiled.listeners[0].address, "[::1]:0".parse().unwrap());
    assert_eq!(&*compiled.listeners[0].backend, "users");
    assert_eq!(compiled.backends[0].endpoints[1].endpoint.to_string(), "h:1");
    assert_eq!(compiled.backends[0].policy.routes().len(), 1);
    assert_eq!(compiled.backends[0].connect_timeout, Duration::from_secs(5));
}

#[test]
fn a_route_is_a_target_in_a_cluster_only_and_of_no_traffic_settings() {
    let policy = |more: &str| {
        format!(
            "kind: BatchPolicy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{name: users}}, {{kind: GRPCRoute, name: \
             users}}]\n{more}"
        )
    };
    says(
        &policy(""),
        "p.yaml:4:38: spec.targetRefs[1].kind: found GRPCRoute, expected Service or Backend: routes of the Gateway API \
         are known to a control plane in Kubernetes alone\n",
    );
    let pushed = |text: &str| compile_for_upstream(&read(text)).map_err(|faults| lines(&faults));
    assert!(pushed(&policy("")).is_ok(), "whoever pushes it knows routes");
    assert_eq!(
        pushed(&policy("  traffic: {timeouts: {request: 3s}}\n")).unwrap_err(),
        "p.yaml:5:12: spec.traffic: found settings and a target that is a GRPCRoute, expected them in a policy for the \
         Service: they hold for all of its calls\n"
    );
}

#[test]
fn names_are_resolved_within_the_files() {
    let backend = |name: &str| {
        format!("---\nkind: Backend\nmetadata: {{name: {name}}}\nspec: {{endpoints: ['a:1']}}\n")
    };
    let listener = |spec: &str| format!("---\nkind: Listener\nmetadata: {{name: in}}\nspec: {{{spec}}}\n");
    let policy = |targets: &str| {
        format!("---\nkind: BatchPolicy\nmetadata: {{name: p}}\nspec: {{targetRefs: [{targets}]}}\n")
    };
    let two = backend("users") + &backend("items");
    for (text, expected) in [
        (
            backend("users") + &policy("{name: user}"),
            "p.yaml:8:28: spec.targetRefs[0].name: backend \"user\" is not defined in these files (did you mean users?)\n",
        ),
        (
            two.clone() + &policy("{kind: Backend, name: users}, {name: items}"),
            "",
        ),
        (
            two.clone() + &policy(""),
            "p.yaml:12:20: spec.targetRefs: found no target and several Backends (users, items) in these files, expected the name of a Backend\n",
        ),
        (
            two.clone() + &policy("{name: users, group: apps}"),
            "p.yaml:12:42: spec.targetRefs[0].group: found \"apps\", expected \"\" for kind: Service\n",
        ),
        (
            two.clone() + &policy("{kind: HTTPRoute, name: users}"),
            "p.yaml:12:28: spec.targetRefs[0].kind: found HTTPRoute, expected Service or Backend: routes of the Gateway \
             API are known to a control plane in Kubernetes alone\n",
        ),
        (
            two.clone() + &policy("{name: users}, {name: users}"),
            "p.yaml:12:36: spec.targetRefs[1]: found \"users\" a second time, expected it once\n",
        ),
        (
            two.clone() + &listener("address: '127.0.0.1:1', backend: zebra"),
            "p.yaml:12:41: spec.backend: backend \"zebra\" is not defined in these files\n",
        ),
        (
            two + &listener("address: localhost"),
            "p.yaml:12:7: spec.backend: found nothing, expected the name of a Backend: users, items\np.yaml:12:17: spec.address: found \"localhost\", expected ip:port, such as 127.0.0.1:8080 or [::]:8080\n",
        ),
        (
            backend("users") + &backend("users"),
            "p.yaml:7:18: metadata.name: found a second Backend of the name \"users\"; the first one is at p.yaml:3:18\n",
        ),
    ] {
        says(&text, expected);
    }
    // A name proves nothing while a document is missing: only the first fault is told.
    let broken = "kind: Backend\nmetadata: {name: users}\n".to_owned()
        + &policy("{name: users}")
        + &listener("address: '1.1.1.1:1'");
    says(
        &broken,
        "p.yaml:1:1: spec: found nothing, but this field is required\n",
    );
}

#[test]
fn endpoints_are_host_and_port() {
    for (text, shown) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("users.shop.svc:9000", "users.shop.svc:9000"),
        ("[::1]:80", "[::1]:80"),
    ] {
        assert_eq!(
            text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()),
            Ok(shown.to_owned())
        );
    }
    for (text, expected) in [
        ("http://a:80", NotAnEndpoint::Url),
        ("a", NotAnEndpoint::Port),
        ("a:0", NotAnEndpoint::Port),
        ("a:+80", NotAnEndpoint::Port),
        ("a:65536", NotAnEndpoint::Port),
        (":80", NotAnEndpoint::Host),
        ("::1:80", NotAnEndpoint::Host),
        ("[a]:80", NotAnEndpoint::Host),
        ("a b:80", NotAnEndpoint::Host),
    ] {
        assert_eq!(text.parse::<Endpoint>(), Err(expected), "{text}");
    }
}

#[test]
fn endpoints_may_say_where_they_are() {
    let backend = |endpoints: &str| {
        format!("kind: Backend\nmetadata: {{name: users}}\nspec:\n  endpoints:\n{endpoints}")
    };
    let zones = |endpoints: &str| {
        let compiled = compile(&read(&backend(endpoints))).map_err(|faults| lines(&faults));
        compiled.map(|compiled| {
            let zone = |one: &Located| (one.endpoint.to_string(), one.zone.clone());
            compiled.backends[0]
                .endpoints
                .iter()
                .map(zone)
                .collect::<Vec<_>>()
        })
    };
    let placed = "  - a:1\n  - {address: 'a:2', zone: east}\n  - {address: 'a:3'}\n";
    let expected = [("a:1", None), ("a:2", Some("east")), ("a:3", None)];
    let expected = expected.map(|(address, zone)| (address.to_owned(), zone.map(Into::into)));
    assert_eq!(zones(placed), Ok(expected.to_vec()));
    for (written, fault) in [
        (
            "80",
            "endpoints[0]: found 80, expected host:port, or a map with address and zone",
        ),
        (
            "{zone: east}",
            "endpoints[0].address: found nothing, but this field is required",
        ),
        (
            "{address: 'a:1', zones: x}",
            "endpoints[0].zones: unknown field (did you mean zone?); expected address or zone",
        ),
        (
            "{address: 'a:1', zone: ''}",
            "endpoints[0].zone: found \"\", expected a zone's name",
        ),
        (
            "{address: a}",
            "endpoints[0]: found \"a\": expected host:port with a port from 1 to 65535",
        ),
        (
            "a:1\n  - {address: 'a:1', zone: x}",
            "endpoints[1]: found \"a:1\" a second time, expected it once",
        ),
    ] {
        let told = zones(&format!("  - {written}\n")).unwrap_err();
        assert!(told.contains(&format!("spec.{fault}")), "{written}: {told}");
    }
    let documents = read(&backend(placed));
    let Resource::Backend(read) = &documents.documents[0].resource else {
        panic!("a Backend");
    };
    let written = serde_json::to_value(&read.spec.endpoints).unwrap();
    let expected = serde_json::json!(["a:1", {"address": "a:2", "zone": "east"}, "a:3"]);
    assert_eq!(written, expected);
}

#[test]
fn bounds_of_a_learned_limit_are_in_order() {
    let compiled = |bounds: &str| {
        let text = format!("{SHORT}  traffic: {{adaptiveConcurrency: {{{bounds}}}}}\n");
        let compiled = compile_for_upstream(&read(&text)).map_err(|faults| lines(&faults));
        compiled.map(|compiled| {
            let learned = compiled.policy.traffic.adaptive_concurrency.unwrap();
            (learned.min.get(), learned.max.get())
        })
    };
    assert_eq!(compiled(""), Ok((3, 1000)));
    assert_eq!(compiled("minConcurrency: 1, maxConcurrency: 8"), Ok((1, 8)));
    for (bounds, fault) in [
        (
            "minConcurrency: 0",
            "minConcurrency: found 0, expected at least 1",
        ),
        (
            "maxConcurrency: 2",
            "maxConcurrency: found 2, expected at least minConcurrency, which is 3",
        ),
    ] {
        let told = compiled(bounds).unwrap_err();
        let expected = format!("spec.traffic.adaptiveConcurrency.{fault}");
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn what_comes_first_wins_and_the_loser_is_told() {
    let second = SHORT.replace("name: users", "name: later") + "  traffic: {}\n";
    let text = format!("{FULL}---{second}");
    let compiled = compile_for_upstream(&read(&text)).unwrap();
    let names = compiled
        .policy
        .routes()
        .iter()
        .map(|route| (route.id.0, route.name.to_string()))
        .collect::<Vec<_>>();
    assert_eq!(
        names,
        [(0, "users/user-by-id".to_owned()), (1, "later/0".to_owned())]
    );
    assert_eq!(
        lines(&compiled.warnings),
        "p.yaml:30:12: warning: spec.routes[0].match: never reached: users/user-by-id has the same match and \
comes first\np.yaml:32:12: warning: spec.traffic: without effect: the traffic settings of users come first\n"
    );
    assert_eq!(
        compiled.policy.traffic.timeouts.request,
        Some(Duration::from_secs(10))
    );
    assert_eq!(
        check_pushed(&read(&text)),
        [],
        "a control plane does not join policies"
    );
}

#[test]
fn generations_follow_what_is_said_and_nothing_else() {
    let plain = upstream(SHORT);
    let reordered = SHORT
        .replace("  mode: Active\n", "")
        .replace("/users/{id}\"}", "/users/{id}\" }");
    assert_eq!(
        upstream(&reordered).generation,
        plain.generation,
        "a default that is spelled out changes nothing"
    );
    assert_eq!(
        upstream(&SHORT.replace("name: users", "name: users, labels: {a: b}")).generation,
        plain.generation
    );
    let changed = upstream(&SHORT.replace("key: /id", "key: /key"));
    assert_ne!(changed.generation, plain.generation);
    assert_ne!(changed.routes()[0].generation, plain.routes()[0].generation);
}

#[test]
fn equal_names_in_two_namespaces_are_told_apart() {
    let other = FULL
        .replace("namespace: shop", "namespace: lab")
        .replace("/users/{id}", "/labs/{id}");
    let policy = upstream(&format!(
        "{FULL}---{}",
        other.replace("  traffic:", "  x:").split("  x:").next().unwrap()
    ));
    let names = policy
        .routes()
        .iter()
        .map(|route| route.name.to_string())
        .collect::<Vec<_>>();
    assert_eq!(names, ["shop.users/user-by-id", "lab.users/user-by-id"]);
}
