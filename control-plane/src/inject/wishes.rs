//! What a pod wishes of its sidecar: its annotations, read into what cannot be wrong.

use jitney_api::{LogLevel, Ports};

use super::resources::{RESOURCES, quantity};
use super::{GROUP, INJECT, INJECTED, Pod, Refused, entries, is_own};

/// What the annotations of a pod say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// How calls come to the sidecar.
    pub mode: Mode,
    /// Where it takes calls that the kernel does not hand it.
    pub listen: Option<Listen>,
    /// Ports of the pod that are reached past the sidecar.
    pub skip_inbound_ports: Ports,
    /// Ports elsewhere that are reached past it.
    pub skip_outbound_ports: Ports,
    /// Ports on which nobody looks at what is spoken; the sidecar's own list unless given.
    pub opaque_ports: Option<Ports>,
    /// What the sidecar logs.
    pub log_level: Option<String>,
    /// What it asks for: processor time and memory in any case, and the most of either.
    pub resources: [Option<String>; 4],
    /// Annotations of ours that nobody knows.
    pub unknown: Vec<String>,
}

/// How calls come to a sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The kernel hands it all connections of the pod.
    #[default]
    Redirect,
    /// It listens on a port of its own, and nobody needs to be allowed to write the kernel's rules.
    NoRedirect,
}

/// A port that stands for the service's, to which Services lead in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The sidecar's.
    pub port: u16,
    /// The service's, on the pod's loopback.
    pub service: u16,
}

/// Whether the pod is to have a sidecar, by its own word; a label and an annotation that say both are a no.
pub(crate) fn consent(pod: Pod<'_>) -> Result<Option<bool>, Refused> {
    let mut consent = None;
    for field in ["labels", "annotations"] {
        for (_, value) in entries(pod.metadata, field).filter(|(name, _)| *name == INJECT) {
            let said = match value {
                "enabled" => true,
                "disabled" => false,
                _ => return Err(refused(pod, INJECT, value, "enabled or disabled")),
            };
            consent = Some(consent.unwrap_or(true) && said);
        }
    }
    Ok(consent)
}

impl Wishes {
    /// Reads a pod's annotations.
    ///
    /// # Errors
    /// When one says what nobody understands.
    pub fn read(pod: Pod<'_>) -> Result<Self, Refused> {
        let mut wishes = Self::default();
        for (name, value) in entries(pod.metadata, "annotations") {
            let Some(wish) = name.strip_prefix(GROUP) else {
                continue;
            };
            let ports = || {
                let ports = value.parse::<Ports>();
                ports.map_err(|_| refused(pod, name, value, "ports and ranges of them, such as 22,5000-5010"))
            };
            match wish {
                "listen" => {
                    let listen = listen(value).ok_or_else(|| refused(pod, name, value, LISTEN))?;
                    wishes.listen = Some(listen);
                }
                "mode" => wishes.mode = mode(value).ok_or_else(|| refused(pod, name, value, MODES))?,
                "skip-inbound-ports" => wishes.skip_inbound_ports = ports()?,
                "skip-outbound-ports" => wishes.skip_outbound_ports = ports()?,
                "opaque-ports" => wishes.opaque_ports = Some(ports()?),
                "log-level" => {
                    let level = value.parse::<LogLevel>();
                    level.map_err(|_| refused(pod, name, value, LEVELS))?;
                    wishes.log_level = Some(value.to_owned());
                }
                _ if [INJECT, INJECTED].contains(&name) => {}
                _ => match RESOURCES.iter().position(|resource| resource.annotation == wish) {
                    Some(at) => {
                        let quantity = quantity(value);
                        let quantity = quantity.map_err(|expected| refused(pod, name, value, &expected))?;
                        wishes.resources[at] = Some(quantity);
                    }
                    None => wishes.unknown.push(name.to_owned()),
                },
            }
        }
        // Nothing would come to it, or what comes would be handed over before.
        match (wishes.mode, wishes.listen) {
            (Mode::NoRedirect, None) => Err(refused(pod, "jitney.dev/listen", "", LISTEN)),
            (Mode::Redirect, Some(_)) => Err(refused(pod, "jitney.dev/mode", "Redirect", LISTENING)),
            _ => Ok(wishes),
        }
    }
}

/// `15080:8080`, neither of which is one of the sidecar's own.
fn listen(text: &str) -> Option<Listen> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0 && !is_own(*port));
    let (own, service) = text.split_once(':')?;
    let (port, service) = (port(own)?, port(service)?);
    (port != service).then_some(Listen { port, service })
}

fn mode(text: &str) -> Option<Mode> {
    match text {
        "Redirect" => Some(Mode::Redirect),
        "NoRedirect" => Some(Mode::NoRedirect),
        _ => None,
    }
}

/// That an annotation says what it may not.
pub(super) fn refused(pod: Pod<'_>, name: &str, value: &str, expected: &str) -> Refused {
    Refused::Wish {
        pod: pod.called.to_owned(),
        name: name.to_owned(),
        value: value.chars().take(SHOWN_MAX).collect(),
        expected: expected.to_owned(),
    }
}

const LISTEN: &str = "the sidecar's port and the service's, such as 15080:8080, the first of which is the `targetPort` of Services";
const LISTENING: &str = "NoRedirect where jitney.dev/listen is given";
const MODES: &str = "Redirect or NoRedirect";
const LEVELS: &str = "a level, or levels by target as in info,jitney_proxy=debug";

/// Characters of an annotation that a message repeats.
const SHOWN_MAX: usize = 128;
