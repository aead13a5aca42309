//! Identity: who may have a certificate, and the authority that signs it.

// What is kept,
mod folder;

// what a certificate says, and whether it is true,
mod certificate;
mod verify;

// who signs,
mod authority;
mod issuer;
mod roots;
mod trust;

// what they have signed,
mod alive;

// who may have something signed,
mod attest;
mod tokens;
mod used;

// and who somebody is who has.
mod peer;

pub use alive::{Alive, AliveError, Living, Signed, Those};
pub use attest::{Attest, AttestError, Bootstrap};
pub use authority::{Authority, AuthorityError, CertificateRequest, Issued, KeyHash, LIFETIME, Stored};
pub use certificate::Life;
pub use folder::{Folder, FolderError, Lock, Readable};
#[cfg(test)]
pub(crate) use issuer::pki;
pub use issuer::{CERTIFICATE, KEY, Offer, OfferFault, OfferFiles, OfferWrong, ROOTS};
pub use peer::{Peer, PeerFault};
pub use roots::{Due, EVERYONE_KNOWS, Following, Root, RootId, RootState, Roots, RootsError};
pub use tokens::{Claims, TokenFault, Tokens, TokensError};
pub use trust::{BUNDLE_FILE, Followed, Trust, TrustError};
pub use used::{FORGET_EVERY, Used, UsedError};
