//! The roots of a mesh: who signs, who will, and who did.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use jitney_api::program::pem;
use jitney_api::push::config::TrustBundle;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{Authority, AuthorityError, Stored};

/// What a root is called: the first eight bytes of its certificate's SHA-256, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RootId([u8; 8]);

/// What a root is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootState {
    /// Trusted, so that it can sign as soon as every sidecar knows it.
    Next,
    /// The one that signs.
    Issuing,
    /// Trusted for as long as certificates that it signed are in use.
    Old,
}

/// One root.
#[derive(Debug)]
pub struct Root {
    /// Its name.
    pub id: RootId,
    /// What it is for.
    pub state: RootState,
    /// Since when it is for that; to the second.
    pub since: SystemTime,
    /// Until when its certificate is good.
    pub not_after: SystemTime,
    /// It with its key.
    pub authority: Authority,
    stored: Stored,
    /// By which a certificate says who signed it.
    key_id: Vec<u8>,
}

/// Every root that is trusted. Invariant: exactly one is issuing, and at most one is next.
#[derive(Debug)]
pub struct Roots {
    all: Vec<Root>,
}

/// Why roots cannot be used, or not be changed so.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// No JSON, or not of the form that is written here.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// They are of another mesh.
    #[error("of trust domain {found:?}, expected {expected:?}")]
    TrustDomain {
        /// Whose they are.
        found: String,
        /// Whose they were to be.
        expected: String,
    },
    /// None or several sign.
    #[error("found {0} issuing roots, expected one")]
    Issuing(usize),
    /// More than can be.
    #[error("found {0} roots, expected at most {MOST_ROOTS}")]
    TooMany(usize),
    /// A certificate that is no root's.
    #[error("a root's certificate has no key identifier")]
    NoKeyId,
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    trust_domain: String,
    roots: Vec<FileRoot>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileRoot {
    state: RootState,
    /// Seconds since the epoch.
    since: u64,
    certificate: String,
    key: String,
}

impl Display for RootId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<RootId> for String {
    fn from(id: RootId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RootId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for RootId {
    type Err = &'static str;

    /// As [`Display`] writes it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
        let number = number.ok_or("root: expected 16 hexadecimal digits")?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl RootState {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "Next",
            Self::Issuing => "Issuing",
            Self::Old => "Old",
        }
    }
}

impl Root {
    /// A root that has just been made.
    ///
    /// # Errors
    /// When the name of the trust domain cannot be in a SPIFFE ID, or no key can be made.
    pub fn generate(trust_domain: &str, state: RootState, now: SystemTime) -> Result<Self, RootsError> {
        let (authority, stored) = Authority::generate(trust_domain, now)?;
        Self::of(authority, stored, state, now)
    }

    fn of(
        authority: Authority,
        stored: Stored,
        state: RootState,
        since: SystemTime,
    ) -> Result<Self, RootsError> {
        let hash = digest::digest(&digest::SHA256, authority.root());
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_ref()[..8]);
        let (key_id, not_after) = read(authority.root()).ok_or(RootsError::NoKeyId)?;
        Ok(Self {
            id: RootId(id),
            state,
            since: UNIX_EPOCH + Duration::from_secs(seconds(since)),
            not_after,
            authority,
            stored,
            key_id,
        })
    }

    /// Keeps what changes in a rotation apart from what does not.
    fn again(&self, trust_domain: &str, state: RootState, since: SystemTime) -> Result<Self, RootsError> {
        let authority = Authority::load(trust_domain, &self.stored)?;
        Self::of(authority, self.stored.clone(), state, since)
    }
}

impl Roots {
    /// A mesh that has just begun.
    ///
    /// # Errors
    /// As [`Root::generate`].
    pub fn generate(trust_domain: &str, now: SystemTime) -> Result<Self, RootsError> {
        let all = vec![Root::generate(trust_domain, RootState::Issuing, now)?];
        Ok(Self { all })
    }

