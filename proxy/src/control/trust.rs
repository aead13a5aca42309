//! Whom the sidecar trusts to be its control plane: certificates that a root of the mesh signed, and that
//! name the control plane.
//!
//! The newest word counts. Roots that are pushed take the place of the file's, which may still name one that was
//! dropped since. But a file whose content has changed after that was written by somebody who knows better:
//! the control plane was rebuilt, or its roots were exchanged while this sidecar was away. It is asked where the
//! pushed roots do not know who answers, and only until something is pushed again.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jitney_api::Workload;
use jitney_api::push::{Version, config};
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::mtls::OneOfMesh;

/// The roots, hot.
#[derive(Clone)]
pub(super) struct Trust {
    file: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    bundle: Option<config::TrustBundle>,
    /// What the file held when the roots were pushed; `None` while they are merely remembered. Invariant: as
    /// long as the same roots are pushed, it is what the first of these pushes found.
    file_then: Option<FileThen>,
    /// Somebody has answered whom the roots do not know.
    is_doubted: bool,
    /// What was said of a file that was asked and holds no roots.
    no_help: Option<String>,
}

/// The content of the file; `None` when there was none that could be read.
type FileThen = Option<Version>;

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// With the roots of a file to begin with.
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        read_roots(file)?;
        Ok(Self {
            file: file.to_owned(),
            known: Arc::default(),
        })
    }

    /// What the control plane says now.
    ///
    /// # Errors
    /// When none of it could be trusted; then all stays as it was.
    pub(super) fn replace(&self, bundle: config::TrustBundle) -> Result<(), String> {
        check(&bundle)?;
        let mut known = self.known.lock();
        known.no_help = None;
        let is_news = known
            .bundle
            .as_ref()
            .is_none_or(|last| last.roots != bundle.roots);
        if is_news || known.file_then.is_none() {
            known.file_then = Some(self.file_now());
        }
        known.bundle = Some(bundle);
        known.is_doubted = false;
        Ok(())
    }

    /// What it said before this process started: trusted beside the file, of which either may be older.
    ///
    /// # Errors
    /// As [`Trust::replace`].
    pub(super) fn remember(&self, bundle: config::TrustBundle) -> Result<(), String> {
        check(&bundle)?;
        self.known.lock().bundle = Some(bundle);
        Ok(())
    }

    /// Whoever answered has a certificate that no root signed which is trusted now.
    pub(super) fn doubt(&self) {
        self.known.lock().is_doubted = true;
    }

    /// A control plane has answered.
    pub(super) fn believe(&self) {
        self.known.lock().is_doubted = false;
    }

    /// What may be wrong where somebody answers whom no root knows.
    pub(super) fn who_is_unknown(&self) -> String {
        let file = self.file.display();
        let roots = match self.known.lock().bundle {
            None => format!("none of the roots in --trust-bundle {file} has"),
            Some(_) => format!("neither a root that was pushed nor one in --trust-bundle {file} has"),
        };
        format!(
            "{roots} signed the control plane's certificate; that file is to hold the roots of this mesh \
             (jitney-control-plane trust roots), and --control-plane to name its control plane"
        )
    }

    fn file_now(&self) -> FileThen {
        fs::read(&self.file).ok().map(|content| Version::of(&content))
    }

    /// The file's roots, where they are to be asked.
    fn of_file(&self, known: &mut Known) -> io::Result<RootCertStore> {
        match known.file_then {
            None => read_roots(&self.file),
            Some(then) if known.is_doubted && self.file_now() != then => {
                let roots = read_roots(&self.file);
                Ok(roots.unwrap_or_else(|error| {
                    // Those that were pushed may still do. Told once: it is tried again many times.
                    let told = known.no_help.replace(error.to_string());
                    if told != known.no_help {
                        tracing::warn!(%error, "the roots that were pushed know nobody, and the file is no help");
                    }
                    RootCertStore::empty()
                }))
            }
            Some(_) => Ok(RootCertStore::empty()),
        }
    }

    /// Whether a certificate was signed by a root that signs no more, and so is to be renewed.
    pub(super) fn is_outdated(&self, issuer: &[u8]) -> bool {
        let known = self.known.lock();
        let signs_now = known.bundle.as_ref().map(|bundle| &bundle.issuer);
        signs_now.is_some_and(|root| !root.is_empty() && root.as_ref() != issuer)
    }

    /// What the control plane said last; `None` when that was another process's to hear.
    pub(super) fn bundle(&self) -> Option<config::TrustBundle> {
        self.known.lock().bundle.clone()
    }

    /// Tells control planes from others, as of now.
    ///
    /// # Errors
    /// When the file is needed, and cannot be read.
    pub(super) fn verifier(&self) -> io::Result<Arc<OneOfMesh>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = OneOfMesh::new(self.roots()?.into(), provider);
        Ok(Arc::new(verifier.only(Workload::control_plane())))
    }

    /// Who signs for the mesh, as of now.
    ///
    /// # Errors
    /// When the file is needed, and cannot be read.
    pub(super) fn roots(&self) -> io::Result<RootCertStore> {
        let mut known = self.known.lock();
        let mut roots = self.of_file(&mut known)?;
        for root in known.bundle.iter().flat_map(|bundle| &bundle.roots) {
            // Tried when it came.
            drop(roots.add(CertificateDer::from(root.to_vec())));
        }
        Ok(roots)
    }
}

fn check(bundle: &config::TrustBundle) -> Result<(), String> {
    if bundle.roots.is_empty() {
        return Err("found no root, expected at least one".into());
    }
    for (index, root) in bundle.roots.iter().enumerate() {
        let added = RootCertStore::empty().add(CertificateDer::from(root.to_vec()));
        added.map_err(|error| format!("roots[{index}]: {error}"))?;
    }
    Ok(())
}

fn read_roots(file: &Path) -> io::Result<RootCertStore> {
    let invalid = |reason: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("--trust-bundle {}: {reason}", file.display()),
        )
    };
    let named = |error: io::Error| {
        let text = format!("--trust-bundle {}: {error}", file.display());
        io::Error::new(error.kind(), text)
    };
    let text = fs::read(file).map_err(named)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid(
            "found no certificate, expected at least one in PEM".into(),
        ));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
