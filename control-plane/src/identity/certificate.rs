//! What a certificate says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// From when to when a certificate is good; to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Since when.
    pub from: SystemTime,
    /// Until when.
    pub until: SystemTime,
}

impl Life {
    /// That of a certificate, DER; `None` where it is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        let at = |seconds: i64| {
            let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            UNIX_EPOCH.checked_add(seconds)
        };
        Some(Self {
            from: at(validity.not_before.timestamp())?,
            until: at(validity.not_after.timestamp())?,
        })
    }

    /// What share of it is left: 1 at its beginning and before, 0 at its end and after.
    pub fn left(&self, now: SystemTime) -> f64 {
        let seconds = |from, until: SystemTime| until.duration_since(from).unwrap_or_default().as_secs_f64();
        let whole = seconds(self.from, self.until);
        if whole == 0.0 {
            return 0.0;
        }
        (seconds(now, self.until) / whole).min(1.0)
    }
}

/// Who a certificate is for, as in `CN=jitney, O=example`.
pub(super) fn subject(certificate: &[u8]) -> String {
    let read = X509Certificate::from_der(certificate);
    let subject = read.map(|(_, certificate)| certificate.subject().to_string());
    match subject {
        Ok(subject) if !subject.is_empty() => subject,
        Ok(_) | Err(_) => "a certificate without a subject".to_owned(),
    }
}

/// The identifier of a certificate's key.
pub(super) fn key_id(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        Some(id.0.to_vec())
    })
}
