//! Who owns what the control plane makes in a cluster: a ClusterRole of its release, so that Kubernetes deletes
//! both together. Nothing else of a release is in no namespace and there in any case, and only what is in no
//! namespace may own what is in any.

use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};

/// The owner, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Owner(Option<OwnerReference>);

impl Owner {
    /// The ClusterRole of this name; none where no name is given, or none is found.
    pub async fn find(client: &Client, name: Option<&str>) -> Self {
        let Some(name) = name else {
            return Self::default();
        };
        match Api::<ClusterRole>::all(client.clone()).get_metadata(name).await {
            Ok(found) => found
                .metadata
                .uid
                .map_or_else(Self::default, |uid| Self::of_uid(name, &uid)),
            Err(error) => {
                tracing::warn!(%error, "ClusterRole {name}: what is made in the cluster stays when it is deleted");
                Self::default()
            }
        }
    }

    /// The ClusterRole of this name and uid.
    pub(super) fn of_uid(name: &str, uid: &str) -> Self {
        Self(Some(OwnerReference {
            api_version: "rbac.authorization.k8s.io/v1".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }))
    }

    /// As objects name it in their metadata.
    pub fn references(&self) -> Option<Vec<OwnerReference>> {
        self.0.clone().map(|owner| vec![owner])
    }
}
