//! What sidecars notice about the policies that they run, taken in.

use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::push::config::reports_server::Reports;
use jitney_api::push::config::{BatchFinding, Finding, Noted};
use jitney_api::push::{Kind, Version};
use tonic::{Request, Response, Status, async_trait};

use crate::identity::Trust;
use crate::rollout::Rollouts;
use crate::serve::Caller;
use crate::status::{Findings, Found, Sidecar, Sidecars};
use crate::store::{Recipient, Store};

/// The service: notes findings about what is in the store.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// Who may report.
    pub trust: Arc<Trust>,
    /// What a finding can be about.
    pub store: Arc<Store>,
    /// Whose stream is on which connection.
    pub sidecars: Arc<Sidecars>,
    /// What a finding may stop.
    pub rollouts: Arc<Rollouts>,
    /// Where they are noted.
    pub findings: Arc<Findings>,
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
        let version = version(&finding.version)?;
        let found = Found {
            workload,
            at: SystemTime::now(),
            before: finding.before,
            since: finding.since,
        };
        self.found(&finding.name, version, connection, found);
        Ok(Response::new(Noted {}))
    }

    async fn batches(&self, request: Request<BatchFinding>) -> Result<Response<Noted>, Status> {
        let caller = Caller::of(&request)?;
        caller.peer(&self.trust.roots(), SystemTime::now())?;
        let (connection, finding) = (caller.connection, request.into_inner());
        let version = version(&finding.version)?;
        let snapshot = self.store.snapshot();
        // What is found about a policy that it may not read is nobody's business.
        let noted = self.sidecars.on(connection, |sidecar| {
            let sight = snapshot.to(&sidecar.recipient);
            let entry = sight.entry(Kind::Policy, &finding.name);
            if entry.is_some_and(|entry| entry.held.version == version) || finding.routes.is_empty() {
                sidecar.batches_fail(&finding.name, version, &finding.routes);
            }
        });
        if noted.is_none() {
            tracing::debug!(policy = finding.name, "batches were told of without a stream");
        }
        Ok(Response::new(Noted {}))
    }
}

fn version(text: &str) -> Result<Version, Status> {
    let invalid = |error| Status::invalid_argument(format!("version: {error}"));
    text.parse().map_err(invalid)
}

impl Reporter {
    fn found(&self, policy: &str, version: Version, connection: u64, found: Found) {
        let snapshot = self.store.snapshot();
        let recipient = self.sidecars.on(connection, |sidecar| sidecar.recipient.clone());
        let is_known = recipient.is_some();
        // Whoever reports on a connection of its own is not told from the others of its workload.
        let recipient = recipient.unwrap_or_else(|| Recipient {
            workload: found.workload.clone(),
            node: String::new(),
        });
        let sight = snapshot.to(&recipient);
        let entry = sight.entry(Kind::Policy, policy);
        // What is found about a policy that is no more, or is another one by now, is history.
        if entry.is_none_or(|entry| entry.held.version != version) {
            return;
        }
        let (before, since) = (found.before, found.since);
        tracing::warn!(policy, sidecar = %recipient, before, since, "calls fail more often since a policy was applied");
        // A sidecar that has not come to the staged change yet speaks of what was before.
        let runs = |sidecar: &mut Sidecar| sidecar.runs_policy(policy, &snapshot);
        if is_known && self.sidecars.on(connection, runs) == Some(true) {
            let [before, since] = [before, since].map(|share| 100.0 * share);
            let saw =
                format!("saw {since:.1} % of calls fail since it runs the change, {before:.1} % before");
            self.rollouts.stop(&sight, policy, &saw);
        }
        self.findings
            .retain(|name| snapshot.entry(Kind::Policy, name).is_some());
        self.findings.note(&policy.into(), version, connection, found);
    }
}
