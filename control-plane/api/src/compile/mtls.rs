//! Certificates that documents ask for.

use super::{Check, Faults};
use crate::node::Path;
use crate::{Diagnostic, Documents, InboundMtls, Mtls, Resource};

/// Whatever is `mtls: Strict`, told as faults: for a sidecar without a control plane, from which alone
/// certificates come.
pub fn strict_mtls(documents: &Documents) -> Vec<Diagnostic> {
    let faults = Faults::of(documents);
    for document in &documents.documents {
        let check = Check {
            document,
            faults: &faults,
        };
        let path = Path::default().keys("spec.mtls");
        let strict = match &document.resource {
            Resource::Backend(backend) if backend.spec.mtls == Mtls::Strict => vec![path],
            Resource::Listener(listener) if listener.spec.mtls == Some(Mtls::Strict) => vec![path],
            Resource::Runtime(runtime) => {
                let asked = runtime.spec.mtls.as_ref();
                asked.map_or_else(Vec::new, |asked| strict(asked, &path))
            }
            Resource::Backend(_) | Resource::Listener(_) | Resource::BatchPolicy(_) => Vec::new(),
        };
        for path in strict {
            check.fault(
                &path,
                "found Strict, which takes certificates: they come from a control plane",
            );
        }
    }
    faults.warnings_or_errors().err().unwrap_or_default()
}

fn strict(asked: &InboundMtls, path: &Path) -> Vec<Path> {
    let whole = (asked.mode == Mtls::Strict).then(|| path.key("mode"));
    let ports = asked.ports.iter().enumerate();
    let ports = ports.filter(|(_, port)| port.mode == Mtls::Strict);
    let ports = ports.map(|(index, _)| path.key("ports").index(index).key("mode"));
    whole.into_iter().chain(ports).collect()
}

/// A port has one mode.
pub(super) fn check(check: &Check<'_>, asked: &InboundMtls) {
    let path = Path::default().keys("spec.mtls.ports");
    for (index, one) in asked.ports.iter().enumerate() {
        let at = path.index(index).key("port");
        if one.port == 0 {
            check.fault(&at, "found 0, expected 1 to 65535");
        }
        if asked.ports[..index].iter().any(|before| before.port == one.port) {
            check.fault(&at, format!("found {} a second time, expected it once", one.port));
        }
    }
}
