//! The exchange of the root, step by step: what each step waits for, and the steps themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Admin;
use crate::identity::{LIFETIME, Root, RootId, RootState, Trust, TrustError};
use crate::status::Overview;

/// How sidecars stand to the roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trusting {
    /// Sidecars that are connected.
    pub connected: usize,
    /// Those that have applied a bundle with the root in it.
    pub trusting: BTreeMap<RootId, usize>,
    /// Those whose certificate the root signed.
    pub certificates: BTreeMap<RootId, usize>,
}

/// The next step, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its name, as in the path.
    pub name: &'static str,
    /// Sidecars that it would cut off.
    pub waits_for: usize,
    /// That in words.
    pub text: String,
}

#[derive(Deserialize)]
pub(super) struct How {
    #[serde(default)]
    force: bool,
}

impl Trusting {
    pub(super) fn of(admin: &Admin, overview: &Overview) -> Self {
        let mut trusting = BTreeMap::new();
        for (bundle, count) in &overview.bundles {
            let roots = bundle.and_then(|version| admin.trust.in_bundle(version));
            for root in roots.unwrap_or_default() {
                *trusting.entry(root).or_default() += count;
            }
        }
        Self {
            connected: overview.sidecars.connected(),
            trusting,
            certificates: overview.certificates.clone(),
        }
    }

    /// Sidecars that trust a root.
    pub(super) fn trust(&self, root: RootId) -> usize {
        self.trusting.get(&root).copied().unwrap_or_default()
    }

    /// Sidecars whose certificate a root signed.
    pub(super) fn hold(&self, root: RootId) -> usize {
        self.certificates.get(&root).copied().unwrap_or_default()
    }

    fn switch(&self, next: &Root) -> Step {
        let waits_for = self.connected.saturating_sub(self.trust(next.id));
        Step {
            name: "switch",
            waits_for,
            text: format!(
                "{waits_for} of {} connected sidecars do not trust root {} yet",
                self.connected, next.id
            ),
        }
    }

    fn drop_old(&self, roots: &[&Root]) -> Step {
        let waits_for = roots.iter().map(|root| self.hold(root.id)).sum();
        let names: Vec<String> = roots.iter().map(|root| root.id.to_string()).collect();
        // As after a restart: that nobody is here does not mean that there is nobody.
        let is_over = |root: &&Root| last_certificate(root).is_some_and(|last| last <= SystemTime::now());
        if self.connected == 0 && !roots.iter().all(is_over) {
            return Step {
                name: "drop",
                waits_for: 1,
                text: format!(
                    "no sidecar is connected here, so that nobody can tell who needs root {}",
                    names.join(" or ")
                ),
            };
        }
        Step {
            name: "drop",
            waits_for,
            text: format!(
                "{waits_for} of {} connected sidecars have a certificate that root {} signed",
                self.connected,
                names.join(" or ")
            ),
        }
    }

    /// The next step of a rotation that is under way; to add a root where none is.
    pub(super) fn next_step(&self, roots: &[Root]) -> Step {
        let in_state = |state| roots.iter().filter(move |root| root.state == state);
        if let Some(next) = in_state(RootState::Next).next() {
            return self.switch(next);
        }
        let old: Vec<&Root> = in_state(RootState::Old).collect();
        if !old.is_empty() {
            return self.drop_old(&old);
        }
        Step {
            name: "add",
            waits_for: 0,
            text: "no rotation is under way".to_owned(),
        }
    }
}

/// Makes another root, which every sidecar is told to trust.
pub(super) async fn add(State(admin): State<Admin>) -> Response {
    done(&admin, "added", |trust| trust.add(SystemTime::now())).await
}

/// Has the next root sign, once every connected sidecar trusts it.
pub(super) async fn switch(State(admin): State<Admin>, Query(how): Query<How>) -> Response {
    let roots = admin.trust.roots();
    if let Some(next) = roots.in_state(RootState::Next) {
        let step = trusting(&admin).switch(next);
        if let Some(refusal) = refuse(&step, &how) {
            return refusal;
        }
    }
    done(&admin, "switched", |trust| trust.switch(SystemTime::now())).await
}

/// Trusts the old roots no more, once no connected sidecar has a certificate that one of them signed.
pub(super) async fn drop_old(State(admin): State<Admin>, Query(how): Query<How>) -> Response {
    let roots = admin.trust.roots();
    let old: Vec<&Root> = roots
        .all()
        .iter()
        .filter(|root| root.state == RootState::Old)
        .collect();
    if !old.is_empty() {
        let step = trusting(&admin).drop_old(&old);
        if let Some(refusal) = refuse(&step, &how) {
            return refusal;
        }
    }
    done(&admin, "dropped", Trust::drop_old).await
}

fn trusting(admin: &Admin) -> Trusting {
    Trusting::of(admin, &admin.sidecars.overview(&admin.store.snapshot()))
}

fn refuse(step: &Step, how: &How) -> Option<Response> {
    if step.waits_for == 0 {
        return None;
    }
    if how.force {
        tracing::warn!(step = step.name, "forced although {}", step.text);
        return None;
    }
    let told = format!("{}; ?force=true does it all the same\n", step.text);
    Some((StatusCode::CONFLICT, told).into_response())
}

/// Does a step, away from the thread that answers probes: it waits for a disk, and for who else is at it.
async fn done(
    admin: &Admin,
    what: &str,
    step: impl FnOnce(&Trust) -> Result<(), TrustError> + Send + 'static,
) -> Response {
    let trust = Arc::clone(&admin.trust);
    match tokio::task::spawn_blocking(move || step(&trust)).await {
        Ok(done) => told(done, what, admin),
        Err(error) => {
            tracing::error!(%error, "the roots cannot be changed");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

fn told(done: Result<(), TrustError>, what: &str, admin: &Admin) -> Response {
    match done {
        Ok(()) => {
            let roots = admin.trust.roots();
            let roots: Vec<String> = roots
                .all()
                .iter()
                .map(|root| format!("{} {}\n", root.id, root.state.as_str()))
                .collect();
            tracing::info!("root {what} on the admin endpoint");
            format!("{what}\n{}", roots.concat()).into_response()
        }
        Err(error @ (TrustError::NextExists | TrustError::NoNext | TrustError::NoOld)) => {
            (StatusCode::CONFLICT, format!("{error}\n")).into_response()
        }
        Err(error @ (TrustError::Folder(_) | TrustError::Roots(_))) => {
            tracing::error!(%error, "the roots cannot be changed");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

/// When the last certificate expires that a root has signed; `None` while it may sign more.
pub(super) fn last_certificate(root: &Root) -> Option<SystemTime> {
    (root.state == RootState::Old).then(|| root.since + LIFETIME)
}
