//! Bootstrap tokens: how a sidecar that has no certificate yet shows whose it is, outside Kubernetes.
//!
//! A token names a workload and a mesh, is signed by the control plane's own key, and is good for a
//! while. That it is good for one key only is kept in [`super::used`].

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jitney_api::{Workload, is_segment};

use super::folder::{Folder, FolderError, Readable};

/// Makes tokens for one mesh, and tells whose they are.
pub struct Tokens {
    key: hmac::Key,
    trust_domain: String,
}

/// What a token says, which is known to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose it is.
    pub workload: Workload,
    /// Tells it from every other token.
    pub number: [u8; 16],
    /// Until when it is good; to the second.
    pub expires: SystemTime,
}

/// Why a token shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is none, or of a later version.
    #[error("token: not of the form v1.<claims>.<signature>")]
    Malformed,
    /// It was signed with another key, or changed.
    #[error("token: the signature does not fit")]
    Signature,
    /// It is for another mesh.
    #[error("token: for another trust domain")]
    TrustDomain,
    /// Its time is up.
    #[error("token: expired")]
    Expired(Workload),
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The folder does not let us.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is kept there is no key.
    #[error(
        "cannot use {}: expected 32 bytes in Base64; restore it from a copy, or remove it: then another one is made, and \
         tokens made before are of no use",
        .0.display()
    )]
    Key(PathBuf),
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// With a key that only control planes of this mesh have.
    pub fn new(trust_domain: &str, key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            trust_domain: trust_domain.to_owned(),
        }
    }

    /// With the key that is kept in a folder; a new one where there is none.
    ///
    /// # Errors
    /// When what is kept there is no key, or nothing can be kept there.
    ///
    /// # Panics
    /// When the system has no random numbers, without which nothing is secret.
    pub fn open(folder: &Folder, trust_domain: &str) -> Result<Self, TokensError> {
        let lock = folder.lock()?;
        if let Some(text) = folder.read(KEY_FILE)? {
            let key = URL_SAFE_NO_PAD.decode(text.trim()).ok();
            let key: Option<[u8; 32]> = key.and_then(|key| key.try_into().ok());
            return Ok(Self::new(
                trust_domain,
                &key.ok_or_else(|| TokensError::Key(folder.path(KEY_FILE)))?,
            ));
        }
        let key: [u8; 32] = random();
        lock.write(KEY_FILE, &URL_SAFE_NO_PAD.encode(key), Readable::ByOwner)?;
        Ok(Self::new(trust_domain, &key))
    }

    /// What is wrong where the key is gone that others were made with: some of these were used, and are remembered.
    /// To be asked before another key is made.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn lost(folder: &Folder) -> Result<Option<String>, FolderError> {
        if folder.read(KEY_FILE)?.is_some() || !folder.holds("used")? {
            return Ok(None);
        }
        let told = format!(
            "{} is gone, and another one is made: tokens made before are of no use now",
            folder.path(KEY_FILE).display()
        );
        Ok(Some(told))
    }

    /// A token for a workload, good for `lifetime`.
    ///
    /// # Panics
    /// When the system has no random numbers, without which nothing is secret.
    pub fn mint(&self, workload: &Workload, lifetime: Duration, now: SystemTime) -> String {
        let number: [u8; 16] = random();
        let claims = format!(
            "{}\n{}\n{}\n{}\n{}",
            self.trust_domain,
            workload.namespace,
            workload.account,
            seconds(now + lifetime),
            URL_SAFE_NO_PAD.encode(number)
        );
        let signature = hmac::sign(&self.key, claims.as_bytes());
        let [claims, signature] =
            [claims.as_bytes(), signature.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("v1.{claims}.{signature}")
    }

    /// What a token says.
    ///
    /// # Errors
    /// Why it shows nothing.
    pub fn read(&self, token: &str, now: SystemTime) -> Result<Claims, TokenFault> {
        let (claims, signature) = token
            .strip_prefix("v1.")
            .and_then(|rest| rest.split_once('.'))
            .ok_or(TokenFault::Malformed)?;
        let [claims, signature] = [claims, signature].map(|part| URL_SAFE_NO_PAD.decode(part));
        let (Ok(claims), Ok(signature)) = (claims, signature) else {
            return Err(TokenFault::Malformed);
        };
        // Nothing that it says is looked at before it is known who said it.
        hmac::verify(&self.key, &claims, &signature).map_err(|_| TokenFault::Signature)?;
        let claims = std::str::from_utf8(&claims).map_err(|_| TokenFault::Malformed)?;
        let claims: Vec<&str> = claims.split('\n').collect();
        let [trust_domain, namespace, account, expires, number] = claims[..] else {
            return Err(TokenFault::Malformed);
        };
        let expires = expires.parse().map_err(|_| TokenFault::Malformed)?;
        let expires = UNIX_EPOCH + Duration::from_secs(expires);
        let number = URL_SAFE_NO_PAD
            .decode(number)
            .ok()
            .and_then(|number| number.try_into().ok());
        let number: [u8; 16] = number.ok_or(TokenFault::Malformed)?;
        if trust_domain != self.trust_domain {
            return Err(TokenFault::TrustDomain);
        }
        if !is_segment(namespace) || !is_segment(account) {
            return Err(TokenFault::Malformed);
        }
        let workload = Workload {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
        };
        if expires <= now {
            return Err(TokenFault::Expired(workload));
        }
        Ok(Claims {
            workload,
            number,
            expires,
        })
    }
}

