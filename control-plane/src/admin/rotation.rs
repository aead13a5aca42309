//! The exchange of the root, step by step: what each step waits for, and the steps themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jitney_api::Workload;
use serde::Deserialize;
use tokio::time::Instant;

use super::Admin;
use super::views::at;
use crate::identity::{EVERYONE_KNOWS, LIFETIME, Living, Root, RootId, RootState, Those, Trust, TrustError};
use crate::replicas::{Others, SILENT};
use crate::status::{A_FEW, Trusting};

/// How everybody stands to the roots: what the next step is decided by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Sidecars of this replica.
    pub own: Trusting,
    /// Those of the others.
    pub others: Others,
    /// Certificates, whoever signed them and wherever their owners are; more of those that old roots signed.
    pub living: Living,
    /// The same; more of those whose sidecars have not said that they trust the next root.
    pub unaware: Living,
    /// What is wrong with the state folder.
    pub faults: Vec<String>,
    /// Whether other replicas have folders of their own, so that nothing is known here of their sidecars.
    pub is_apart: bool,
}

/// The next step, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its name, as in the path.
    pub name: &'static str,
    /// Sidecars or certificates that it would cut off; more than none, too, where that cannot be told.
    pub waits_for: usize,
    /// That in words.
    pub text: String,
    /// What becomes of them if it is forced.
    forced: &'static str,
}

#[derive(Deserialize)]
pub(super) struct How {
    #[serde(default)]
    force: bool,
}

impl Standing {
    /// As of now. Reads what other replicas have written, away from the thread that answers probes.
    pub(super) async fn of(admin: &Admin) -> Self {
        let (replicas, alive, trust) = (
            Arc::clone(&admin.replicas),
            Arc::clone(&admin.alive),
            Arc::clone(&admin.trust),
        );
        let (faults, is_apart) = (admin.faults.texts_of_roots(), admin.is_apart);
        let look = move || {
            let now = SystemTime::now();
            let roots = trust.roots();
            let old = roots.all().iter().filter(|root| root.state == RootState::Old);
            let old = Those::Of(old.map(|root| root.id).collect());
            let next = roots.in_state(RootState::Next);
            let others = replicas.others(Instant::now()).unwrap_or_else(|error| Others {
                faults: vec![error.to_string()],
                ..Others::default()
            });
            Self {
                own: replicas.own(),
                others,
                living: alive.of(&old, now),
                unaware: next.map_or_else(Living::default, |next| {
                    alive.of(&Those::NotTrusting(next.id), now)
                }),
                faults,
                is_apart,
            }
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| {
            // Nothing is safe that was not looked at.
            let mut blind = Self::default();
            blind.others.faults.push(error.to_string());
            blind
        })
    }

    fn all(&self) -> impl Iterator<Item = &Trusting> {
        [&self.own].into_iter().chain(&self.others.sidecars)
    }

