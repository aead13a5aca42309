//! Probes of a pod's own containers: kubelet asks the sidecar instead, which asks the container beside it. Where
//! callers have to prove who they are, kubelet could not.

use serde_json::{Map, Value, json};

use super::patch::Patch;
use super::{ADMIN_PORT, Mode, Pod, Wishes, list};

/// What the sidecar may be asked, by where: the value of its `JITNEY_PROBES`.
pub(crate) type Asked = Map<String, Value>;

/// Has kubelet ask the sidecar for what it would ask containers over HTTP. It goes on asking by itself what is
/// no HTTP, has its own TLS, is for another host, or is reached past the sidecar.
pub(crate) fn rewritten(pod: Pod<'_>, wishes: &Wishes, patch: &mut Patch) -> Asked {
    let mut asked = Asked::new();
    if wishes.mode == Mode::NoRedirect {
        return asked;
    }
    for field in ["initContainers", "containers"] {
        for (at, container) in list(pod.spec, field).iter().enumerate() {
            for kind in KINDS {
                let probe = &container[format!("{kind}Probe")];
                let (Some(name), Some(probe)) = (container["name"].as_str(), http(probe, container, wishes))
                else {
                    continue;
                };
                patch.replace(
                    format!("/spec/{field}/{at}/{kind}Probe/httpGet"),
                    json!({"path": format!("/probes/{name}/{kind}"), "port": ADMIN_PORT}),
                );
                asked.insert(format!("{name}/{kind}"), probe);
            }
        }
    }
    asked
}

/// What a probe asks, where it asks over HTTP and through the sidecar.
fn http(probe: &Value, container: &Value, wishes: &Wishes) -> Option<Value> {
    let get = probe.get("httpGet").filter(|get| get.is_object())?;
    let is_plain = get["scheme"].as_str().is_none_or(|scheme| scheme == "HTTP");
    let is_for_the_pod = get["host"].as_str().is_none_or(str::is_empty);
    let port = port(&get["port"], container)?;
    if !is_plain || !is_for_the_pod || wishes.skip_inbound_ports.contains(port) {
        return None;
    }
    let path = get["path"]
        .as_str()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    // As kubelet does; a path without it is one, too.
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut asked = json!({"port": port, "path": format!("{slash}{path}")});
    if let Some(headers) = get["httpHeaders"]
        .as_array()
        .filter(|headers| !headers.is_empty())
    {
        asked["headers"] = headers.clone().into();
    }
    if let Some(seconds) = probe["timeoutSeconds"].as_u64().filter(|seconds| *seconds > 0) {
        asked["timeoutSeconds"] = seconds.into();
    }
    Some(asked)
}

/// Probes over TCP that the sidecar would answer: the container's list, its name, the kind and the port of each.
pub(crate) fn over_tcp<'p>(
    pod: Pod<'p>,
    wishes: &'p Wishes,
) -> impl Iterator<Item = (&'static str, &'p str, &'static str, u16)> {
    let is_redirected = wishes.mode == Mode::Redirect;
    let containers = pod
        .containers()
        .filter(move |(_, one)| is_redirected && one["name"].is_string());
    containers.flat_map(move |(field, container)| {
        KINDS.into_iter().filter_map(move |kind| {
            let asked = &container[format!("{kind}Probe")]["tcpSocket"];
            let is_for_the_pod = asked["host"].as_str().is_none_or(str::is_empty);
            let port = port(&asked["port"], container).filter(|_| is_for_the_pod)?;
            let is_handed_over = !wishes.skip_inbound_ports.contains(port);
            is_handed_over.then_some((field, container["name"].as_str()?, kind, port))
        })
    })
}

/// A port by its number, or by the name that the container gives it.
fn port(port: &Value, container: &Value) -> Option<u16> {
    let named = |name: &str| list(container, "ports").iter().find(|port| port["name"] == name);
    let number = match port.as_str() {
        Some(name) => match named(name) {
            Some(port) => port["containerPort"].as_u64()?,
            None => name.parse().ok()?,
        },
        None => port.as_u64()?,
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// The probes that a container may have.
pub(super) const KINDS: [&str; 3] = ["startup", "liveness", "readiness"];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(container: &Value, annotations: &Value, expected: &Value) -> Vec<Value> {
        let metadata = json!({"annotations": annotations});
        let spec =
            json!({"initContainers": [{"name": "first"}], "containers": [{"name": "other"}, container]});
        let pod = Pod {
            called: "pod",
            metadata: &metadata,
            spec: &spec,
            namespace: "shop",
        };
        let mut patch = Patch::default();
        let asked = rewritten(pod, &Wishes::read(pod).unwrap(), &mut patch);
        assert_eq!(&Value::from(asked), expected);
        patch.into_operations()
    }

    #[test]
    fn kubelet_asks_the_sidecar() {
        let container = json!({
            "name": "users",
            "ports": [{"name": "web", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"path": "/live?a=b", "port": "web"}, "timeoutSeconds": 3},
            "readinessProbe": {
                "httpGet": {"port": 8081, "scheme": "HTTP", "httpHeaders": [{"name": "Host", "value": "x"}]},
                "failureThreshold": 9,
            },
            "startupProbe": {"httpGet": {"path": "ready", "port": "8082"}},
        });
        let expected = json!({
            "users/liveness": {"port": 8080, "path": "/live?a=b", "timeoutSeconds": 3},
            "users/readiness": {"port": 8081, "path": "/", "headers": [{"name": "Host", "value": "x"}]},
            "users/startup": {"port": 8082, "path": "/ready"},
        });
        let patch = check(&container, &json!({}), &expected);
        assert_eq!(patch.len(), 3);
        assert_eq!(
            patch[1],
            json!({
                "op": "replace",
                "path": "/spec/containers/1/livenessProbe/httpGet",
                "value": {"path": "/probes/users/liveness", "port": 15020},
            })
        );
    }

    #[test]
    fn other_probes_are_left_alone() {
        let container = |probe: Value| json!({"name": "users", "livenessProbe": probe});
        for probe in [
            json!({"tcpSocket": {"port": 8080}}),
            json!({"exec": {"command": ["true"]}}),
            json!({"grpc": {"port": 8080}}),
            json!({"httpGet": {"port": 8080, "scheme": "HTTPS"}}),
            json!({"httpGet": {"port": 8080, "host": "10.0.0.7"}}),
            json!({"httpGet": {"port": "unknown"}}),
            json!({"httpGet": {"port": 0}}),
            json!({"httpGet": {"port": 9090}}),
            json!({"httpGet": null}),
            json!(1),
        ] {
            let skipped = json!({"jitney.dev/skip-inbound-ports": "9000-9999"});
            assert!(check(&container(probe), &skipped, &json!({})).is_empty());
        }
        let get = json!({"httpGet": {"port": 8080}});
        let unredirected = json!({"jitney.dev/mode": "NoRedirect", "jitney.dev/listen": "15080:8080"});
        assert!(check(&container(get), &unredirected, &json!({})).is_empty());
    }
}
