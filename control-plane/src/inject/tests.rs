//! Which pods get a sidecar, and what they are then.

use clap::Parser;
use json_patch::Patch;
use serde_json::json;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(crate) fn settings(flags: &[&str]) -> SettingsArgs {
    let line = std::iter::once("inject").chain(flags.iter().copied());
    Line::try_parse_from(line).unwrap().settings
}

/// A pod that `more` is merged into.
fn pod(more: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "users-7"},
        "spec": {"containers": [{"name": "users", "image": "users:1"}]},
    });
    json_patch::merge(&mut pod, more);
    pod
}

fn annotated(name: &str, value: &str) -> Value {
    pod(&json!({"metadata": {"annotations": {name: value}}}))
}

fn decided(pod: &Value, asked: Asked) -> Result<Decision, Refused> {
    let pod = Pod {
        called: "pod shop/users-7",
        metadata: &pod["metadata"],
        spec: &pod["spec"],
        namespace: "shop",
    };
    inject(pod, asked, &settings(&[]))
}

#[track_caller]
fn injection(pod: &Value) -> Injection {
    match decided(pod, Asked::ForAll).unwrap() {
        Decision::Inject(injection) => injection,
        Decision::Leave(left) => panic!("left, since {left}"),
    }
}

#[track_caller]
fn injected(pod: &Value) -> Value {
    let patch: Patch = serde_json::from_value(injection(pod).patch.into()).unwrap();
    let mut changed = pod.clone();
    json_patch::patch(&mut changed, &patch).unwrap();
    changed
}

#[track_caller]
fn left(pod: &Value, asked: Asked, expected: Left) {
    assert_eq!(decided(pod, asked), Ok(Decision::Leave(expected)), "{pod}");
}

