//! Roots that somebody else keeps: what becomes of those in force when other ones are offered, and which step of the
//! exchange takes place by itself, as time alone shows that it hurts nobody.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::{MOST_ROOTS, Root, RootId, RootState, Roots, RootsError};
use crate::identity::authority::{BACKDATED, LIFETIME, Stored};

/// What becomes of the roots when somebody offers to sign.
#[derive(Debug)]
pub enum Following {
    /// It is as offered.
    Same,
    /// Nothing yet: clocks that are a little slow would not take what is signed before then.
    Later(SystemTime),
    /// These.
    Changed(Roots),
}

/// A step of the exchange whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// The next root can sign: no certificate is alive that came without it.
    Switch(RootId),
    /// These old roots can go: no certificate is alive that they signed.
    Drop(BTreeSet<RootId>),
}

impl Roots {
    /// A mesh that begins with somebody else's root.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn offered(trust_domain: &str, offer: &Stored, now: SystemTime) -> Result<Self, RootsError> {
        let root = Root::load(trust_domain, offer.clone(), RootState::Issuing, now)?;
        Self::of(vec![root])
    }

    /// What becomes of them when somebody offers to sign. Who signs for a root that is known is replaced at once: it
    /// is the root that everybody trusts. A root that is not known becomes the next one, and so does one that was
    /// dropped half-way. It takes the place of one that was next, as nobody offers that any more.
    ///
    /// # Errors
    /// When there would be too many, or certificate or key cannot be read.
    pub fn following(
        &self,
        trust_domain: &str,
        offer: &Stored,
        now: SystemTime,
    ) -> Result<Following, RootsError> {
        let offered = Root::load(trust_domain, offer.clone(), RootState::Next, now)?;
        if let Some(known) = self.by_id(offered.id)
            && let Some(later) = known.waits_for(&offered, now)
        {
            return Ok(Following::Later(later));
        }
        let mut all = self.map(|root| match root.state {
            RootState::Old if root.id == offered.id => Some((RootState::Next, now)),
            RootState::Next if root.id == offered.id => Some((root.state, root.since)),
            RootState::Next if root.has_signed => Some((RootState::Old, now)),
            RootState::Next => None,
            RootState::Issuing | RootState::Old => Some((root.state, root.since)),
        });
        match all.iter_mut().find(|root| root.id == offered.id) {
            Some(known) => {
                (known.authority, known.stored) = (offered.authority, offered.stored);
            }
            None => all.push(offered),
        }
        if all.len() > MOST_ROOTS {
            return Err(RootsError::TooMany(all.len()));
        }
        if self.are(&all) {
            return Ok(Following::Same);
        }
        Self::of(all).map(Following::Changed)
    }

    /// The step whose time has come. A signing brings the roots of its moment, and no certificate is good for longer
    /// than [`LIFETIME`]: so long after a root was added whoever has a good one knows the root, and so long after it
    /// has signed for the last time no certificate of it is alive. It takes nobody's word, and so holds wherever
    /// sidecars are connected.
    pub fn due(&self, now: SystemTime) -> Option<Due> {
        let is_time = |root: &&Root| root.since + EVERYONE_KNOWS <= now;
        let is_good = |root: &&Root| root.authority.life().until > now;
        let next = self.in_state(RootState::Next);
        if let Some(next) = next.filter(is_time).filter(is_good) {
            return Some(Due::Switch(next.id));
        }
        let old = self.all.iter().filter(|root| root.state == RootState::Old);
        let old: BTreeSet<RootId> = old.filter(is_time).map(|root| root.id).collect();
        (!old.is_empty()).then_some(Due::Drop(old))
    }

    fn are(&self, others: &[Root]) -> bool {
        let of = |root: &Root| (root.id, root.state, root.since, root.has_signed);
        let is_same = |(one, other): (&Root, &Root)| of(one) == of(other) && one.stored == other.stored;
        self.all.len() == others.len() && self.all.iter().zip(others).all(is_same)
    }
}

impl Root {
    /// Until when this one had better go on as it is, although another key is offered for it: certificates are dated
    /// back for clocks that are slow, and what is signed by a certificate that has just begun is of no use to them.
    fn waits_for(&self, offered: &Self, now: SystemTime) -> Option<SystemTime> {
        if self.state != RootState::Issuing || self.stored == offered.stored {
            return None;
        }
        let at = offered.authority.chain_since()? + BACKDATED;
        (at > now && self.authority.life().until > at).then_some(at)
    }
}

/// How long after a change of the roots it is known to whoever has a good certificate, or none of the old ones is
/// alive: an hour more than one lives, for clocks, and for replicas that are told late.
pub const EVERYONE_KNOWS: Duration = LIFETIME.saturating_add(Duration::from_secs(3600));

#[cfg(test)]
mod tests;
