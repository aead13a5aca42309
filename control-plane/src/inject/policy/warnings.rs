//! What the webhook warns of, as a policy that warns: of pods with a sidecar, when they are made. It does not know what
//! annotations say, and so leaves pods alone that have some.

use serde_json::{Value, json};

use crate::inject::probes::KINDS;
use crate::inject::warnings::{PROBES, names_told};
use crate::inject::{ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY, REDIRECT, SettingsArgs};

/// What it is called.
pub(super) const NAME: &str = "jitney-injector-warnings";

/// Of the same pods as the policies that give and refuse.
pub(super) fn policy(constraints: &Value, settings: &SettingsArgs) -> Value {
    let (own, redirected) = (super::begins_with(PROXY), super::begins_with(REDIRECT));
    let searches = "size(object.spec.?dnsConfig.?searches.orValue([])) > 0";
    let names = format!("!(object.spec.?dnsPolicy.orValue('') in ['Default', 'None']) || {searches}");
    let told = format!(
        "'dnsPolicy ' + object.spec.dnsPolicy + {}",
        quoted(&names_told(settings))
    );
    let taken = format!("port.containerPort in [{ADMIN_PORT}, {INBOUND_PORT}, {OUTBOUND_PORT}]");
    let ports = format!(
        "!{}",
        theirs(&format!("one.?ports.orValue([]).exists(port, {taken})"))
    );
    let probed = KINDS.map(|kind| {
        format!("(has(one.{kind}Probe) && has(one.{kind}Probe.tcpSocket) && one.{kind}Probe.tcpSocket.?host.orValue('') == '')")
    });
    let probes = format!("!{}", theirs(&probed.join(" || ")));
    json!({
        // Nothing of what it says is worth a pod.
        "failurePolicy": "Ignore",
        "matchConstraints": constraints,
        "matchConditions": [
            {"name": "has-a-sidecar", "expression": format!("{own} && {redirected}")},
            {"name": "has-no-wishes", "expression": format!("!{}", super::has_wishes())},
        ],
        "validations": [
            {"expression": names, "messageExpression": told},
            {"expression": ports, "message": "a port of a container is the sidecar's: 15001, 15006 or 15020"},
            {"expression": probes, "message": format!("a probe is a tcpSocket: {PROBES}")},
        ],
    })
}

/// Whether this is so of a container that is none of ours, `one`.
fn theirs(condition: &str) -> String {
    let of =
        |list: &str| format!("{list}.exists(one, !(one.name in ['{PROXY}', '{REDIRECT}']) && ({condition}))");
    let (init, main) = (
        of("object.spec.?initContainers.orValue([])"),
        of("object.spec.containers"),
    );
    format!("({init} || {main})")
}

/// A text as CEL writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::tests::settings;

    #[test]
    fn the_api_server_warns_in_the_words_of_the_webhook() {
        let policy = policy(&json!({}), &settings(&["--control-plane-namespace", "mesh"]));
        let text = policy.to_string();
        let probe = "readinessProbe.tcpSocket";
        for expected in [
            "jitney-control-plane.mesh.svc",
            PROBES,
            "[15020, 15006, 15001]",
            probe,
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