#[track_caller]
fn refused(pod: &Value, expected: &str) {
    let told = decided(pod, Asked::ForAll).unwrap_err().to_string();
    assert_eq!(told, expected);
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn whoever_asks_is_heard_unless_the_pod_says_no() {
    let says = |label: Option<&str>, annotation: Option<&str>| {
        let of = |value: Option<&str>| value.map_or_else(|| json!({}), |value| json!({INJECT: value}));
        pod(&json!({"metadata": {"labels": of(label), "annotations": of(annotation)}}))
    };
    let (yes, no) = (Some("enabled"), Some("disabled"));
    for (label, annotation, for_all, by_the_pod) in [
        (None, None, None, Some(Left::NotAsked)),
        (yes, None, None, None),
        (None, yes, None, None),
        (yes, yes, None, None),
        (no, None, Some(Left::Disabled), Some(Left::Disabled)),
        (None, no, Some(Left::Disabled), Some(Left::Disabled)),
        (yes, no, Some(Left::Disabled), Some(Left::Disabled)),
        (no, yes, Some(Left::Disabled), Some(Left::Disabled)),
    ] {
        let pod = says(label, annotation);
        for (asked, expected) in [(Asked::ForAll, for_all), (Asked::ByThePod, by_the_pod)] {
            match (decided(&pod, asked).unwrap(), expected) {
                (Decision::Leave(left), Some(expected)) => assert_eq!(left, expected, "{pod}"),
                (Decision::Inject(_), None) => {}
                (decided, _) => panic!("{pod} {asked:?}: {decided:?}"),
            }
        }
    }
}

#[test]
fn pods_that_cannot_do_with_one_are_left() {
    left(
        &pod(&json!({"spec": {"hostNetwork": true}})),
        Asked::ForAll,
        Left::HostNetwork,
    );
    left(
        &pod(&json!({"spec": {"os": {"name": "windows"}}})),
        Asked::ForAll,
        Left::OtherSystem,
    );
    let of = pod(&json!({"metadata": {"labels": {INJECT: "enabled"}}}));
    for namespace in ["kube-system", "jitney-system"] {
        let pod = Pod {
            called: "pod users-7",
            metadata: &of["metadata"],
            spec: &of["spec"],
            namespace,
        };
        let decided = inject(pod, Asked::ForAll, &settings(&[]));
        assert_eq!(decided, Ok(Decision::Leave(Left::Namespace)), "{namespace}");
    }
}

#[test]
fn a_pod_with_a_sidecar_is_left_as_it_is() {
    let once = injected(&pod(&json!({})));
    left(&once, Asked::ForAll, Left::Already);
    // By whoever, and wherever.
    let by_hand = pod(&json!({"spec": {"containers": [{"name": "jitney-proxy"}]}}));
    left(&by_hand, Asked::ForAll, Left::Already);
}

#[test]
fn sidecar_comes_before_all_else_of_the_pod() {
    let init = json!([
        {"name": "migrate"},
        {"name": "logs", "restartPolicy": "Always"},
    ]);
    let before = pod(&json!({"spec": {"initContainers": init, "volumes": [{"name": "data"}]}}));
    let after = injected(&before);
    assert_eq!(
        names(&after["spec"]["initContainers"]),
        ["jitney-redirect", "jitney-proxy", "migrate", "logs"]
    );
    assert_eq!(
        names(&after["spec"]["volumes"]),
        ["data", "jitney-identity", "jitney-state"]
    );
    assert_eq!(after["spec"]["containers"], before["spec"]["containers"]);
    assert_eq!(
        after["spec"]["initContainers"][3],
        before["spec"]["initContainers"][1]
    );
}

#[test]
fn pods_without_lists_or_a_name_are_given_them() {
    let plain = injected(&pod(&json!({})));
    assert_eq!(
        names(&plain["spec"]["initContainers"]),
        ["jitney-redirect", "jitney-proxy"]
    );
    assert_eq!(plain["metadata"]["labels"], json!({INJECTED: "true"}));

    // As the API server sends and stores them.
    let empty = json!({
        "metadata": {"generateName": "users-", "labels": {"app": "users"}},
        "spec": {"containers": [{"name": "users"}], "initContainers": [], "volumes": null},
    });
    let of_set = injected(&empty);
    assert_eq!(
        of_set["metadata"]["labels"],
        json!({"app": "users", INJECTED: "true"})
    );
    assert_eq!(names(&of_set["spec"]["initContainers"]).len(), 2);
    assert_eq!(names(&of_set["spec"]["volumes"]).len(), 2);

    // A template may be without any metadata.
    let bare = injected(&json!({"spec": {"containers": []}}));
    assert_eq!(bare["metadata"]["labels"][INJECTED], "true");
}

#[test]
fn pod_has_all_that_its_sidecar_needs() {
    insta::assert_json_snapshot!(injected(&pod(&json!({}))));
}

#[test]
fn annotations_are_passed_on() {
    let wished = pod(&json!({"metadata": {"annotations": {
        "jitney.dev/skip-inbound-ports": "22, 5000-5010",
        "jitney.dev/skip-outbound-ports": "3306",
        "jitney.dev/opaque-ports": "",
        "jitney.dev/log-level": "info,jitney_proxy=debug",
        "jitney.dev/proxy-cpu-request": "0.5",
        "jitney.dev/proxy-memory-limit": "128Mi",
    }}}));
    let wished = injected(&wished);
    let containers = &wished["spec"]["initContainers"];
    let words = |at: usize| {
        let args = containers[at]["args"].as_array().unwrap();
        args.iter()
            .map(|word| word.as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(words(0).ends_with("--skip-inbound-ports 15020,22,5000-5010 --skip-outbound-ports 3306"));
    assert!(words(1).ends_with("--opaque-ports  --log-level info,jitney_proxy=debug"));
    for container in [&containers[0], &containers[1]] {
        let expected = json!({
            "requests": {"cpu": "0.5", "memory": "32Mi"},
            "limits": {"memory": "128Mi"},
        });
        assert_eq!(container["resources"], expected);
    }
}

#[test]
fn without_a_redirect_nothing_needs_to_be_allowed() {
    let annotations = json!({"jitney.dev/mode": "NoRedirect", "jitney.dev/listen": "15080:8080"});
    let pod = injected(&pod(&json!({"metadata": {"annotations": annotations}})));
    assert_eq!(names(&pod["spec"]["initContainers"]), ["jitney-proxy"]);
    let text = pod.to_string();
    assert!(!text.contains("NET_ADMIN") && !text.contains("bound"), "{text}");
    let proxy = &pod["spec"]["initContainers"][0];
    let args = proxy["args"].as_array().unwrap();
    let expected = [
        "run",
        "--listen",
        "[::]:15080",
        "--upstream",
        "127.0.0.1:8080",
        "--admin",
    ];
    assert_eq!(args[..6], expected.map(Value::from), "{args:?}");
    assert_eq!(proxy["ports"][1]["containerPort"], 15080);
}

#[test]
fn a_sidecar_that_nothing_would_come_to_is_refused() {
    const EXPECTED: &str = "expected the sidecar's port and the service's, such as 15080:8080, the first of which is \
                            the `targetPort` of Services";
    let told = |value: &str| format!("pod shop/users-7: jitney.dev/listen: found \"{value}\", {EXPECTED}");
    refused(&annotated("jitney.dev/mode", "NoRedirect"), &told(""));
    for value in [
        "8080",
        "15080:",
        "15080:8080:1",
        "8080:8080",
        "0:8080",
        "15020:8080",
        "15080:x",
        "70000:8080",
    ] {
        refused(&annotated("jitney.dev/listen", value), &told(value));
    }
    refused(
        &annotated("jitney.dev/listen", "15080:8080"),
        r#"pod shop/users-7: jitney.dev/mode: found "Redirect", expected NoRedirect where jitney.dev/listen is given"#,
    );
}

#[test]
fn what_nobody_understands_is_refused_by_name() {
    refused(
        &annotated("jitney.dev/skip-inbound-ports", "22,x"),
        r#"pod shop/users-7: jitney.dev/skip-inbound-ports: found "22,x", expected ports and ranges of them, such as 22,5000-5010"#,
    );
    refused(
        &annotated("jitney.dev/proxy-cpu-request", "much"),
        r#"pod shop/users-7: jitney.dev/proxy-cpu-request: found "much", expected a quantity, such as 100m, 0.5 or 64Mi"#,
    );
    refused(
        &annotated("jitney.dev/mode", "redirect"),
        r#"pod shop/users-7: jitney.dev/mode: found "redirect", expected Redirect or NoRedirect"#,
    );
    refused(
        &annotated("jitney.dev/log-level", "loud"),
        r#"pod shop/users-7: jitney.dev/log-level: found "loud", expected a level, or levels by target as in info,jitney_proxy=debug"#,
    );
    refused(
        &pod(&json!({"metadata": {"labels": {INJECT: "yes"}}})),
        r#"pod shop/users-7: jitney.dev/inject: found "yes", expected enabled or disabled"#,
    );
}

#[test]
fn a_limit_below_its_request_is_refused_by_name() {
    refused(
        &annotated("jitney.dev/proxy-memory-limit", "16Mi"),
        r#"pod shop/users-7: jitney.dev/proxy-memory-limit: found "16Mi", expected at least 32Mi, its request (--proxy-memory-request, which all sidecars have)"#,
    );
    let both = json!({"metadata": {"annotations": {
        "jitney.dev/proxy-cpu-limit": "0.5", "jitney.dev/proxy-cpu-request": "501m",
    }}});
    refused(
        &pod(&both),
        r#"pod shop/users-7: jitney.dev/proxy-cpu-limit: found "0.5", expected at least 501m, its request (jitney.dev/proxy-cpu-request)"#,
    );
    let told = |flags: &[&str], name: &str, value: &str| {
        let pod = annotated(name, value);
        let pod = Pod {
            called: "pod shop/users-7",
            metadata: &pod["metadata"],
            spec: &pod["spec"],
            namespace: "shop",
        };
        inject(pod, Asked::ForAll, &settings(flags)).map_err(|refused| refused.to_string())
    };
    let flags = ["--proxy-memory-limit", "64Mi"];
    assert_eq!(
        told(&flags, "jitney.dev/proxy-memory-request", "1Gi").unwrap_err(),
        r#"pod shop/users-7: jitney.dev/proxy-memory-request: found "1Gi", expected at most 64Mi, its limit (--proxy-memory-limit, which all sidecars have)"#
    );
    for (name, value) in [("request", "64Mi"), ("limit", "32Mi")] {
        assert!(told(&flags, &format!("jitney.dev/proxy-memory-{name}"), value).is_ok());
    }
}

#[test]
fn what_would_not_work_is_refused() {
    refused(
        &pod(&json!({"spec": {"volumes": [{"name": "jitney-state"}]}})),
        r#"pod shop/users-7: volumes: "jitney-state" is a name of the sidecar's: give it another"#,
    );
    refused(
        &pod(&json!({"spec": {"initContainers": [{"name": "jitney-redirect"}]}})),
        r#"pod shop/users-7: initContainers: "jitney-redirect" is a name of the sidecar's: give it another"#,
    );
    let as_us = json!({"runAsUser": 2102});
    let past = "is the sidecar's user, whose connections go past the sidecar: take another";
    refused(
        &pod(&json!({"spec": {"securityContext": as_us}})),
        &format!("pod shop/users-7: securityContext.runAsUser: 2102 {past}"),
    );
    refused(
        &pod(&json!({"spec": {"containers": [{"name": "users", "securityContext": as_us}]}})),
        &format!("pod shop/users-7: containers[users].securityContext.runAsUser: 2102 {past}"),
    );
    refused(&json!({}), "pod shop/users-7: spec: expected a map");
    refused(
        &pod(&json!({"spec": {"containers": {}, "volumes": 1}})),
        "pod shop/users-7: containers: expected a list of maps",
    );
}

#[test]
fn what_is_odd_is_told() {
    let odd = pod(&json!({
        "metadata": {"annotations": {"jitney.dev/skip-inbound-port": "22", "jitney.dev/injected": "true"}},
        "spec": {"containers": [{"name": "users", "ports": [{"containerPort": 15001}, {"containerPort": 8080}]}]},
    }));
    assert_eq!(
        injection(&odd).warnings,
        [
            "pod shop/users-7: annotation jitney.dev/skip-inbound-port means nothing to the sidecar",
            "pod shop/users-7: port 15001 is the sidecar's",
        ]
    );
    let probed = |annotations: Value| {
        let probes = json!({"readinessProbe": {"tcpSocket": {"port": "web"}}, "livenessProbe": {"tcpSocket": {"port": 9090}}});
        let mut container = json!({"name": "users", "ports": [{"name": "web", "containerPort": 8080}]});
        json_patch::merge(&mut container, &probes);
        pod(&json!({"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}))
    };
    let always = "over TCP it always succeeds, for the sidecar takes the connection whether or not the service does: name port";
    assert_eq!(
        injection(&probed(json!({"jitney.dev/skip-inbound-ports": "9000-9999"}))).warnings,
        [format!(
            "pod shop/users-7: containers[users].readinessProbe.tcpSocket: {always} 8080 in jitney.dev/skip-inbound-ports"
        )]
    );
    let unredirected = json!({"jitney.dev/mode": "NoRedirect", "jitney.dev/listen": "15080:8080"});
    assert_eq!(injection(&probed(unredirected)).warnings, [""; 0]);
    let many: Map<String, Value> = (0..1000)
        .map(|n| (format!("jitney.dev/{n}"), "".into()))
        .collect();
    let many = pod(&json!({"metadata": {"annotations": many}}));
    assert_eq!(injection(&many).warnings.len(), warnings::WARNINGS_MAX);
}

/// Its sidecar would look for a control plane for ever, and the pod with it.
#[test]
fn who_asks_other_name_servers_is_told() {
    let told = |spec: Value| injection(&pod(&json!({"spec": spec}))).warnings;
    let searches = json!({"nameservers": ["10.96.0.10"], "searches": ["svc.cluster.local", "cluster.local"]});
    for good in [
        json!({}),
        json!({"dnsPolicy": "ClusterFirst"}),
        json!({"dnsPolicy": "None", "dnsConfig": searches}),
        json!({"dnsPolicy": "Default", "dnsConfig": searches}),
    ] {
        assert_eq!(told(good), [""; 0]);
    }
    for (policy, config) in [
        ("Default", json!({})),
        ("None", json!({"nameservers": ["10.96.0.10"]})),
    ] {
        assert_eq!(
            told(json!({"dnsPolicy": policy, "dnsConfig": config})),
            [format!(
                "pod shop/users-7: dnsPolicy: {policy:?} knows no names of the cluster, and the sidecar, without which the \
                 pod does not start, looks for jitney-control-plane.jitney-system.svc: ClusterFirst does, or the cluster's \
                 name servers and its domain in dnsConfig (nameservers, searches)"
            )]
        );
    }
}

#[test]
fn images_run_as_pods_have_them_run() {
    let images = include_str!("../../../charts/images/Dockerfile");
    let of = |target: &str| {
        let mut stages = images.split("\nFROM ");
        let stage = stages.find(|stage| stage.starts_with(&format!("scratch AS {target}\n")));
        stage.unwrap_or_else(|| panic!("no target {target}")).to_owned()
    };
    let pod = injected(&pod(&json!({})));
    for (at, target) in [(0, "redirect"), (1, "proxy")] {
        let security = &pod["spec"]["initContainers"][at]["securityContext"];
        let (user, group) = (&security["runAsUser"], &security["runAsGroup"]);
        let stage = of(target);
        assert!(stage.contains(&format!("\nUSER {user}:{group}\n")), "{stage}");
        assert!(stage.contains("\nENTRYPOINT [\"/jitney-proxy\"]\n"), "{stage}");
    }
    assert!(of("control-plane").contains("\nUSER 65532:65532\n"));
}

#[test]
fn flags_are_checked() {
    let set = settings(&[
        "--proxy-image",
        "example.org/p@sha256:0",
        "--control-plane-namespace",
        "mesh",
    ]);
    assert_eq!(set.control_plane(), "https://jitney-control-plane.mesh.svc:15010");
    for bad in [
        ["--proxy-image", ""],
        ["--proxy-image", "a b"],
        ["--control-plane-namespace", "Mesh"],
        ["--proxy-cpu-limit", "1 core"],
    ] {
        let line = std::iter::once("inject").chain(bad);
        assert!(Line::try_parse_from(line).is_err(), "{bad:?}");
    }
}

#[test]
fn quantities_are_those_of_kubernetes() {
    for good in ["0", "1", "100m", "0.5", "64Mi", "1G", "123456789012345678"] {
        assert_eq!(resources::quantity(good).as_deref(), Ok(good));
    }
    for bad in [
        "",
        "m",
        "-1",
        "1.",
        ".5",
        "1mi",
        "1e3x",
        "1 Gi",
        "½",
        "1234567890123456789",
    ] {
        assert!(resources::quantity(bad).is_err(), "{bad}");
    }
}
