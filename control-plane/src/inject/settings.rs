//! What is the same for the sidecars of all pods: flags, for whoever injects.

use clap::Args;

use super::resources::quantity;

/// Of what, and for which control plane.
#[derive(Clone, Debug, Args)]
pub struct SettingsArgs {
    /// The image of the sidecar; by a digest, it is the same one tomorrow.
    #[arg(long, env = "JITNEY_PROXY_IMAGE", value_name = "IMAGE",
          default_value = concat!("jitney/proxy:", env!("CARGO_PKG_VERSION")), value_parser = image)]
    pub proxy_image: String,

    /// The image that has the kernel hand a pod's connections to its sidecar.
    #[arg(long, env = "JITNEY_REDIRECT_IMAGE", value_name = "IMAGE",
          default_value = concat!("jitney/redirect:", env!("CARGO_PKG_VERSION")), value_parser = image)]
    pub redirect_image: String,

    /// The namespace of the control plane, whose pods get no sidecars: they ask jitney-control-plane there, on
    /// port 15010.
    #[arg(long, env = "JITNEY_CONTROL_PLANE_NAMESPACE", value_name = "NAME",
          default_value = "jitney-system", value_parser = namespace)]
    pub control_plane_namespace: String,

    /// What a sidecar asks for.
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// What a sidecar asks for where its pod says nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ResourceArgs {
    /// Processor time that a sidecar is given in any case.
    #[arg(long = "proxy-cpu-request", env = "JITNEY_PROXY_CPU_REQUEST", value_name = "QUANTITY", default_value = "10m",
          value_parser = quantity)]
    pub cpu_request: String,

    /// Memory that it is given in any case.
    #[arg(long = "proxy-memory-request", env = "JITNEY_PROXY_MEMORY_REQUEST", value_name = "QUANTITY", default_value = "32Mi",
          value_parser = quantity)]
    pub memory_request: String,

    /// The most processor time that it may take; as much as there is unless given.
    #[arg(long = "proxy-cpu-limit", env = "JITNEY_PROXY_CPU_LIMIT", value_name = "QUANTITY", value_parser = quantity)]
    pub cpu_limit: Option<String>,

    /// The most memory that it may take, likewise.
    #[arg(long = "proxy-memory-limit", env = "JITNEY_PROXY_MEMORY_LIMIT", value_name = "QUANTITY", value_parser = quantity)]
    pub memory_limit: Option<String>,
}

impl SettingsArgs {
    /// Where sidecars find the control plane.
    pub(crate) fn control_plane(&self) -> String {
        format!(
            "https://jitney-control-plane.{}.svc:15010",
            self.control_plane_namespace
        )
    }
}

fn image(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| text.to_owned()).ok_or_else(|| {
        "expected an image, such as example.org/jitney/proxy:1 or one by its digest".to_owned()
    })
}

/// The name of a namespace: a label of DNS (RFC 1123).
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = (1..=63).contains(&text.len()) && text.bytes().all(allowed);
    (is_label && !text.starts_with('-') && !text.ends_with('-'))
        .then(|| text.to_owned())
        .ok_or_else(|| "expected the name of a namespace".to_owned())
}
