//! What would happen to a call, and why: the answer of `explain` on the command line and of the
//! admin endpoint. Made by the functions that decide for real calls.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use bytes::Bytes;
use http::Version;

use super::{Detours, Mode, Policy};
use crate::Bypass;
use crate::codec::{Call, Codec};
use crate::key::{Description, KeyBuf, describe, head_bypass, priority, write_key};
use crate::route::Head;

/// What would happen to a call.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What is done to the call before that.
    pub detours: Detours,
    /// The route; `None`: no route matches.
    pub route: Option<Arc<str>>,
    /// The route's codec.
    pub codec: Option<&'static str>,
    /// The route's mode.
    pub mode: Option<Mode>,
    /// What the route makes of the call.
    pub verdict: Verdict,
}

/// What is done with a call.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// No route is for it: forwarded untouched.
    PassThrough,
    /// Forwarded alone, untouched.
    Bypass(Bypass),
    /// Gathered with calls of the same key.
    Batch {
        /// What companions must have in common with it.
        key: Description,
        /// Items that it brings.
        items: usize,
        /// Bytes that it adds to a merged body.
        bytes: usize,
    },
}

/// Explains what `policy` does with a call.
pub fn explain(policy: &Policy, head: &Head<'_>, body: &Bytes, version: Version) -> Explanation {
    let Some(matched) = policy.route(head) else {
        return Explanation {
            detours: policy.traffic.detours.clone(),
            route: None,
            codec: None,
            mode: None,
            verdict: Verdict::PassThrough,
        };
    };
    let route = matched.route;
    let decide = || {
        if let Some(reason) = head_bypass(route, head) {
            return Err(reason);
        }
        let call = Call {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            captures: &matched.captures,
            body,
        };
        let read = route.codec.read(&call)?;
        if !route.fits(read.count, read.shared_bytes + read.bytes) {
            return Err(Bypass::TooLarge);
        }
        let mut key = KeyBuf::new();
        let class = priority(route, head.headers);
        write_key(
            &mut key,
            route,
            head,
            &matched.captures,
            version,
            &read.invariants,
            class,
        );
        Ok(Verdict::Batch {
            key: describe(key.as_bytes()),
            items: read.count,
            bytes: read.bytes,
        })
    };
    Explanation {
        detours: policy.traffic.detours.clone(),
        route: Some(Arc::clone(&route.name)),
        codec: Some(route.codec.name()),
        mode: Some(route.mode),
        verdict: decide().unwrap_or_else(Verdict::Bypass),
    }
}

impl Display for Explanation {
    /// One `name: value` line each.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.detours.fmt(f)?;
        match &self.route {
            Some(route) => writeln!(f, "route: {route}")?,
            None => return writeln!(f, "route: none\nbypass: no route matches"),
        }
        if let Some(codec) = self.codec {
            writeln!(f, "codec: {codec}")?;
        }
        if let Some(mode) = self.mode {
            writeln!(f, "mode: {}", mode.as_str())?;
        }
        match &self.verdict {
            Verdict::PassThrough => writeln!(f, "bypass: no route matches"),
            Verdict::Bypass(reason) => writeln!(f, "bypass: {reason}"),
            Verdict::Batch { key, items, bytes } => {
                writeln!(f, "items: {items}\nbytes: {bytes}\nkey:")?;
                key.parts
                    .iter()
                    .try_for_each(|(name, value)| writeln!(f, "  {name}: {value}"))
            }
        }
    }
}
