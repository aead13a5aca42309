//! How a plan comes into force, wherever it came from.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::fleet::Fleet;
use super::plan::Plan;
use crate::config::RunArgs;
use crate::listeners::Listeners;
use crate::log::{Level, LogControl};
use crate::policy_status::PolicyStatus;

/// Puts plans in force and notes that they are.
#[derive(Clone, Debug)]
pub(super) struct Applier {
    pub(super) args: RunArgs,
    pub(super) status: Arc<PolicyStatus>,
    fleet: Arc<Fleet>,
    log: LogControl,
    /// What the plan in force says is to be logged.
    logged: Arc<Mutex<Option<String>>>,
    /// The policy that was noted last.
    noted: Arc<Mutex<Option<Value>>>,
}

/// Where a plan comes from that no file says.
pub(super) const CONTROL_PLANE: &str = "control plane";

impl Applier {
    pub(super) fn new(
        args: &RunArgs,
        fleet: &Arc<Fleet>,
        status: &Arc<PolicyStatus>,
        log: &LogControl,
    ) -> Self {
        Self {
            args: args.clone(),
            fleet: Arc::clone(fleet),
            status: Arc::clone(status),
            log: log.clone(),
            logged: Arc::default(),
            noted: Arc::default(),
        }
    }

    /// Makes what runs be what `plan` says.
    ///
    /// # Errors
    /// Why it cannot; then everything is as it was.
    pub(super) fn apply(&self, plan: Plan) -> Result<(), Vec<String>> {
        if let Some(admin) = self.args.admin {
            plan.refuse_endpoint(admin)?;
        }
        let level = plan.log_level.as_deref().map(str::parse::<Level>).transpose();
        let level = level.map_err(|error| vec![format!("spec.logLevel: {error}")])?;
        self.fleet.apply(&plan).map_err(|fault| vec![fault])?;
        self.log_at(plan.log_level, level);
        let Some(effective) = plan.effective else {
            return Ok(());
        };
        let mut noted = self.noted.lock();
        if noted.as_ref() != Some(&effective) || plan.sources != [CONTROL_PLANE] {
            *noted = Some(effective.clone());
            self.status.applied(plan.sources, effective, plan.warnings);
        }
        Ok(())
    }

    /// Where it listens, from now on.
    pub(super) fn listeners(&self) -> Listeners {
        self.fleet.listeners()
    }

    /// Only what changes: somebody may have set another level on the admin endpoint since.
    fn log_at(&self, text: Option<String>, level: Option<Level>) {
        let mut logged = self.logged.lock();
        if *logged == text {
            return;
        }
        let level = match level {
            Some(level) => level.with_access_log(self.args.access_log),
            None => self.args.level(),
        };
        tracing::info!(%level, "log level set");
        self.log.set(level);
        *logged = text;
    }
}
