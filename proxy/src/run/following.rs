//! How a sidecar begins that a control plane tells what to do.

use std::sync::Arc;

use super::RunError;
use super::applier::Applier;
use super::fleet::Fleet;
use super::hand_over::Inherited;
use super::plan::Plan;
use super::pushed::Pushed;
use crate::control::{Control, Settings, Shared, SharedPapers};
use crate::metrics::Metrics;
use crate::mtls::Mesh;

/// The control plane is followed.
pub(super) struct Following {
    pub(super) standing: Shared,
    pub(super) papers: SharedPapers,
    /// What to do as long as it says nothing, if there is nobody else to do it.
    pub(super) meanwhile: Plan,
}

impl Following {
    /// Begins to follow the control plane, with what was in force before this process, or else with a plan that is
    /// good meanwhile.
    ///
    /// # Errors
    /// When the roots cannot be read, or the flags name addresses that cannot be listened on.
    pub(super) fn start(
        settings: Settings,
        meanwhile: Plan,
        applier: &Applier,
        fleet: &Arc<Fleet>,
        inherited: &Inherited,
        metrics: &Metrics,
        mesh: &Mesh,
    ) -> Result<Self, RunError> {
        let failed = |error| RunError::System("ask the control plane", error);
        let papers = Arc::clone(&settings.papers);
        *papers.lock() = inherited.papers();
        let control = Control::new(settings, metrics, mesh, Box::new(Pushed::new(applier.clone())));
        let control = control.map_err(failed)?;
        let standing = control.standing();
        if !control.is_in_force() {
            let begun = match inherited.is_some() {
                // The process before this one knows more, and serves until this one does.
                true => fleet.reserve(&meanwhile),
                // Calls pass through until there is a policy for them.
                false => fleet.begin(&meanwhile),
            };
            begun.map_err(RunError::Start)?;
        }
        control.start().map_err(failed)?;
        Ok(Self {
            standing,
            papers,
            meanwhile,
        })
    }
}
