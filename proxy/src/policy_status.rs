//! What became of the policy files: what is in force, and what was refused last.

use std::time::SystemTime;

use parking_lot::Mutex;

use crate::metrics::Metrics;

/// The standing of the policy; shared between who applies it and who shows it.
#[derive(Debug)]
pub struct PolicyStatus {
    metrics: Metrics,
    standing: Mutex<Standing>,
}

/// What is in force, and what was refused last.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// How many policies were applied since start; 0: none yet.
    pub generation: u64,
    /// When the last one was applied.
    pub applied: Option<SystemTime>,
    /// The files it came from.
    pub sources: Vec<String>,
    /// The policy in force, secrets masked.
    pub effective: serde_json::Value,
    /// What is odd about it, as `file:line:column: …`.
    pub warnings: Vec<String>,
    /// The last refusal.
    pub refusal: Option<Refusal>,
}

/// A policy that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When.
    pub at: SystemTime,
    /// Each fault as `file:line:column: …`.
    pub faults: Vec<String>,
    /// True while the files are still like that: no later reading was accepted.
    pub is_current: bool,
}

impl PolicyStatus {
    /// The standing at start: nothing in force.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            standing: Mutex::default(),
        }
    }

    /// Notes that a policy is in force. Returns its generation.
    pub fn applied(&self, sources: Vec<String>, effective: serde_json::Value, warnings: Vec<String>) -> u64 {
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let mut standing = self.standing.lock();
        standing.generation += 1;
        standing.applied = Some(SystemTime::now());
        standing.sources = sources;
        standing.effective = effective;
        standing.warnings = warnings;
        if let Some(refusal) = &mut standing.refusal {
            refusal.is_current = false;
        }
        let process = self.metrics.process();
        process
            .policy_generation
            .set(i64::try_from(standing.generation).unwrap_or(i64::MAX));
        process.policy_faulty.set(0);
        tracing::info!(generation = standing.generation, "policy applied");
        standing.generation
    }

    /// Notes that a policy was refused, and says so once.
    pub fn refused(&self, faults: Vec<String>) {
        for fault in &faults {
            tracing::error!("policy refused, the last good one stays: {fault}");
        }
        let process = self.metrics.process();
        process.policy_refusals.inc();
        process.policy_faulty.set(1);
        self.standing.lock().refusal = Some(Refusal {
            at: SystemTime::now(),
            faults,
            is_current: true,
        });
    }

    /// The standing now.
    pub fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }
}