/// Random bytes.
///
/// # Panics
/// When the system has none, without which nothing is secret.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut number = [0; N];
    SystemRandom::new()
        .fill(&mut number)
        .expect("the system has random numbers");
    number
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Its name in the state.
pub(super) const KEY_FILE: &str = "token-key";

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn tokens(trust_domain: &str) -> Tokens {
        Tokens::new(trust_domain, &[7; 32])
    }

    fn users() -> Workload {
        Workload {
            namespace: "shop".into(),
            account: "users".into(),
        }
    }

    #[test]
    fn a_token_shows_whose_it_is_until_it_expires() {
        let tokens = tokens("example.org");
        let token = tokens.mint(&users(), HOUR, now());
        let claims = tokens
            .read(&token, now() + HOUR - Duration::from_secs(1))
            .unwrap();
        assert_eq!((claims.workload, claims.expires), (users(), now() + HOUR));
        assert_eq!(
            tokens.read(&token, now() + HOUR),
            Err(TokenFault::Expired(users()))
        );
        let another = tokens.read(&tokens.mint(&users(), HOUR, now()), now()).unwrap();
        assert_ne!(another.number, claims.number);
    }

    #[test]
    fn the_key_is_kept() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::open(path.path()).unwrap();
        let token = Tokens::open(&folder, "example.org")
            .unwrap()
            .mint(&users(), HOUR, now());
        let again = Tokens::open(&folder, "example.org").unwrap();
        assert!(again.read(&token, now()).is_ok());
        std::fs::write(folder.path(KEY_FILE), "short").unwrap();
        assert!(matches!(
            Tokens::open(&folder, "example.org"),
            Err(TokensError::Key(path)) if path == folder.path(KEY_FILE)
        ));
    }

    #[test]
    fn a_key_that_is_gone_is_told_of_where_tokens_were_used() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::open(path.path()).unwrap();
        assert_eq!(Tokens::lost(&folder).unwrap(), None);
        folder.inside("used").unwrap();
        assert_eq!(Tokens::lost(&folder).unwrap(), None);
        std::fs::write(folder.path("used/0123"), "").unwrap();
        let told = Tokens::lost(&folder).unwrap().unwrap();
        assert!(told.ends_with("tokens made before are of no use now"), "{told}");
        Tokens::open(&folder, "example.org").unwrap();
        assert_eq!(Tokens::lost(&folder).unwrap(), None);
    }

    #[test]
    fn a_token_of_another_mesh_or_key_shows_nothing() {
        let token = tokens("example.com").mint(&users(), HOUR, now());
        assert_eq!(
            tokens("example.org").read(&token, now()),
            Err(TokenFault::TrustDomain)
        );
        let token = Tokens::new("example.org", &[8; 32]).mint(&users(), HOUR, now());
        assert_eq!(
            tokens("example.org").read(&token, now()),
            Err(TokenFault::Signature)
        );
    }

    #[test]
    fn a_token_that_was_changed_shows_nothing() {
        let tokens = tokens("example.org");
        let token = tokens.mint(&users(), HOUR, now());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(tokens.read(&changed, now()).is_err(), "{changed}");
        }
        for nonsense in ["", "v1", "v1.", "v1..", "v2.AA.AA", "v1.AA.AA.AA", "v1.é.é"] {
            assert!(tokens.read(nonsense, now()).is_err(), "{nonsense}");
        }
        assert!(tokens.read(&token, now()).is_ok());
    }
}
