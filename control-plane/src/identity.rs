//! Identity: who may have a certificate, and the authority that signs it.

mod authority;
mod tokens;

pub use authority::{Authority, AuthorityError, Issued, LIFETIME, Stored};
pub use tokens::{TokenFault, Tokens};
