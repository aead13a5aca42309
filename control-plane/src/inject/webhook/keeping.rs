//! Where the webhook's authorities are kept, and how the API server hears of them: a Secret that all replicas
//! read, and the `caBundle` of each webhook.

use std::future::Future;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::kubernetes::Owner;

use super::papers::{Authorities, PapersError};

/// Keeps authorities for all replicas, and tells the API server of them.
pub trait Keep: Sync {
    /// What is kept, and its version; `None` when nothing is.
    fn load(&self) -> impl Future<Output = Result<Option<(Authorities, Version)>, KeepError>> + Send;

    /// Keeps something in place of `version`, or as the first; false when another replica has been there
    /// meanwhile, and nothing was changed.
    fn store(
        &self,
        authorities: &Authorities,
        version: Option<Version>,
    ) -> impl Future<Output = Result<bool, KeepError>> + Send;

    /// Has the API server believe whom these certificates (PEM) sign for, and nobody else.
    fn publish(&self, certificates: &str) -> impl Future<Output = Result<(), KeepError>> + Send;
}

/// Which writing of it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// Why authorities are not kept, or nobody is told of them.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// They cannot be made or read.
    #[error(transparent)]
    Papers(#[from] PapersError),
    /// The API server does not let us.
    #[error("{what}: {error}")]
    Cluster {
        /// What was asked for.
        what: String,
        /// What it says.
        #[source]
        error: Box<kube::Error>,
    },
    /// There is nobody to tell.
    #[error("there is no MutatingWebhookConfiguration {0} yet")]
    NoConfiguration(String),
    /// Others write it all the time.
    #[error("other replicas change the authority all the time")]
    Contended,
}

/// In a cluster's API.
#[derive(Clone)]
pub struct InCluster {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    namespace: String,
    configuration: String,
    owner: Owner,
}

impl std::fmt::Debug for InCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InCluster")
            .field("namespace", &self.namespace)
            .field("configuration", &self.configuration)
            .finish_non_exhaustive()
    }
}

impl InCluster {
    /// In a Secret of a namespace, for the webhooks of one configuration.
    pub fn new(client: &Client, namespace: &str, configuration: &str, owner: Owner) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client.clone()),
            namespace: namespace.to_owned(),
            configuration: configuration.to_owned(),
            owner,
        }
    }

    fn secret(&self, authorities: &Authorities, version: Option<Version>) -> Secret {
        let mut secret = Secret {
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some(SECRET.to_owned());
        secret.metadata.namespace = Some(self.namespace.clone());
        secret.metadata.owner_references = self.owner.references();
        secret.metadata.resource_version = version.map(|version| version.0);
        let data = [
            (CERTIFICATES, authorities.certificates()),
            (KEYS, authorities.keys()),
        ];
        let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        secret.data = Some(data.into());
        secret
    }

    fn of_secret(&self, error: kube::Error) -> KeepError {
        failed(format!("Secret {}/{SECRET}", self.namespace), error)
    }

    fn of_configuration(&self, error: kube::Error) -> KeepError {
        failed(
            format!("MutatingWebhookConfiguration {}", self.configuration),
            error,
        )
    }
}

impl Keep for InCluster {
    async fn load(&self) -> Result<Option<(Authorities, Version)>, KeepError> {
        let secret = self.secrets.get_opt(SECRET).await;
        let Some(secret) = secret.map_err(|error| self.of_secret(error))? else {
            return Ok(None);
        };
        let version = Version(secret.resource_version().unwrap_or_default());
        let data = secret.data.unwrap_or_default();
        let text = |name: &str| {
            data.get(name)
                .map(|value| String::from_utf8_lossy(&value.0).into_owned())
        };
        let read = Authorities::read(
            &text(CERTIFICATES).unwrap_or_default(),
            &text(KEYS).unwrap_or_default(),
        );
        Ok(Some((read?, version)))
    }

    async fn store(&self, authorities: &Authorities, version: Option<Version>) -> Result<bool, KeepError> {
        let (is_first, params) = (version.is_none(), PostParams::default());
        let secret = self.secret(authorities, version);
        let stored = if is_first {
            self.secrets.create(&params, &secret).await
        } else {
            self.secrets.replace(SECRET, &params, &secret).await
        };
        match stored {
            Ok(_) => Ok(true),
            // It is there already, or another one is, or it was removed.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
            Err(error) => Err(self.of_secret(error)),
        }
    }

    async fn publish(&self, certificates: &str) -> Result<(), KeepError> {
        let found = self.configurations.get_opt(&self.configuration).await;
        let found = found.map_err(|error| self.of_configuration(error))?;
        let Some(found) = found else {
            return Err(KeepError::NoConfiguration(self.configuration.clone()));
        };
        let webhooks = found.webhooks.unwrap_or_default();
        let is_told = |told: &Option<ByteString>| {
            told.as_ref()
                .is_some_and(|told| told.0 == certificates.as_bytes())
        };
        if webhooks
            .iter()
            .all(|webhook| is_told(&webhook.client_config.ca_bundle))
        {
            return Ok(());
        }
        let bundle = STANDARD.encode(certificates);
        let told = webhooks
            .iter()
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}));
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.configuration},
            "webhooks": told.collect::<Vec<_>>(),
        });
        // Whoever writes the rest of it, and writes it again, does not own this field.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patched = self
            .configurations
            .patch(&self.configuration, &params, &Patch::Apply(&patch))
            .await;
        patched.map(drop).map_err(|error| self.of_configuration(error))
    }
}

fn failed(what: String, error: kube::Error) -> KeepError {
    KeepError::Cluster {
        what,
        error: Box::new(error),
    }
}

const SECRET: &str = "jitney-webhook";
const CERTIFICATES: &str = "ca.crt";
const KEYS: &str = "ca.key";
/// Who owns the field in the eyes of the API server.
const FIELD_MANAGER: &str = "jitney-webhook";
