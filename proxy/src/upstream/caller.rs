//! Who calls, as far as the head of a call tells.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use http::HeaderMap;
use jitney_core::key::{CLIENT_ID, is_credential};

/// A fingerprint of who a call is counted for: the workload that has proven to call, whatever credentials it shows
/// beside, or else what [`print`] says. Nobody but the listener writes [`CLIENT_ID`].
pub(super) fn counted(hasher: &RandomState, headers: &HeaderMap) -> Option<u64> {
    match headers.get(CLIENT_ID) {
        Some(workload) => Some(hasher.hash_one(workload.as_bytes())),
        None => print(hasher, headers),
    }
}

/// A fingerprint of the caller's credentials, which the order of different fields does not change; `None`
/// when there are none.
pub(super) fn print(hasher: &RandomState, headers: &HeaderMap) -> Option<u64> {
    let mut credentials = headers
        .iter()
        .filter(|(name, _)| is_credential(name.as_str()))
        .map(|(name, value)| hasher.hash_one((name.as_str(), value.as_bytes())));
    let first = credentials.next()?;
    Some(credentials.fold(first, u64::wrapping_add))
}
