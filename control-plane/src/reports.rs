//! What sidecars notice about the policies that they run, taken in.

use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::push::config::reports_server::Reports;
use jitney_api::push::config::{Finding, Noted};
use jitney_api::push::{Kind, Version};
use tonic::{Request, Response, Status, async_trait};

use crate::identity::Trust;
use crate::serve::Caller;
use crate::status::{Findings, Found};
use crate::store::Store;

/// The service.
#[derive(Clone, Debug)]
pub struct Reporter {
    trust: Arc<Trust>,
    store: Arc<Store>,
    findings: Arc<Findings>,
}

impl Reporter {
    /// Notes findings about what is in the store.
    pub const fn new(trust: Arc<Trust>, store: Arc<Store>, findings: Arc<Findings>) -> Self {
        Self {
            trust,
            store,
            findings,
        }
    }
}

#[async_trait]
impl Reports for Reporter {
    async fn report(&self, request: Request<Finding>) -> Result<Response<Noted>, Status> {
        let caller = Caller::of(&request)?;
        let workload = caller
            .peer(&self.trust.roots(), SystemTime::now())?
            .id
            .workload
            .clone();
        let (connection, finding) = (caller.connection, request.into_inner());
        for (name, share) in [("before", finding.before), ("since", finding.since)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Status::invalid_argument(format!(
                    "{name}: found {share}, expected 0 to 1"
                )));
            }
        }
        let version: Version = finding
            .version
            .parse()
            .map_err(|error| Status::invalid_argument(format!("version: {error}")))?;
        let snapshot = self.store.snapshot();
        let entry = snapshot.to(&workload).entry(Kind::Policy, &finding.name);
        // What is found about a policy that is no more, or is another one by now, is history.
        if entry.is_some_and(|entry| entry.held.version == version) {
            tracing::warn!(policy = finding.name, %workload, before = finding.before, since = finding.since,
                "calls fail more often since a policy was applied");
            let found = Found {
                workload,
                at: SystemTime::now(),
                before: finding.before,
                since: finding.since,
            };
            let exists = |name: &str| snapshot.entry(Kind::Policy, name).is_some();
            self.findings.retain(exists);
            self.findings
                .note(&finding.name.as_str().into(), version, connection, found);
        }
        Ok(Response::new(Noted {}))
    }
}