    /// Workloads with sidecars that are connected to other replicas.
    pub(super) fn workloads_elsewhere(&self) -> BTreeSet<Workload> {
        let names = self.others.sidecars.iter().flat_map(|of| &of.workloads);
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Sidecars that are connected to any replica.
    pub(super) fn connected(&self) -> usize {
        self.all().map(|of| of.connected).sum()
    }

    /// Those that trust a root.
    pub(super) fn trust(&self, root: RootId) -> usize {
        self.all().map(|of| of.trust(root)).sum()
    }

    /// Certificates of a root that are alive, connected or not.
    pub(super) fn hold(&self, root: RootId) -> usize {
        let alive = self.living.certificates.get(&root).copied();
        alive.unwrap_or_default().max(self.connected_by(root))
    }

    fn connected_by(&self, root: RootId) -> usize {
        self.all().map(|of| of.hold(root)).sum()
    }

    fn switch(&self, next: &Root, now: SystemTime) -> Step {
        let connected = self.connected();
        let waits_for = connected.saturating_sub(self.trust(next.id));
        let mut text = match (waits_for, connected) {
            (0, 0) => "no sidecar is connected".to_owned(),
            (0, _) => format!("all connected sidecars ({connected}) trust root {}", next.id),
            (1, _) => format!(
                "1 of {connected} connected sidecars does not trust root {} yet",
                next.id
            ),
            _ => format!(
                "{waits_for} of {connected} connected sidecars do not trust root {} yet",
                next.id
            ),
        };
        let behind: Vec<&str> = self.all().flat_map(|of| &of.behind).map(String::as_str).collect();
        if waits_for > 0 && !behind.is_empty() {
            text.push_str(": ");
            text.push_str(&a_few(&behind, waits_for));
        }
        let unaware = self.others.unaware_of(next.id);
        if unaware > 0 {
            text.push_str(&format!(
                "; {unaware} of the other replicas have not said yet how theirs stand to it, and are waited for until \
                 they have been silent for {} s",
                SILENT.as_secs()
            ));
        }
        let away: usize = self.unaware.workloads.values().sum();
        if away > waits_for {
            text.push_str(&format!(
                "; {away} alive of the certificates whose sidecars have not said that they trust it: {}",
                owners(&self.unaware)
            ));
            text.push_str(&expiry(&self.unaware));
            text.push_str(WAITED_FOR);
        }
        let step = Step {
            name: "switch",
            waits_for: waits_for.max(unaware).max(away),
            text,
            forced: "who does not trust the root yet cannot verify certificates of sidecars that have switched, so that \
                     calls to and from these fail with mtls Strict, until it is connected to a control plane again",
        };
        let step = self.by_time(step, next.since, now);
        self.doubted(not_noted(step, &self.unaware, true))
    }

    fn drop_old(&self, roots: &[&Root], now: SystemTime) -> Step {
        let names: Vec<String> = roots.iter().map(|root| root.id.to_string()).collect();
        let names = names.join(" or ");
        let alive: usize = roots.iter().map(|root| self.hold(root.id)).sum();
        let mut text = match alive {
            0 => format!("no certificate is alive that root {names} signed"),
            _ => format!("{alive} alive of the certificates that root {names} signed"),
        };
        if !self.living.workloads.is_empty() {
            text.push_str(": ");
            text.push_str(&owners(&self.living));
        }
        text.push_str(&expiry(&self.living));
        let connected: usize = roots.iter().map(|root| self.connected_by(root.id)).sum();
        if connected > 0 {
            let verb = if connected == 1 { "uses" } else { "use" };
            let all = self.connected();
            text.push_str(&format!("; {connected} of {all} connected sidecars {verb} one"));
        }
        if alive > connected {
            text.push_str(WAITED_FOR);
        }
        let step = Step {
            name: "drop",
            waits_for: alive,
            text,
            forced: "whoever has one of these certificates is turned away by control planes and by other sidecars, and \
                     needs a new token (jitney-control-plane token) and the roots of now in its --trust-bundle",
        };
        let since = roots.iter().map(|root| root.since).max();
        let step = match since {
            Some(since) => self.by_time(step, since, now),
            None => step,
        };
        let may_sign = |root: &&Root| last_certificate(root).is_none_or(|last| last > now);
        self.doubted(not_noted(step, &self.living, roots.iter().any(may_sign)))
    }

    /// Has a step wait for sidecars of which nothing is known here, until nobody can be cut off by it any more.
    fn by_time(&self, mut step: Step, since: SystemTime, now: SystemTime) -> Step {
        let until = since + EVERYONE_KNOWS;
        if self.is_apart && now < until {
            step.waits_for = step.waits_for.max(1);
            step.text.push_str(&format!(
                "; what is known here of sidecars is not all, as other replicas keep what they know to themselves: whoever \
                 has a good certificate has followed at {}",
                at(until)
            ));
        }
        step
    }

    /// Says what is not known of other replicas, too.
    fn doubted(&self, mut step: Step) -> Step {
        if !self.others.faults.is_empty() {
            step.waits_for = step.waits_for.max(1);
        }
        for told in self.others.silent.iter().chain(&self.others.faults) {
            step.text.push_str(&format!("; {told}"));
        }
        step
    }

    /// The next step of a rotation that is under way; to add a root where none is.
    pub(super) fn next_step(&self, roots: &[Root], now: SystemTime) -> Step {
        let in_state = |state| roots.iter().filter(move |root| root.state == state);
        if let Some(next) = in_state(RootState::Next).next() {
            return self.switch(next, now);
        }
        let old: Vec<&Root> = in_state(RootState::Old).collect();
        if !old.is_empty() {
            return self.drop_old(&old, now);
        }
        self.add()
    }

    /// A rotation is not begun where it cannot go on.
    fn add(&self) -> Step {
        let text = match &self.faults[..] {
            [] => "no rotation is under way".to_owned(),
            faults => faults.join("; "),
        };
        Step {
            name: "add",
            waits_for: self.faults.len(),
            text,
            forced: "the exchange then waits at its next step",
        }
    }
}

/// Workloads with most of the certificates.
fn owners(living: &Living) -> String {
    let mut of: Vec<_> = living.workloads.iter().collect();
    of.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named: Vec<String> = of
        .iter()
        .take(A_FEW)
        .map(|(workload, count)| format!("{count} of {workload}{}", nodes(living, workload, **count)))
        .collect();
    let rest: usize = of.iter().skip(A_FEW).map(|(_, count)| **count).sum();
    let rest = rest + living.uncounted;
    let mut text = named.join(", ");
    if rest > 0 {
        text.push_str(&format!(" and {rest} others"));
    }
    text
}

/// A few of a workload's sidecars that have so many certificates, by name.
fn nodes(living: &Living, workload: &Workload, count: usize) -> String {
    let Some(nodes) = living.nodes.get(workload) else {
        return String::new();
    };
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    format!(" ({})", a_few(&nodes, count))
}

fn expiry(living: &Living) -> String {
    let last = living.last.map(at);
    last.map_or_else(String::new, |last| format!("; the last one expires at {last}"))
}

/// Has a step wait for certificates of which nobody knows, where there may be any.
fn not_noted(mut step: Step, living: &Living, may_be: bool) -> Step {
    let unknown = living.unknown_until.filter(|_| may_be).map(|until| {
        format!(
            "; there may be others, which were never noted, until {}",
            at(until)
        )
    });
    let fault = living.fault.as_ref().map(|fault| format!("; {fault}"));
    for told in unknown.into_iter().chain(fault) {
        step.waits_for = step.waits_for.max(1);
        step.text.push_str(&told);
    }
    step
}

/// Some of so many.
fn a_few(names: &[&str], of: usize) -> String {
    let named = names.len().min(A_FEW);
    let text = names[..named].join(", ");
    match of.saturating_sub(named) {
        0 => text,
        rest => format!("{text} and {rest} others"),
    }
}

/// Makes another root, which every sidecar is told to trust.
pub(super) async fn add(State(admin): State<Admin>, Query(how): Query<How>) -> Response {
    if admin.has_issuer {
        return (StatusCode::CONFLICT, FROM_ISSUER).into_response();
    }
    let step = Standing::of(&admin).await.add();
    if let Some(refusal) = refuse(&step, &how) {
        return refusal;
    }
    done(&admin, "added", |trust| trust.add(SystemTime::now())).await
}

/// Has the next root sign, once every sidecar trusts it that is connected to any replica, or is away and may
/// come back with a certificate.
pub(super) async fn switch(State(admin): State<Admin>, Query(how): Query<How>) -> Response {
    catch_up(&admin).await;
    let roots = admin.trust.roots();
    let Some(next) = roots.in_state(RootState::Next) else {
        return told(Err(TrustError::NoNext), "switched", &admin);
    };
    let step = Standing::of(&admin).await.switch(next, SystemTime::now());
    if let Some(refusal) = refuse(&step, &how) {
        return refusal;
    }
    let to = next.id;
    done(&admin, "switched", move |trust| {
        trust.switch(to, SystemTime::now())
    })
    .await
}

/// Takes in what another replica has just done, and notes what sidecars have just said: neither is noticed here
/// before a moment has passed. What fails is told by the step itself.
async fn catch_up(admin: &Admin) {
    let (trust, replicas, alive) = (
        Arc::clone(&admin.trust),
        Arc::clone(&admin.replicas),
        Arc::clone(&admin.alive),
    );
    let looked = tokio::task::spawn_blocking(move || {
        if let Err(error) = trust.reload() {
            tracing::error!(%error, "the roots in the state cannot be used, the last good ones stay");
        }
        if let Err(error) = replicas.note_trust(&alive, SystemTime::now()) {
            tracing::warn!(%error, "who trusts the next root is not noted");
        }
    });
    // A panic in there was logged.
    drop(looked.await);
}

/// Trusts the old roots no more, once no certificate is alive that one of them signed.
pub(super) async fn drop_old(State(admin): State<Admin>, Query(how): Query<How>) -> Response {
    catch_up(&admin).await;
    let roots = admin.trust.roots();
    let old = roots.all().iter().filter(|root| root.state == RootState::Old);
    let old: Vec<&Root> = old.collect();
    if old.is_empty() {
        return told(Err(TrustError::NoOld), "dropped", &admin);
    }
    let step = Standing::of(&admin).await.drop_old(&old, SystemTime::now());
    if let Some(refusal) = refuse(&step, &how) {
        return refusal;
    }
    let old: Vec<RootId> = old.iter().map(|root| root.id).collect();
    if how.force {
        return done(&admin, "dropped", move |trust| trust.drop_old(&old)).await;
    }
    let alive = Arc::clone(&admin.alive);
    done(&admin, "dropped", move |trust| {
        // A replica may have signed with one of them since it was looked.
        let of = old.iter().copied().collect();
        match alive.while_none(&of, SystemTime::now(), || trust.drop_old(&old)) {
            Ok(Ok(dropped)) => dropped,
            Ok(Err(alive)) => Err(TrustError::Needed(alive)),
            Err(error) => Err(TrustError::Unknown(error.to_string())),
        }
    })
    .await
}

fn refuse(step: &Step, how: &How) -> Option<Response> {
    if step.waits_for == 0 {
        return None;
    }
    if how.force {
        tracing::warn!(step = step.name, "forced although {}", step.text);
        return None;
    }
    let told = format!(
        "{}; ?force=true does it all the same: {}\n",
        step.text, step.forced
    );
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
        Err(
            error @ (TrustError::NextExists
            | TrustError::NoNext
            | TrustError::NoOld
            | TrustError::Full(_)
            | TrustError::Needed(_)
            | TrustError::Unknown(_)),
        ) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
        Err(
            error @ (TrustError::Folder(_)
            | TrustError::Unusable { .. }
            | TrustError::Lost { .. }
            | TrustError::Roots(_)),
        ) => {
            tracing::error!(%error, "the roots cannot be changed");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

/// Why no root is made.
const FROM_ISSUER: &str = "the roots come from --issuer: another one is added when it is there\n";

/// Until when a step waits for who is away.
const WAITED_FOR: &str = "; who is away is waited for until it comes back, is started anew under its name, or its \
                          certificate expires";

/// When the last certificate expires that a root has signed; `None` while it may sign more.
pub(super) fn last_certificate(root: &Root) -> Option<SystemTime> {
    (root.state == RootState::Old).then(|| root.since + LIFETIME)
}

#[cfg(test)]
mod tests;
