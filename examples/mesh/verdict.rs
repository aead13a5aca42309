//! What is counted, and what is said of it in the end.

use std::fmt;
use std::time::Duration;

use jitney_examples::figures::{milliseconds, thousands};

use crate::load::Tally;
use crate::processes::{Mesh, json};
use jitney_examples::front::Made;
use jitney_examples::table::Asked;

/// What the services have counted, which know nothing of Jitney.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) orders: Asked,
    pub(crate) users: Asked,
    /// Calls of the shop that failed, and pages to which there was no reply.
    pub(crate) failed_calls: u64,
    /// Pages that were loaded.
    pub(crate) pages: usize,
}

impl Reading {
    /// What they have counted until now.
    ///
    /// # Errors
    /// When one does not tell.
    pub(crate) async fn take(mesh: &Mesh, tally: &Tally) -> anyhow::Result<Self> {
        let made: Made = json(mesh.shop.service, "/stats").await?;
        Ok(Self {
            orders: json(mesh.orders.service, "/stats").await?,
            users: json(mesh.users.service, "/stats").await?,
            failed_calls: made.failed + tally.failed() as u64,
            pages: tally.pages(),
        })
    }

    /// What was counted since an earlier reading.
    pub(crate) const fn since(&self, earlier: &Self) -> Self {
        Self {
            orders: self.orders.since(earlier.orders),
            users: self.users.since(earlier.users),
            failed_calls: self.failed_calls - earlier.failed_calls,
            pages: self.pages - earlier.pages,
        }
    }
}

/// What came of it all.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pages: usize,
    equal: usize,
    first_fault: Option<String>,
    /// Calls that failed.
    pub(crate) failed_calls: u64,
    /// From the control plane's start to the last sidecar's return to it.
    pub(crate) back_after: Duration,
    /// What the control plane sent when it was back.
    pub(crate) sent_again: u64,
    /// The longest that an edit took to be live.
    pub(crate) slowest: Duration,
}

impl Verdict {
    /// Adds pages that were loaded.
    pub(crate) fn count(&mut self, tally: &Tally) {
        self.pages += tally.pages();
        self.equal += tally.equal();
        if self.first_fault.is_none() {
            self.first_fault = tally.first_fault().map(str::to_owned);
        }
    }

    /// Whether nothing failed, every page was equal, and nothing was sent again.
    pub(crate) const fn is_good(&self) -> bool {
        self.equal == self.pages && self.pages > 0 && self.failed_calls == 0 && self.sent_again == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = milliseconds(self.slowest);
        let remark = if self.slowest > A_SECOND {
            ", LONGER THAN A SECOND"
        } else {
            ""
        };
        writeln!(f, "edits: each live within {slowest}{remark}")?;
        writeln!(
            f,
            "control plane: every sidecar was back {} after its start, and {} resources were sent again",
            milliseconds(self.back_after),
            self.sent_again
        )?;
        let (equal, pages) = (thousands(self.equal as u64), thousands(self.pages as u64));
        let failed = thousands(self.failed_calls);
        write!(
            f,
            "verified: {equal} of {pages} pages are equal to those made without Jitney, byte for byte; \
             {failed} failed calls"
        )?;
        self.first_fault
            .iter()
            .try_for_each(|fault| write!(f, "\nFAULT {fault}"))
    }
}

/// What an edit may take.
const A_SECOND: Duration = Duration::from_secs(1);
