//! Trust: the roots in force, kept in the state folder, and their rotation.
//!
//! A root is exchanged in three steps, each of which waits until it hurts nobody: add the next one,
//! switch to it when every sidecar knows it, drop the old one when no sidecar needs it. Whether a step
//! hurts is for the caller to say; here is only what the roots themselves allow.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use jitney_api::push::{Held, Kind, Pushed, Readers, Version};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::alive::Alive;
use super::folder::{Folder, FolderError, Readable};
use super::issuer::Offer;
use super::roots::{Due, Following, Root, RootId, RootState, Roots, RootsError};
use super::tokens::KEY_FILE;

/// The roots in force. Replicas that share the folder take over what another one changed.
#[derive(Debug)]
pub struct Trust {
    folder: Folder,
    trust_domain: String,
    present: ArcSwap<Roots>,
    changed: watch::Sender<()>,
    /// Held while the roots are replaced, so that no reading overtakes a later one. Whoever has it may wait
    /// for a disk.
    replacing: Mutex<()>,
    bundles: Mutex<Bundles>,
}

/// What became of the roots when somebody offered to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// They were so already.
    Same,
    /// They will be so in some minutes.
    Later,
    /// They are so now.
    Changed,
}

/// Versions of the last bundles, and the roots in each.
type Bundles = VecDeque<(Version, Vec<RootId>)>;

/// Why there is no trust, or why it does not change.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The folder does not let us.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is kept there cannot be used.
    #[error("cannot use {}: {cause}; {}", path.display(), way_out(cause))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: RootsError,
    },
    /// What is kept beside it says that there was one.
    #[error(
        "{} is gone, and {} beside it {} of a mesh that had one: restore it from a copy; to begin with another \
         authority, of which every sidecar needs a new token and the new roots in its --trust-bundle, remove {}",
        path.display(),
        listed(left),
        if left.len() == 1 { "is" } else { "are" },
        listed(&in_the_way(left)),
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// What is left of the mesh.
        left: Vec<&'static str>,
    },
    /// It cannot be changed so.
    #[error("{FILE}: {0}")]
    Roots(#[from] RootsError),
    /// There is one already.
    #[error("there is a next root already: switch to it first")]
    NextExists,
    /// Each makes what every sidecar is told larger.
    #[error("there are {0} roots already: drop the old ones first")]
    Full(usize),
    /// There is none.
    #[error("there is no next root: add one first")]
    NoNext,
    /// There is none.
    #[error("there is no old root to drop")]
    NoOld,
    /// Certificates of it are alive.
    #[error("{0} certificates of the old roots were signed just now: try again")]
    Needed(usize),
    /// It is not known whether any are.
    #[error("{0}; try again")]
    Unknown(String),
}

impl Trust {
    /// The trust that is kept in a folder; a new one, with a root of its own, where there is none.
    ///
    /// # Errors
    /// When what is kept there cannot be used, is another mesh's or is gone, or nothing can be kept there.
    pub fn open(folder: &Folder, trust_domain: &str, now: SystemTime) -> Result<Self, TrustError> {
        let lock = folder.lock()?;
        let roots = match folder.read(FILE)? {
            Some(text) => read(folder, trust_domain, &text)?,
            None => {
                never_kept(folder)?;
                let roots = Roots::generate(trust_domain, now)?;
                lock.write(FILE, &roots.to_json(trust_domain)?, Readable::ByOwner)?;
                roots
            }
        };
        // What is there already may be watched, or on a file system that can only be read.
        if folder.read(BUNDLE_FILE)?.as_deref() != Some(&roots.pem()) {
            lock.write(BUNDLE_FILE, &roots.pem(), Readable::ByAll)?;
        }
        let trust = Self {
            folder: folder.clone(),
            trust_domain: trust_domain.to_owned(),
            present: ArcSwap::from_pointee(roots),
            changed: watch::Sender::new(()),
            replacing: Mutex::default(),
            bundles: Mutex::default(),
        };
        trust.remember();
        Ok(trust)
    }

    /// Whether there is one in a folder.
    ///
    /// # Errors
    /// When that cannot be read, or there was one and it is gone.
    pub fn is_kept(folder: &Folder) -> Result<bool, TrustError> {
        let is_kept = folder.read(FILE)?.is_some();
        if !is_kept {
            never_kept(folder)?;
        }
        Ok(is_kept)
    }

    /// Looks whether the trust that is kept in a folder, if there is one, is this mesh's. Changes nothing.
    ///
    /// # Errors
    /// When it is not, cannot be used, or is gone.
    pub fn check(folder: &Folder, trust_domain: &str) -> Result<(), TrustError> {
        match folder.read(FILE)? {
            Some(text) => read(folder, trust_domain, &text).map(drop),
            None => never_kept(folder),
        }
    }

