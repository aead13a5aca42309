//! What a pod is given: the container that has the kernel hand over connections, the sidecar, their volumes.

use serde_json::{Value, json};

use super::probes::Asked;
use super::resources::resources;
use super::wishes::Listen;
use super::{
    ADMIN_PORT, IDENTITY, INBOUND_PORT, Mode, OUTBOUND_PORT, PROXY, REDIRECT, STATE, SettingsArgs, USER,
    Wishes,
};

/// What runs before all else of the pod, in order: init containers, of which the sidecar goes on.
pub(crate) fn containers(wishes: &Wishes, probes: &Asked, settings: &SettingsArgs) -> Vec<Value> {
    let proxy = proxy(wishes, probes, settings);
    match wishes.mode {
        Mode::Redirect => vec![redirect(wishes, settings), proxy],
        Mode::NoRedirect => vec![proxy],
    }
}

/// What the sidecar reads and keeps.
pub(crate) fn volumes() -> Vec<Value> {
    let token = json!({"serviceAccountToken": {
        "audience": AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
        "path": "token",
    }});
    // Without it the pod waits, and its events say so: a sidecar without roots would trust nobody.
    let roots = json!({"configMap": {
        "name": ROOTS,
        "items": [{"key": "roots.pem", "path": "roots.pem"}],
    }});
    vec![
        json!({"name": IDENTITY, "projected": {"sources": [token, roots]}}),
        // The sidecar's key is in it, which is to be on no disk.
        json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}}),
    ]
}

fn redirect(wishes: &Wishes, settings: &SettingsArgs) -> Value {
    let mut args = words(["redirect", "install"]);
    let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
    flag("--user", USER.to_string());
    flag("--inbound-port", INBOUND_PORT.to_string());
    flag("--outbound-port", OUTBOUND_PORT.to_string());
    // Probes and scrapers reach the admin endpoint itself.
    let skipped = wishes.skip_inbound_ports.to_string();
    let comma = if skipped.is_empty() { "" } else { "," };
    flag("--skip-inbound-ports", format!("{ADMIN_PORT}{comma}{skipped}"));
    if !wishes.skip_outbound_ports.is_empty() {
        flag("--skip-outbound-ports", wishes.skip_outbound_ports.to_string());
    }
    json!({
        "name": REDIRECT,
        "image": settings.redirect_image,
        "args": args,
        // Those of both: this one has ended when the other begins, and so costs nothing.
        "resources": resources(wishes, &settings.resources),
        // What was wrong is in the pod's status then.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

fn proxy(wishes: &Wishes, probes: &Asked, settings: &SettingsArgs) -> Value {
    let of_pod =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    // From 1.35 on a pod has its node's label; before, there is none, and the text is empty.
    let mut env = vec![of_pod("POD_NAME", "metadata.name"), of_pod("JITNEY_ZONE", ZONE)];
    if !probes.is_empty() {
        // Kubernetes reads `$(NAME)` in values; twice the sign is one.
        let probes = Value::Object(probes.clone()).to_string().replace("$(", "$$(");
        env.push(json!({"name": "JITNEY_PROBES", "value": probes}));
    }
    let asks = |path: &str, more: Value| {
        let mut probe = more;
        probe["httpGet"] = json!({"path": path, "port": ADMIN_PORT});
        probe
    };
    let mut ports = vec![json!({"name": "jitney-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"})];
    let listen = wishes.listen.iter();
    ports.extend(
        listen.map(|at| json!({"name": "jitney-listen", "containerPort": at.port, "protocol": "TCP"})),
    );
    json!({
        "name": PROXY,
        "image": settings.proxy_image,
        // It starts before all else of the pod that comes after it, and ends after all of that has.
        "restartPolicy": "Always",
        "args": arguments(wishes, settings),
        "env": env,
        "ports": ports,
        "resources": resources(wishes, &settings.resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": asks("/ready", json!({"periodSeconds": 1, "failureThreshold": STARTING_SECONDS})),
        "readinessProbe": asks("/ready", json!({"periodSeconds": 5})),
        "livenessProbe": asks("/live", json!({"periodSeconds": 10})),
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": IDENTITY, "mountPath": "/var/run/secrets/jitney.dev", "readOnly": true},
            {"name": STATE, "mountPath": "/var/lib/jitney"},
        ],
    })
}

fn arguments(wishes: &Wishes, settings: &SettingsArgs) -> Vec<String> {
    let mut args = words(["run"]);
    if let Some(Listen { port, service }) = wishes.listen {
        args.extend(["--listen".to_owned(), format!("[::]:{port}")]);
        args.extend(["--upstream".to_owned(), format!("127.0.0.1:{service}")]);
    } else {
        args.extend(["--inbound".to_owned(), format!("[::]:{INBOUND_PORT}")]);
        args.push("--outbound".to_owned());
        args.extend(["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{OUTBOUND_PORT}")));
    }
    args.extend(["--admin".to_owned(), format!("[::]:{ADMIN_PORT}")]);
    args.extend(["--control-plane".to_owned(), settings.control_plane()]);
    args.extend(words(["--node", "$(POD_NAME)"]));
    args.extend(words(["--token-file", "/var/run/secrets/jitney.dev/token"]));
    args.extend(words(["--trust-bundle", "/var/run/secrets/jitney.dev/roots.pem"]));
    args.extend(words(["--snapshot", "/var/lib/jitney/snapshot"]));
    if let Some(ports) = &wishes.opaque_ports {
        args.extend(["--opaque-ports".to_owned(), ports.to_string()]);
    }
    if let Some(level) = &wishes.log_level {
        args.extend(["--log-level".to_owned(), level.clone()]);
    }
    args
}

fn words<const COUNT: usize>(words: [&str; COUNT]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// The zone of a pod's node.
const ZONE: &str = "metadata.labels['topology.kubernetes.io/zone']";
/// Whom the token is for.
const AUDIENCE: &str = "jitney.dev";
/// How long one is good; kubelet writes another after four fifths of it.
const TOKEN_SECONDS: u32 = 3600;
/// The ConfigMap with the roots of the mesh, in each namespace.
const ROOTS: &str = "jitney-roots";
/// The most that a sidecar may keep: what it was pushed last, about 200 bytes for each endpoint that it may call, twice
/// while it is replaced, so that of 50,000 endpoints; and 2 KiB of key and certificate. What is not used costs nothing,
/// what is counts as the sidecar's memory.
const STATE_SIZE: &str = "32Mi";
/// How long a sidecar may take to hear from the control plane before it is started anew.
const STARTING_SECONDS: u32 = 120;
