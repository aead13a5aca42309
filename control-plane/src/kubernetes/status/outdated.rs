//! Kinds whose status cannot be written, since definitions are installed that are older than this control plane.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use tokio::time::Instant;

use crate::kubernetes::index::Kinds;
use crate::kubernetes::served;

/// Those that are known, and since when.
#[derive(Debug, Default)]
pub(super) struct Outdated {
    kinds: BTreeSet<Kinds>,
    looked: Option<Instant>,
}

impl Outdated {
    /// Whether it is of no use to write the status of this kind.
    pub(super) fn has(&self, kinds: Kinds) -> bool {
        self.kinds.contains(&kinds)
    }

    /// Whether it is time to see if the definitions were upgraded.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_late = |looked| now.saturating_duration_since(looked) >= BETWEEN_LOOKS;
        !self.kinds.is_empty() && self.looked.is_some_and(is_late)
    }

    /// Asks the API server.
    ///
    /// # Errors
    /// Its own.
    pub(super) async fn look(&mut self, client: &Client) -> kube::Result<()> {
        self.looked = Some(Instant::now());
        self.kinds = served::without_status(client).await?;
        Ok(())
    }

    /// What is wrong with the definitions.
    ///
    /// # Errors
    /// That some kind has no status.
    pub(super) fn verdict(&self) -> Result<(), String> {
        let told: Vec<_> = self.kinds.iter().copied().map(served::outdated).collect();
        if told.is_empty() {
            Ok(())
        } else {
            Err(told.join("; "))
        }
    }
}

/// How soon an upgrade is noticed.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upgrade_is_looked_for_only_where_one_is_due() {
        let mut outdated = Outdated::default();
        let now = Instant::now();
        assert!(!outdated.is_due(now + BETWEEN_LOOKS) && outdated.verdict().is_ok());
        outdated.kinds.insert(Kinds::Runtimes);
        outdated.looked = Some(now);
        assert!(outdated.has(Kinds::Runtimes) && !outdated.has(Kinds::BatchPolicies));
        assert!(!outdated.is_due(now) && outdated.is_due(now + BETWEEN_LOOKS));
        assert_eq!(
            outdated.verdict().unwrap_err(),
            "runtimes.jitney.dev has no status subresource: upgrade the chart jitney-crds"
        );
    }
}