    /// Has a folder hold what is kept elsewhere, before [`Trust::open`].
    ///
    /// # Errors
    /// When it cannot be used, is another mesh's, or the folder cannot be written.
    pub fn bring(folder: &Folder, trust_domain: &str, text: &str) -> Result<(), TrustError> {
        let roots = read(folder, trust_domain, text)?;
        let lock = folder.lock()?;
        Ok(lock.write(FILE, &roots.to_json(trust_domain)?, Readable::ByOwner)?)
    }

    /// Has a folder hold somebody else's root, before [`Trust::open`], where it has never held any. True where it
    /// holds that root from now on.
    ///
    /// # Errors
    /// When there was one and it is gone, or the folder cannot be written.
    pub fn begin(
        folder: &Folder,
        trust_domain: &str,
        offer: &Offer,
        now: SystemTime,
    ) -> Result<bool, TrustError> {
        let lock = folder.lock()?;
        if folder.read(FILE)?.is_some() {
            return Ok(false);
        }
        never_kept(folder)?;
        let roots = Roots::offered(trust_domain, offer.stored(), now)?;
        lock.write(FILE, &roots.to_json(trust_domain)?, Readable::ByOwner)?;
        Ok(true)
    }

    /// What is in force, as it is kept.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn text(&self) -> Result<String, TrustError> {
        Ok(self.roots().to_json(&self.trust_domain)?)
    }

    /// Takes over what is kept elsewhere. True when that is another thing than is in force.
    ///
    /// # Errors
    /// When it cannot be used or kept here. What was in force stays.
    pub fn adopt(&self, text: &str) -> Result<bool, TrustError> {
        if text == self.text()? {
            return Ok(false);
        }
        let roots = read(&self.folder, &self.trust_domain, text)?;
        self.change(|_| Ok(roots))?;
        Ok(true)
    }

    /// The mesh.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The file that holds the roots and their keys.
    pub fn file(&self) -> PathBuf {
        self.folder.path(FILE)
    }

    /// The roots in force.
    pub fn roots(&self) -> Arc<Roots> {
        self.present.load_full()
    }

    /// Tells of every change of the roots.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What sidecars are told of the roots in force: a resource for everyone.
    pub fn pushed(&self) -> Pushed {
        Pushed {
            kind: Kind::TrustBundle,
            name: self.trust_domain.as_str().into(),
            held: Held::of(&self.roots().bundle()),
            readers: Readers::Everyone,
        }
    }

    /// The roots in a version of the bundle; `None` when it is none of the last ones.
    pub fn in_bundle(&self, version: Version) -> Option<Vec<RootId>> {
        let bundles = self.bundles.lock();
        let (_, roots) = bundles.iter().find(|(known, _)| *known == version)?;
        Some(roots.clone())
    }

    /// Makes another root, which is trusted from now on and signs nothing yet. Blocks, as the two steps after
    /// it do: a few files are written, and somebody else may be at it.
    ///
    /// # Errors
    /// When there is one already, there are too many, or the folder cannot be written.
    pub fn add(&self, now: SystemTime) -> Result<(), TrustError> {
        self.change(|roots| match roots.in_state(RootState::Next) {
            Some(_) => Err(TrustError::NextExists),
            None if roots.is_full() => Err(TrustError::Full(roots.all().len())),
            None => Ok(roots.with_next(&self.trust_domain, now)?),
        })
    }

    /// Has the next root sign from now on: this one, of which it is known that it hurts nobody.
    ///
    /// # Errors
    /// When it is not next, or the folder cannot be written.
    pub fn switch(&self, to: RootId, now: SystemTime) -> Result<(), TrustError> {
        self.change(|roots| match roots.in_state(RootState::Next) {
            Some(next) if next.id == to => Ok(roots.switched(now)?),
            Some(_) | None => Err(TrustError::NoNext),
        })
    }

    /// Trusts these old roots no more. Another replica may have made others old meanwhile, which stay.
    ///
    /// # Errors
    /// When none of them is old, or the folder cannot be written.
    pub fn drop_old(&self, which: &[RootId]) -> Result<(), TrustError> {
        self.change(|roots| {
            let is_dropped = |root: &Root| root.state == RootState::Old && which.contains(&root.id);
            if !roots.all().iter().any(is_dropped) {
                return Err(TrustError::NoOld);
            }
            Ok(roots.without(is_dropped)?)
        })
    }

    /// Has the roots be as somebody offers. Blocks where they are not.
    ///
    /// # Errors
    /// When there are too many, or the folder cannot be written.
    pub fn follow(&self, offer: &Offer, now: SystemTime) -> Result<Followed, TrustError> {
        let following = |roots: &Roots| {
            let following = roots.following(&self.trust_domain, offer.stored(), now);
            following.map_err(|error| {
                let is_full = matches!(error, RootsError::TooMany(_));
                if is_full {
                    TrustError::Full(roots.all().len())
                } else {
                    error.into()
                }
            })
        };
        let changed = match following(&self.roots())? {
            Following::Same => false,
            Following::Later(_) => return Ok(Followed::Later),
            Following::Changed(_) => self.change_if(|roots| match following(roots)? {
                Following::Same | Following::Later(_) => Ok(None),
                Following::Changed(roots) => Ok(Some(roots)),
            })?,
        };
        Ok(if changed {
            Followed::Changed
        } else {
            Followed::Same
        })
    }

    /// Takes a step of the exchange whose time has come, unless it is not time by what is in the file. False where
    /// another replica was faster. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn advance(&self, due: &Due, now: SystemTime) -> Result<bool, TrustError> {
        self.change_if(|roots| {
            if roots.due(now).as_ref() != Some(due) {
                return Ok(None);
            }
            let changed = match due {
                Due::Switch(_) => roots.switched(now)?,
                Due::Drop(old) => roots.without(|root| old.contains(&root.id))?,
            };
            Ok(Some(changed))
        })
    }

    /// Takes over what another replica may have changed. True when it has.
    ///
    /// # Errors
    /// When the file cannot be read or used. What was in force stays.
    pub fn reload(&self) -> Result<bool, TrustError> {
        let replacing = self.replacing.lock();
        let text = self.folder.read(FILE)?.unwrap_or_default();
        if text == self.text()? {
            return Ok(false);
        }
        let roots = read(&self.folder, &self.trust_domain, &text)?;
        self.put_in_force(roots, replacing);
        Ok(true)
    }

    /// Changes what is in the file, not what was read from it some time ago.
    fn change(&self, change: impl FnOnce(&Roots) -> Result<Roots, TrustError>) -> Result<(), TrustError> {
        self.change_if(|roots| change(roots).map(Some)).map(drop)
    }

    /// The same, where there is something to change; else takes over what is in the file.
    fn change_if(
        &self,
        change: impl FnOnce(&Roots) -> Result<Option<Roots>, TrustError>,
    ) -> Result<bool, TrustError> {
        let replacing = self.replacing.lock();
        let lock = self.folder.lock()?;
        let text = self.folder.read(FILE)?.unwrap_or_default();
        let kept = read(&self.folder, &self.trust_domain, &text)?;
        let Some(roots) = change(&kept)? else {
            drop(lock);
            if text != self.text()? {
                self.put_in_force(kept, replacing);
            }
            return Ok(false);
        };
        lock.write(FILE, &roots.to_json(&self.trust_domain)?, Readable::ByOwner)?;
        lock.write(BUNDLE_FILE, &roots.pem(), Readable::ByAll)?;
        drop(lock);
        self.put_in_force(roots, replacing);
        Ok(true)
    }

    fn put_in_force(&self, roots: Roots, replacing: MutexGuard<'_, ()>) {
        self.present.store(Arc::new(roots));
        self.remember();
        drop(replacing);
        self.changed.send_replace(());
    }

    fn remember(&self) {
        let roots = self.roots().all().iter().map(|root| root.id).collect();
        let mut bundles = self.bundles.lock();
        bundles.push_back((self.pushed().held.version, roots));
        if bundles.len() > MOST_BUNDLES {
            bundles.pop_front();
        }
    }
}

