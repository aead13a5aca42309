//! `--issuer`: a folder in which somebody else keeps an authority, as a Secret of cert-manager is mounted. The roots
//! follow it while this runs, and the steps of the exchange are taken by time, with nobody to ask for them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_api::{Sources, Watch};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::faults::{Doing, Faults};
use crate::identity::{
    Alive, CERTIFICATE, Due, EVERYONE_KNOWS, Followed, KEY, Offer, OfferFault, OfferFiles, ROOTS, Trust,
    TrustError,
};

/// The folder, and what was good of it last.
#[derive(Debug)]
pub struct Issuer {
    folder: PathBuf,
    trust: Arc<Trust>,
    alive: Arc<Alive>,
    faults: Arc<Faults>,
    /// Held while the folder is read, so that no reading overtakes a later one, and while the roots change.
    wanted: Mutex<Wanted>,
}

/// What the roots are to be.
#[derive(Debug)]
struct Wanted {
    offer: Offer,
    since: Instant,
    /// Whether the roots were so once.
    is_settled: bool,
    /// Why what is in the folder now is not wanted.
    fault: Option<String>,
}

/// Why nothing can be signed with what is in the folder.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file is not there, or not for us.
    #[error(
        "--issuer {}: {file}: cannot be read: {cause}; expected {CERTIFICATE}, {KEY} and {ROOTS}, as in a Secret that \
         cert-manager wrote for a Certificate with isCA: true",
        folder.display()
    )]
    File {
        /// The folder.
        folder: PathBuf,
        /// In the folder.
        file: &'static str,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A file is of no use.
    #[error("--issuer {}: {fault}", folder.display())]
    Offer {
        /// The folder.
        folder: PathBuf,
        /// Which, and why.
        #[source]
        fault: OfferFault,
    },
}

impl Issuer {
    /// What is in a folder. It is tried out, and nothing is changed.
    ///
    /// # Errors
    /// Which file is at fault, why, and what to do.
    pub fn read(folder: &Path, trust_domain: &str, now: SystemTime) -> Result<Offer, IssuerError> {
        // What a kubelet mounts is behind one link, which leads elsewhere when the Secret changes: by that the three
        // files are of one Secret.
        let behind = folder.join("..data").canonicalize();
        let within = behind.as_deref().unwrap_or(folder);
        let text = |file| {
            read(&within.join(file)).map_err(|cause| IssuerError::File {
                folder: folder.to_owned(),
                file,
                cause,
            })
        };
        let files = OfferFiles {
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            roots: text(ROOTS)?,
        };
        Offer::read(&files, trust_domain, now).map_err(|fault| IssuerError::Offer {
            folder: folder.to_owned(),
            fault,
        })
    }

    /// Has the roots follow a folder, in which this was.
    pub fn new(
        folder: &Path,
        offer: Offer,
        trust: &Arc<Trust>,
        alive: &Arc<Alive>,
        faults: &Arc<Faults>,
        now: SystemTime,
    ) -> Self {
        let issuer = Self {
            folder: folder.to_owned(),
            trust: Arc::clone(trust),
            alive: Arc::clone(alive),
            faults: Arc::clone(faults),
            wanted: Mutex::new(Wanted::new(offer)),
        };
        issuer.turn(now);
        issuer
    }

    /// Reads the folder again whenever something in it changes.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn watch(self: &Arc<Self>) -> io::Result<Watch> {
        let files = [CERTIFICATE, KEY, ROOTS].map(|file| self.folder.join(file));
        let issuer = Arc::clone(self);
        // What is read at first differs from nothing, and so is looked at once more: that does no harm.
        Watch::start(files.into(), Sources::default(), move |_| {
            let (mut wanted, now) = (issuer.wanted.lock(), SystemTime::now());
            issuer.look(&mut wanted, now);
            issuer.pursue(&mut wanted, now);
        })
    }

    /// Does what there is to do by now. Blocks, and is to be called every few seconds.
    pub fn turn(&self, now: SystemTime) {
        let mut wanted = self.wanted.lock();
        if wanted.fault.is_some() {
            // What was not good yet may be.
            self.look(&mut wanted, now);
        }
        self.pursue(&mut wanted, now);
    }

    fn look(&self, wanted: &mut Wanted, now: SystemTime) {
        match Self::read(&self.folder, self.trust.trust_domain(), now) {
            Ok(offer) if offer == wanted.offer => wanted.fault = None,
            Ok(offer) => *wanted = Wanted::new(offer),
            Err(error) => wanted.fault = Some(error.to_string()),
        }
    }

    fn pursue(&self, wanted: &mut Wanted, now: SystemTime) {
        self.faults.note(Doing::Issuer, wanted.fault(&self.folder, now));
        let followed = self.follow(wanted, now).and_then(|()| self.step(now));
        self.faults
            .note(Doing::Following, followed.map_err(|error| error.to_string()));
    }

    /// Insists for a while: a change of another replica at the same moment may have undone this one's. Not for ever:
    /// that one's folder may be newer.
    fn follow(&self, wanted: &mut Wanted, now: SystemTime) -> Result<(), TrustError> {
        if wanted.is_settled && wanted.since.elapsed() > INSISTING {
            return Ok(());
        }
        let (signer, life) = (wanted.offer.signer(), wanted.offer.life());
        match self.trust.follow(&wanted.offer, now)? {
            Followed::Same => {}
            Followed::Later => return Ok(()),
            Followed::Changed => {
                let folder = self.folder.display();
                tracing::info!(%folder, signer, "the roots follow --issuer");
                if life.left(now + EVERYONE_KNOWS) < LEAST_LEFT {
                    tracing::warn!(
                        signer,
                        "little of its life is left when a root that is new can sign: let it last longer than some days"
                    );
                }
            }
        }
        wanted.is_settled = true;
        Ok(())
    }

    /// Takes the step whose time has come.
    fn step(&self, now: SystemTime) -> Result<(), TrustError> {
        let Some(due) = self.trust.roots().due(now) else {
            return Ok(());
        };
        let (step, done) = match &due {
            Due::Switch(_) => ("switched", self.trust.advance(&due, now)?),
            Due::Drop(old) => {
                let advance = || self.trust.advance(&due, now);
                match self.alive.while_none(old, now, advance) {
                    Ok(Ok(advanced)) => ("dropped", advanced?),
                    // By the journal one is: it is right, or will forget it when its time is up.
                    Ok(Err(_)) => return Ok(()),
                    Err(error) => return Err(TrustError::Unknown(error.to_string())),
                }
            }
        };
        if done {
            tracing::info!("root {step}, as its time had come");
        }
        Ok(())
    }
}

impl Wanted {
    fn new(offer: Offer) -> Self {
        Self {
            offer,
            since: Instant::now(),
            is_settled: false,
            fault: None,
        }
    }

    /// What is wrong with the folder, which may be that nobody writes to it any more.
    fn fault(&self, folder: &Path, now: SystemTime) -> Result<(), String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.offer.life().left(now) > LEAST_LEFT {
            return Ok(());
        }
        let (folder, signer) = (folder.display(), self.offer.signer());
        Err(format!(
            "--issuer {folder}: {signer}, or what is above it, will have expired soon, and nobody has renewed it"
        ))
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(LENGTH_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// As long as replicas may need to hear of each other's changes, by an API server, too.
const INSISTING: Duration = Duration::from_secs(10);

/// The share of its life with which an authority should have been renewed: cert-manager does it at a third.
const LEAST_LEFT: f64 = 0.25;

/// As many certificates as are taken are much shorter, and so is a Secret.
const LENGTH_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests;
