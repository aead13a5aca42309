//! What the API server says that it serves. Anybody may ask who has an account, and it answers for what is not there,
//! too: a 404 of an object, or a 403, does not tell that.

use std::collections::BTreeSet;

use jitney_api::RouteKind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;

use super::index::Kinds;

/// Kinds of Jitney's that are served, and whose status is not: their definitions are older than this program. None where
/// the group is not known at all.
///
/// # Errors
/// The API server's own.
pub(super) async fn without_status(client: &Client) -> kube::Result<BTreeSet<Kinds>> {
    let served = resources(client, "jitney.dev/v1alpha1").await?;
    Ok(lacking(&served))
}

/// Whether routes of a kind are served.
///
/// # Errors
/// The API server's own.
pub(super) async fn has_routes(client: &Client, kind: RouteKind) -> kube::Result<bool> {
    let group = format!("{}/{}", RouteKind::GROUP, RouteKind::VERSION);
    Ok(resources(client, &group).await?.contains(kind.plural()))
}

/// What to do about a kind whose status is not served.
pub(super) fn outdated(kinds: Kinds) -> String {
    format!(
        "{}.jitney.dev has no status subresource: upgrade the chart jitney-crds",
        kinds.plural()
    )
}

fn lacking(served: &BTreeSet<String>) -> BTreeSet<Kinds> {
    let with_status = Kinds::WITH_STATUS.into_iter();
    let lacking = with_status.filter(|kinds| {
        let plural = kinds.plural();
        served.contains(plural) && !served.contains(&format!("{plural}/status"))
    });
    lacking.collect()
}

/// The names of a group's resources as they stand in paths, subresources among them; none where it is not served.
async fn resources(client: &Client, group: &str) -> kube::Result<BTreeSet<String>> {
    match client.list_api_group_resources(group).await {
        Ok(APIResourceList { resources, .. }) => Ok(resources.into_iter().map(|one| one.name).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_without_its_status_is_told_from_one_that_is_not_there() {
        for (served, expected) in [
            (
                &["batchpolicies", "batchpolicies/status", "backends", "runtimes"][..],
                &[Kinds::Runtimes][..],
            ),
            (&["batchpolicies", "batchpolicies/status"], &[]),
            (&["batchpolicies", "runtimes/status"], &[Kinds::BatchPolicies]),
            (&[], &[]),
        ] {
            let served = served.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(lacking(&served), expected.iter().copied().collect(), "{served:?}");
        }
        assert_eq!(
            outdated(Kinds::Runtimes),
            "runtimes.jitney.dev has no status subresource: upgrade the chart jitney-crds"
        );
    }
}