const fn way_out(cause: &RootsError) -> &'static str {
    match cause {
        RootsError::TrustDomain { .. } => "say so with --trust-domain, or use another --state",
        RootsError::Json(_)
        | RootsError::Issuing(_)
        | RootsError::TooMany(_)
        | RootsError::NoKeyId
        | RootsError::Authority(_) => {
            "restore it from a copy; without it another authority is made, of which every sidecar needs a new token and \
             the new roots in its --trust-bundle"
        }
    }
}

/// Looks whether a folder without an authority never had one: all that is looked for is made after it.
fn never_kept(folder: &Folder) -> Result<(), TrustError> {
    let mut left = Vec::new();
    if folder.read(BUNDLE_FILE)?.is_some() {
        left.push(BUNDLE_FILE);
    }
    // What is to be signed is noted in a file that is made before.
    if Alive::has_noted(folder)? {
        left.push("certificates/");
    }
    for (name, shown) in [("used", USED), ("replicas", "replicas/")] {
        if folder.holds(name)? {
            left.push(shown);
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    let path = folder.path(FILE);
    Err(TrustError::Lost { path, left })
}

/// What another authority cannot begin beside. A token that was used must not be good again: with the notes of that
/// goes the key.
fn in_the_way(left: &[&'static str]) -> Vec<&'static str> {
    let mut all = left.to_vec();
    if left.contains(&USED) {
        all.push(KEY_FILE);
    }
    all
}

/// In a sentence.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

fn read(folder: &Folder, trust_domain: &str, text: &str) -> Result<Roots, TrustError> {
    let unusable = |cause| TrustError::Unusable {
        path: folder.path(FILE),
        cause,
    };
    Roots::from_json(trust_domain, text).map_err(unusable)
}

/// Bundles that are remembered: those of a few rotations, which sidecars may still hold.
const MOST_BUNDLES: usize = 16;

/// As it is shown.
const USED: &str = "used/";

/// Roots and keys.
const FILE: &str = "authority.json";
/// The roots' certificates alone, for a sidecar's `--trust-bundle`.
pub const BUNDLE_FILE: &str = "roots.pem";

#[cfg(test)]
mod tests;
