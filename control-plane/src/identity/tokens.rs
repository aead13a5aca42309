//! Bootstrap tokens: how a sidecar that has no certificate yet shows whose it is, outside Kubernetes.
//!
//! A token names a workload and a mesh, is signed by the control plane's own key, is good for a
//! while, and for one use: who reads it later, in a log or a process list, can do nothing with it.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jitney_api::{Workload, is_segment};
use parking_lot::Mutex;

/// Makes tokens for one mesh, and tells whose they are.
pub struct Tokens {
    key: hmac::Key,
    trust_domain: String,
    /// Tokens that were used, until they expire.
    used: Mutex<HashMap<[u8; 16], SystemTime>>,
}

/// Why a token shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    Expired,
    /// It was used before.
    #[error("token: used before")]
    Replayed,
    /// So many were used lately that no more can be remembered.
    #[error("token: too many were used lately, try again later")]
    Busy,
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
            used: Mutex::default(),
        }
    }

    /// A token for a workload, good for `lifetime`.
    ///
    /// # Panics
    /// When the system has no random numbers, without which nothing is secret.
    pub fn mint(&self, workload: &Workload, lifetime: Duration, now: SystemTime) -> String {
        let mut number = [0; 16];
        SystemRandom::new()
            .fill(&mut number)
            .expect("the system has random numbers");
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

    /// Whose token this is. It is used up thereby.
    ///
    /// # Errors
    /// Why it shows nothing. It is not used up then.
    pub fn redeem(&self, token: &str, now: SystemTime) -> Result<Workload, TokenFault> {
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
        if expires <= now {
            return Err(TokenFault::Expired);
        }
        if !is_segment(namespace) || !is_segment(account) {
            return Err(TokenFault::Malformed);
        }
        self.use_up(number, expires, now)?;
        Ok(Workload {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
        })
    }

    fn use_up(&self, number: [u8; 16], expires: SystemTime, now: SystemTime) -> Result<(), TokenFault> {
        let mut used = self.used.lock();
        if used.contains_key(&number) {
            return Err(TokenFault::Replayed);
        }
        if used.len() >= MOST_USED {
            used.retain(|_, expires| *expires > now);
        }
        // To forget one that has not expired would be to let it be used again.
        if used.len() >= MOST_USED {
            return Err(TokenFault::Busy);
        }
        used.insert(number, expires);
        Ok(())
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Tokens remembered as used: as many sidecars can come within the lifetime of a token.
const MOST_USED: usize = 100_000;

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
    fn a_token_shows_whose_it_is_once() {
        let tokens = tokens("example.org");
        let token = tokens.mint(&users(), HOUR, now());
        assert_eq!(tokens.redeem(&token, now()), Ok(users()));
        assert_eq!(tokens.redeem(&token, now()), Err(TokenFault::Replayed));
        let another = tokens.mint(&users(), HOUR, now());
        assert_eq!(tokens.redeem(&another, now()), Ok(users()));
    }

    #[test]
    fn a_token_expires_and_then_need_not_be_remembered() {
        let tokens = tokens("example.org");
        let token = tokens.mint(&users(), HOUR, now());
        assert_eq!(tokens.redeem(&token, now() + HOUR), Err(TokenFault::Expired));
        assert_eq!(
            tokens.redeem(&token, now() + HOUR - Duration::from_secs(1)),
            Ok(users())
        );
        assert_eq!(tokens.redeem(&token, now() + HOUR), Err(TokenFault::Expired));
    }

    #[test]
    fn a_token_of_another_mesh_or_key_shows_nothing() {
        let token = tokens("example.com").mint(&users(), HOUR, now());
        assert_eq!(
            tokens("example.org").redeem(&token, now()),
            Err(TokenFault::TrustDomain)
        );
        let token = Tokens::new("example.org", &[8; 32]).mint(&users(), HOUR, now());
        assert_eq!(
            tokens("example.org").redeem(&token, now()),
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
            assert!(tokens.redeem(&changed, now()).is_err(), "{changed}");
        }
        for nonsense in ["", "v1", "v1.", "v1..", "v2.AA.AA", "v1.AA.AA.AA", "v1.é.é"] {
            assert!(tokens.redeem(nonsense, now()).is_err(), "{nonsense}");
        }
        assert_eq!(
            tokens.redeem(&token, now()),
            Ok(users()),
            "none of this used it up"
        );
    }
}
