//! What a policy has done to the calls that come to its backend before they are sent on. Random numbers
//! are arguments.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::grpc::Code;

/// All of it; nothing by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detours {
    /// Calls are shared out over backends. One hop: where a call goes, it is not shared out again.
    pub split: Option<Split>,
    /// A copy of calls goes to another backend, too.
    pub mirror: Option<Mirror>,
    /// Calls wait or fail on purpose.
    pub faults: Option<Faults>,
}

/// Backends among which calls are shared out, each call on its own: what one call was given says nothing
/// of the next, so that no rhythm of the callers' can find one of the backends more often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    shares: Box<[BackendRef]>,
    /// Invariant: the sum of the weights, above 0.
    total: u64,
}

/// A backend that a share of the calls is copied to.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The backend, as [`BackendRef::name`].
    pub name: Arc<str>,
    /// The calls that are copied.
    pub share: Share,
}

/// Calls that wait or fail on purpose; a call may do both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// How long some wait before they go on.
    pub delay: Option<(Duration, Share)>,
    /// What some are answered with, who then go nowhere.
    pub abort: Option<(Injected, Share)>,
}

/// What an injected fault is told as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// To callers of HTTP; `None`: what `grpc` stands for.
    pub http: Option<StatusCode>,
    /// To callers of gRPC; `None`: what stands for `http`.
    pub grpc: Option<Code>,
}

/// A share of all calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    percent: f64,
}

/// A backend by name, and its part of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// As the policy has it or, once it is known whose policy it is, in full.
    pub name: Arc<str>,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// It is the policy's own backend.
    is_own: bool,
}

impl Detours {
    /// Whether nothing is done.
    pub const fn is_none(&self) -> bool {
        self.split.is_none() && self.mirror.is_none() && self.faults.is_none()
    }

    /// As they are for the backend of this name: it may be named itself, and others are beside it, in its
    /// namespace if it has one (`namespace/name`).
    #[must_use]
    pub fn beside(mut self, own: &str) -> Self {
        let namespace = own.rfind('/').map_or("", |end| &own[..=end]);
        for share in self.split.iter_mut().flat_map(|split| &mut split.shares) {
            share.name = format!("{namespace}{}", share.name).into();
            share.is_own = *share.name == *own;
        }
        if let Some(mirror) = &mut self.mirror {
            mirror.name = format!("{namespace}{}", mirror.name).into();
        }
        // It has the calls already.
        self.mirror = self.mirror.filter(|mirror| *mirror.name != *own);
        self
    }

    /// The other backends that are named.
    pub fn others(&self) -> impl Iterator<Item = &Arc<str>> {
        let shares = self.split.iter().flat_map(|split| &split.shares);
        let shares = shares.filter(|share| !share.is_own).map(|share| &share.name);
        shares.chain(self.mirror.iter().map(|mirror| &mirror.name))
    }
}

impl BackendRef {
    /// A backend that is not known to be the policy's own.
    pub fn new(name: impl Into<Arc<str>>, weight: u32) -> Self {
        Self {
            name: name.into(),
            weight,
            is_own: false,
        }
    }
}

impl Faults {
    /// What becomes of a call: how long it waits, and what it is answered with then. Both numbers are uniform
    /// over all their values.
    pub fn strike(&self, random: [u64; 2]) -> (Option<Duration>, Option<Injected>) {
        let delay = self.delay.filter(|(_, share)| share.takes(random[0]));
        let abort = self.abort.filter(|(_, share)| share.takes(random[1]));
        (delay.map(|(delay, _)| delay), abort.map(|(injected, _)| injected))
    }
}

impl Injected {
    /// The status for callers of HTTP.
    pub const fn status(self) -> StatusCode {
        match (self.http, self.grpc) {
            (Some(status), _) => status,
            (None, Some(code)) => code.status(),
            (None, None) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The code for callers of gRPC.
    pub const fn code(self) -> Code {
        match self.grpc {
            Some(code) => code,
            None => Code::of_status(self.status()),
        }
    }
}

impl Share {
    /// This many of a hundred calls, 0 to 100.
    pub const fn percent(percent: f64) -> Self {
        Self { percent }
    }

    /// Whether a call is one of them. `random` is uniform over all its values.
    pub fn takes(self, random: u64) -> bool {
        // Below 1 by as little as a float can be.
        let place = (random >> 11) as f64 / (1_u64 << 53) as f64;
        100.0 * place < self.percent
    }
}

impl Display for Share {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent)
    }
}

impl Split {
    /// Calls are shared out so. `None` when no weight is above 0.
    pub fn new(shares: impl IntoIterator<Item = BackendRef>) -> Option<Self> {
        let shares: Box<[BackendRef]> = shares.into_iter().collect();
        let total = shares.iter().map(|share| u64::from(share.weight)).sum();
        (total > 0).then_some(Self { shares, total })
    }

    /// The backend that a call goes to; `None` for the policy's own. `random` is uniform over all its values.
    pub fn choose(&self, random: u64) -> Option<&Arc<str>> {
        // As a fraction of 2^64, so that no weight is off by more than one call in 2^44.
        let mut place = scaled(random, self.total);
        let chosen = self.shares.iter().find(|share| {
            let weight = u64::from(share.weight);
            let is_here = place < weight;
            place = place.saturating_sub(weight);
            is_here
        })?;
        (!chosen.is_own).then_some(&chosen.name)
    }
}

impl Display for Split {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (n, share) in self.shares.iter().enumerate() {
            let percent = 100.0 * f64::from(share.weight) / self.total as f64;
            let comma = if n == 0 { "" } else { ", " };
            // As many digits as tell it from another, and no more.
            write!(f, "{comma}{} {} %", share.name, (percent * 1e4).round() / 1e4)?;
        }
        Ok(())
    }
}

impl Display for Detours {
    /// One `name: value` line each.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(split) = &self.split {
            writeln!(f, "shared out: {split}")?;
        }
        if let Some(mirror) = &self.mirror {
            writeln!(f, "copied: {} to {}", mirror.share, mirror.name)?;
        }
        let faults = self.faults.unwrap_or_default();
        if let Some((delay, share)) = faults.delay {
            writeln!(f, "fault: {share} wait {delay:?}")?;
        }
        if let Some((injected, share)) = faults.abort {
            let (status, code) = (injected.status().as_u16(), injected.code().number());
            writeln!(f, "fault: {share} get {status}, or code {code} of gRPC")?;
        }
        Ok(())
    }
}

/// A number below `end`, as far from 0 as `random` is.
fn scaled(random: u64, end: u64) -> u64 {
    let scaled = (u128::from(random) * u128::from(end)) >> 64;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