    /// Reads what [`Roots::to_json`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(trust_domain: &str, text: &str) -> Result<Self, RootsError> {
        let file: File = serde_json::from_str(text)?;
        if file.trust_domain != trust_domain {
            return Err(RootsError::TrustDomain {
                found: file.trust_domain,
                expected: trust_domain.to_owned(),
            });
        }
        let all: Result<Vec<Root>, RootsError> = file
            .roots
            .into_iter()
            .map(|root| load(trust_domain, root))
            .collect();
        Self::of(all?)
    }

    /// As it is kept: secret.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_json(&self, trust_domain: &str) -> Result<String, RootsError> {
        let root = |root: &Root| FileRoot {
            state: root.state,
            since: seconds(root.since),
            certificate: root.stored.certificate.clone(),
            key: root.stored.key.clone(),
        };
        let file = File {
            trust_domain: trust_domain.to_owned(),
            roots: self.all.iter().map(root).collect(),
        };
        Ok(serde_json::to_string_pretty(&file)?)
    }

    fn of(all: Vec<Root>) -> Result<Self, RootsError> {
        let issuing = all.iter().filter(|root| root.state == RootState::Issuing).count();
        if issuing != 1 {
            return Err(RootsError::Issuing(issuing));
        }
        if all.len() > MOST_ROOTS {
            return Err(RootsError::TooMany(all.len()));
        }
        Ok(Self { all })
    }

    /// Every root, the oldest first.
    pub fn all(&self) -> &[Root] {
        &self.all
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.all.len() >= MOST_ROOTS
    }

    /// The root in a state; of several old ones the oldest.
    pub fn in_state(&self, state: RootState) -> Option<&Root> {
        self.all.iter().find(|root| root.state == state)
    }

    /// The one that signs.
    pub fn issuing(&self) -> &Root {
        self.in_state(RootState::Issuing)
            .expect("of() lets nothing through without one")
    }

    /// The one that signs for the control plane itself: the oldest, which everybody knows who has ever had
    /// roots that are not all dropped. Who was away while others were added comes back by it, and is told of
    /// them. Where its own time is up, the one that signs for everybody.
    pub fn vouching(&self, now: SystemTime) -> &Root {
        let oldest = self.all.iter().find(|root| root.not_after > now);
        oldest.unwrap_or_else(|| self.issuing())
    }

    /// The root whose key has this identifier.
    pub fn by_key(&self, key_id: &[u8]) -> Option<&Root> {
        self.all.iter().find(|root| root.key_id == key_id)
    }

    /// The root of this name.
    pub fn by_id(&self, id: RootId) -> Option<&Root> {
        self.all.iter().find(|root| root.id == id)
    }

    /// The same with one more, which is next.
    ///
    /// # Errors
    /// When there would be too many, or no key can be made.
    pub fn with_next(&self, trust_domain: &str, now: SystemTime) -> Result<Self, RootsError> {
        let mut all = self.map(trust_domain, |root| Some((root.state, root.since)))?;
        all.push(Root::generate(trust_domain, RootState::Next, now)?);
        Self::of(all)
    }

    /// The same with the next one issuing, and the issuing one old.
    ///
    /// # Errors
    /// When there is no next one.
    pub fn switched(&self, trust_domain: &str, now: SystemTime) -> Result<Self, RootsError> {
        let all = self.map(trust_domain, |root| match root.state {
            RootState::Next => Some((RootState::Issuing, now)),
            RootState::Issuing => Some((RootState::Old, now)),
            RootState::Old => Some((RootState::Old, root.since)),
        })?;
        Self::of(all)
    }

    /// The same without some.
    ///
    /// # Errors
    /// When the issuing one is among them, or a key cannot be read.
    pub fn without(
        &self,
        trust_domain: &str,
        is_dropped: impl Fn(&Root) -> bool,
    ) -> Result<Self, RootsError> {
        let keep = |root: &Root| (!is_dropped(root)).then_some((root.state, root.since));
        Self::of(self.map(trust_domain, keep)?)
    }

    fn map(
        &self,
        trust_domain: &str,
        change: impl Fn(&Root) -> Option<(RootState, SystemTime)>,
    ) -> Result<Vec<Root>, RootsError> {
        let kept = self.all.iter().filter_map(|root| Some((root, change(root)?)));
        kept.map(|(root, (state, since))| root.again(trust_domain, state, since))
            .collect()
    }

    /// What sidecars are told.
    pub fn bundle(&self) -> TrustBundle {
        let der = |root: &Root| root.authority.root().to_vec().into();
        TrustBundle {
            roots: self.all.iter().map(der).collect(),
            issuer: der(self.issuing()),
        }
    }

    /// The certificates one after another, PEM.
    pub fn pem(&self) -> String {
        self.all
            .iter()
            .map(|root| pem("CERTIFICATE", root.authority.root()))
            .collect()
    }
}

fn load(trust_domain: &str, root: FileRoot) -> Result<Root, RootsError> {
    let stored = Stored {
        certificate: root.certificate,
        key: root.key,
    };
    let authority = Authority::load(trust_domain, &stored)?;
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(root.since));
    Root::of(authority, stored, root.state, since.unwrap_or(UNIX_EPOCH))
}

/// A root's key identifier, and until when it is good.
fn read(root: &[u8]) -> Option<(Vec<u8>, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    let key_id = certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        Some(id.0.to_vec())
    })?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some((key_id, UNIX_EPOCH + Duration::from_secs(not_after)))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One that signs, one that is next, and those that are not dropped yet: each makes every bundle larger.
const MOST_ROOTS: usize = 4;
