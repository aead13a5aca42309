//! The ConfigMap as it is to be: what of one that is there is otherwise, and what puts that right.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use crate::identity::BUNDLE_FILE;
use crate::kubernetes::authority::{MANAGED_BY, MANAGER};
use crate::kubernetes::owner::Owner;

/// The ConfigMap's name, which is in the volume of every injected pod.
pub(super) const CONFIG_MAP: &str = "jitney-roots";

/// What one holds, and whose it is.
pub(super) struct Wanted<'a> {
    pub(super) pem: &'a str,
    pub(super) owner: &'a Owner,
}

impl Wanted<'_> {
    /// What server-side apply is given: all that is ours.
    pub(super) fn applied(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP,
                "labels": {MANAGED_BY: MANAGER},
                "ownerReferences": self.owner.references().unwrap_or_default(),
            },
            "data": {BUNDLE_FILE: self.pem},
        })
    }

    /// Whether one is as it is to be. Labels and owners beside ours are anybody's.
    pub(super) fn is_met(&self, map: &ConfigMap) -> bool {
        let pem = map.data.as_ref().and_then(|data| data.get(BUNDLE_FILE));
        let is_ours = map.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER);
        let own = self.owner.references().unwrap_or_default();
        let mut own = own.iter();
        let is_owned = own.all(|owner| map.owner_references().iter().any(|one| one.uid == owner.uid));
        pem.is_some_and(|pem| pem == self.pem)
            && is_ours
            && is_owned
            && surplus(map).is_none()
            && !is_immutable(map)
    }
}

/// A merge patch that takes away what somebody has added to one, if that is as it was when this was asked: server-side
/// apply leaves what others have written.
pub(super) fn surplus(map: &ConfigMap) -> Option<Value> {
    let nothing = |name: &String| (name.clone(), Value::Null);
    let data = map.data.iter().flatten().map(|(name, _)| name);
    let data: Map<String, Value> = data.filter(|name| *name != BUNDLE_FILE).map(nothing).collect();
    let binary = map.binary_data.iter().flatten().map(|(name, _)| name);
    let binary: Map<String, Value> = binary.map(nothing).collect();
    (!data.is_empty() || !binary.is_empty()).then(|| {
        json!({
            "metadata": {"resourceVersion": map.metadata.resource_version},
            "data": data,
            "binaryData": binary,
        })
    })
}

/// Whether nobody can change one: it is put right by another in its place.
pub(super) fn is_immutable(map: &ConfigMap) -> bool {
    map.immutable == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_of_it_is_ours_is_looked_at_and_nothing_else() {
        let owner = Owner::default();
        let wanted = Wanted {
            pem: "pem",
            owner: &owner,
        };
        let met = |more: Value| {
            let mut map = wanted.applied();
            json_patch::merge(&mut map, &more);
            wanted.is_met(&serde_json::from_value(map).unwrap())
        };
        for more in [
            json!({}),
            json!({"immutable": false}),
            json!({"metadata": {"labels": {"team": "mesh"}, "annotations": {"a": "b"}}}),
        ] {
            assert!(met(more.clone()), "{more}");
        }
        for more in [
            json!({"data": {"roots.pem": "other"}}),
            json!({"data": null}),
            json!({"data": {"more": ""}}),
            json!({"binaryData": {"more": ""}}),
            json!({"immutable": true}),
            json!({"metadata": {"labels": null}}),
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}}),
        ] {
            assert!(!met(more.clone()), "{more}");
        }
    }

    #[test]
    fn one_without_its_owner_is_put_right() {
        let owner = Owner::of_uid("jitney-control-plane", "one");
        let wanted = Wanted {
            pem: "pem",
            owner: &owner,
        };
        let mut map: ConfigMap = serde_json::from_value(wanted.applied()).unwrap();
        assert!(wanted.is_met(&map));
        let mut other = Owner::of_uid("jitney-control-plane", "other")
            .references()
            .unwrap();
        map.metadata.owner_references.as_mut().unwrap().append(&mut other);
        assert!(wanted.is_met(&map), "another owner beside ours");
        map.metadata.owner_references.as_mut().unwrap().remove(0);
        assert!(!wanted.is_met(&map));
    }

    #[test]
    fn what_was_added_is_taken_away_if_nothing_else_has_changed() {
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"resourceVersion": "7"},
            "data": {"roots.pem": "pem", "a": ""},
            "binaryData": {"b": ""},
        }))
        .unwrap();
        let expected =
            json!({"metadata": {"resourceVersion": "7"}, "data": {"a": null}, "binaryData": {"b": null}});
        assert_eq!(surplus(&map), Some(expected));
    }
}
