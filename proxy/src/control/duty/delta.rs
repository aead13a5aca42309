//! What a response brings, one resource after another.

use std::collections::BTreeSet;

use jitney_api::push::config::{Cause, TrustBundle};
use jitney_api::push::{Change, Delta};
use prost::Message as _;

/// Rejects the bundles that cannot be trusted.
pub(super) fn each_bundle(delta: &mut Delta, trust: impl Fn(TrustBundle) -> Result<(), String>) {
    for change in delta.changes.clone() {
        if let Change::Set {
            name,
            version,
            content,
        } = change
        {
            let bundle = TrustBundle::decode(content).map_err(|error| error.to_string());
            if let Err(reason) = bundle.and_then(&trust) {
                delta.reject(&name, &version, Cause::Content, "", &reason);
            }
        }
    }
}

/// The policies that what is applied of a response belongs to.
pub(super) fn policies_of(delta: &Delta) -> BTreeSet<String> {
    let is_rejected = |name: &str| delta.rejected.iter().any(|rejection| rejection.name == name);
    let names = delta
        .changes
        .iter()
        .map(name_of)
        .filter(|name| !is_rejected(name));
    let policies = names.filter_map(|name| delta.kind.policy_of(name));
    policies.map(str::to_owned).collect()
}

pub(super) fn name_of(change: &Change) -> &str {
    match change {
        Change::Set { name, .. } | Change::Gone { name } => name,
    }
}

/// Everything that came together cannot be in force together.
pub(super) fn reject(delta: &mut Delta, reason: &str) {
    for change in delta.changes.clone() {
        let is_rejected = |name: &str| delta.rejected.iter().any(|rejection| rejection.name == name);
        if let Change::Set { name, version, .. } = change
            && !is_rejected(&name)
        {
            delta.reject(&name, &version, Cause::Place, "", reason);
        }
    }
}
