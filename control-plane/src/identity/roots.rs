//! The roots of a mesh: who signs, who will, and who did.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::authority::{Authority, AuthorityError, Stored};
use super::certificate::{Life, key_id};
use aws_lc_rs::digest;
use jitney_api::program::pem;
use jitney_api::push::config::TrustBundle;
use serde::{Deserialize, Serialize};

mod following;

pub use following::{Due, EVERYONE_KNOWS, Following};

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

/// One root, and who signs for it.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its name.
    pub id: RootId,
    /// What it is for.
    pub state: RootState,
    /// Since when it is for that; to the second.
    pub since: SystemTime,
    /// Until when its certificate is good.
    pub not_after: SystemTime,
    /// It with the key that signs for it: its own, or one that it vouches for.
    pub authority: Arc<Authority>,
    stored: Stored,
    /// Where it is next: whether it has signed before, so that certificates of it may be alive.
    has_signed: bool,
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
    /// Left out where the root itself signs, so that older replicas read what they could have written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    chain: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_signed: bool,
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

    fn load(
        trust_domain: &str,
        stored: Stored,
        state: RootState,
        since: SystemTime,
    ) -> Result<Self, RootsError> {
        let authority = Authority::load(trust_domain, &stored)?;
        Self::of(authority, stored, state, since)
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
        let life = Life::of(authority.root());
        let key_id = key_id(authority.root());
        let (key_id, life) = key_id.zip(life).ok_or(RootsError::NoKeyId)?;
        Ok(Self {
            id: RootId(id),
            state,
            since: UNIX_EPOCH + Duration::from_secs(seconds(since)),
            not_after: life.until,
            authority: Arc::new(authority),
            stored,
            has_signed: false,
            key_id,
        })
    }

    /// Keeps what changes in a rotation apart from what does not.
    fn again(&self, state: RootState, since: SystemTime) -> Self {
        let has_signed = state == RootState::Next && (self.has_signed || self.state != RootState::Next);
        let since = UNIX_EPOCH + Duration::from_secs(seconds(since));
        Self {
            state,
            since,
            has_signed,
            ..self.clone()
        }
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
            chain: root.stored.chain.clone(),
            has_signed: root.has_signed,
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
    /// them. Where its time, or that of who signs for it, is nearly up, the one that signs for everybody.
    pub fn vouching(&self, now: SystemTime) -> &Root {
        let is_good = |root: &&Root| root.authority.life().until > now + VOUCHING_LEAST;
        let oldest = self.all.iter().find(is_good);
        oldest.unwrap_or_else(|| self.issuing())
    }

    /// The root whose key has this identifier. A root that was renewed may have the key of the one before: of several
    /// it is the one that will be trusted the longest.
    pub fn by_key(&self, key_id: &[u8]) -> Option<&Root> {
        self.longest_trusted(|root| root.key_id == key_id)
    }

    /// Of the roots of which something is so, the one that will be trusted the longest.
    pub(super) fn longest_trusted(&self, is_so: impl Fn(&Root) -> bool) -> Option<&Root> {
        let states = [RootState::Issuing, RootState::Next, RootState::Old].into_iter();
        let mut all = states.flat_map(|state| self.all.iter().filter(move |root| root.state == state));
        all.find(|root| is_so(root))
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
        let mut all = self.all.clone();
        all.push(Root::generate(trust_domain, RootState::Next, now)?);
        Self::of(all)
    }

    /// The same with the next one issuing, and the issuing one old.
    ///
    /// # Errors
    /// When there is no next one.
    pub fn switched(&self, now: SystemTime) -> Result<Self, RootsError> {
        let all = self.map(|root| match root.state {
            RootState::Next => Some((RootState::Issuing, now)),
            RootState::Issuing => Some((RootState::Old, now)),
            RootState::Old => Some((RootState::Old, root.since)),
        });
        Self::of(all)
    }

    /// The same without some.
    ///
    /// # Errors
    /// When the issuing one is among them.
    pub fn without(&self, is_dropped: impl Fn(&Root) -> bool) -> Result<Self, RootsError> {
        Self::of(self.map(|root| (!is_dropped(root)).then_some((root.state, root.since))))
    }

    fn map(&self, change: impl Fn(&Root) -> Option<(RootState, SystemTime)>) -> Vec<Root> {
        let kept = self.all.iter().filter_map(|root| Some((root, change(root)?)));
        kept.map(|(root, (state, since))| root.again(state, since))
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
        chain: root.chain,
    };
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(root.since));
    let loaded = Root::load(trust_domain, stored, root.state, since.unwrap_or(UNIX_EPOCH))?;
    Ok(Root {
        has_signed: root.has_signed,
        ..loaded
    })
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long a certificate of the control plane itself is to be good at least, where another root signs as well.
const VOUCHING_LEAST: Duration = Duration::from_secs(3600);

/// One that signs, one that is next, and those that are not dropped yet: each makes every bundle larger.
const MOST_ROOTS: usize = 4;
