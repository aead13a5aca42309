//! What the author of a pod should know whose sidecar may not do what is expected of it.

use super::{Pod, SettingsArgs, Wishes, is_own, list, probes};

/// All of it, a line each.
pub(super) fn of(pod: Pod<'_>, wishes: &Wishes, settings: &SettingsArgs) -> Vec<String> {
    let called = pod.called;
    let unknown = wishes.unknown.iter();
    let unknown = unknown.map(|name| format!("{called}: annotation {name} means nothing to the sidecar"));
    let ports = pod.containers().flat_map(|(_, one)| list(one, "ports"));
    let taken = ports.filter_map(|port| port["containerPort"].as_u64());
    let taken = taken.filter(|port| u16::try_from(*port).is_ok_and(is_own));
    let taken = taken.map(|port| format!("{called}: port {port} is the sidecar's"));
    let probes = probes::over_tcp(pod, wishes).map(|(field, container, kind, port)| {
        format!("{called}: {field}[{container}].{kind}Probe.tcpSocket: {PROBES}: name port {port} in jitney.dev/skip-inbound-ports")
    });
    let names = names(pod, settings).into_iter();
    let all = names.chain(unknown).chain(taken).chain(probes);
    all.take(WARNINGS_MAX).collect()
}

/// Whether the sidecar can look up the control plane: its name is to be completed by the cluster's domain. What name
/// servers know that a pod brings along is its author's business.
fn names(pod: Pod<'_>, settings: &SettingsArgs) -> Option<String> {
    let policy = pod.spec["dnsPolicy"].as_str()?;
    let is_of_the_cluster = !["Default", "None"].contains(&policy);
    if is_of_the_cluster || !list(&pod.spec["dnsConfig"], "searches").is_empty() {
        return None;
    }
    Some(format!(
        "{}: dnsPolicy: {policy:?}{}",
        pod.called,
        names_told(settings)
    ))
}

/// What is said of a `dnsPolicy`, after its name.
pub(super) fn names_told(settings: &SettingsArgs) -> String {
    format!(
        " knows no names of the cluster, and the sidecar, without which the pod does not start, \
         looks for jitney-control-plane.{}.svc: ClusterFirst does, or the cluster's name servers and its domain in \
         dnsConfig (nameservers, searches)",
        settings.control_plane_namespace
    )
}

/// What is said of a probe over TCP.
pub(super) const PROBES: &str =
    "over TCP it always succeeds, for the sidecar takes the connection whether or not the service does";

/// Kubernetes shows that many in any case.
pub(super) const WARNINGS_MAX: usize = 16;
