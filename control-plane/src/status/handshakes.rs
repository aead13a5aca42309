//! Handshakes that failed because one end does not trust the other, or speaks something else: shown for a while.
//! Who only looks whether somebody listens, as probes do, says nothing and is not shown.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::{AlertDescription, Error};

/// By their reason, the latest last.
#[derive(Debug, Default)]
pub struct Handshakes {
    failed: Mutex<Vec<Failed>>,
}

/// Those of one reason.
#[derive(Debug)]
struct Failed {
    reason: String,
    times: u64,
    /// The last one, and when.
    address: SocketAddr,
    at: SystemTime,
}

impl Handshakes {
    /// One has failed.
    pub fn note(&self, address: SocketAddr, error: &io::Error, now: SystemTime) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
        let Some(cause) = cause else { return };
        let reason = format!("{cause}{}", meaning(cause));
        let mut failed = self.failed.lock();
        let before = failed.iter().position(|one| one.reason == reason);
        let before = before.map(|at| failed.remove(at));
        if failed.len() >= MOST_REASONS {
            failed.remove(0);
        }
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        failed.push(Failed {
            reason,
            times,
            address,
            at: now,
        });
    }

    /// Those of late, a line for each reason.
    pub fn texts(&self, now: SystemTime) -> Vec<String> {
        let mut failed = self.failed.lock();
        failed.retain(|one| now.duration_since(one.at).unwrap_or_default() < SHOWN);
        failed.iter().map(Failed::text).collect()
    }
}

impl Failed {
    fn text(&self) -> String {
        let Self {
            reason,
            times,
            address,
            ..
        } = self;
        let many = match times {
            1 => "1 handshake".to_owned(),
            more => format!("{more} handshakes"),
        };
        format!("{many} with callers failed lately, the last with {address}: {reason}")
    }
}

/// What most likely has to be mended.
const fn meaning(cause: &Error) -> &'static str {
    use AlertDescription::{BadCertificate, CertificateUnknown, DecryptError, UnknownCA};
    if let Error::AlertReceived(UnknownCA | BadCertificate | CertificateUnknown | DecryptError) = cause {
        return " (the caller does not trust this control plane: its --trust-bundle is to hold the roots of this mesh)";
    }
    if let Error::InvalidCertificate(_) = cause {
        return " (the caller's certificate is of another mesh, has expired, or its root was dropped)";
    }
    ""
}

/// More of them say nothing more.
const MOST_REASONS: usize = 8;
/// A sidecar tries again within a minute or so.
const SHOWN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn later(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn they_are_counted_by_reason_for_a_while_and_probes_are_not() {
        let (handshakes, address) = (Handshakes::default(), "127.0.0.1:9".parse().unwrap());
        let note = |cause: Error, at| handshakes.note(address, &io::Error::other(cause), later(at));
        note(Error::AlertReceived(AlertDescription::UnknownCA), 1);
        note(Error::AlertReceived(AlertDescription::UnknownCA), 2);
        note(Error::HandshakeNotComplete, 400);
        handshakes.note(address, &io::ErrorKind::UnexpectedEof.into(), later(400));
        let texts = handshakes.texts(later(500));
        let expected =
            "2 handshakes with callers failed lately, the last with 127.0.0.1:9: received fatal alert: ";
        assert!(
            texts[0].starts_with(expected) && texts[0].contains("--trust-bundle"),
            "{texts:?}"
        );
        assert_eq!(texts.len(), 2);
        assert_eq!(handshakes.texts(later(602)).len(), 1);
        for reason in 0..100 {
            note(Error::General(reason.to_string()), 700);
        }
        assert_eq!(handshakes.texts(later(700)).len(), MOST_REASONS);
    }
}
