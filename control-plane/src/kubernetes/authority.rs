//! The authority's keys, in a Secret: whoever starts anew has them, and every replica the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;

use super::owner::Owner;
use crate::faults::{Doing, Faults};
use crate::identity::{Folder, FolderError, Trust, TrustError};

/// The Secret with the keys.
#[derive(Clone)]
pub struct Keys {
    secrets: Api<Secret>,
    namespace: String,
    owner: Owner,
    /// The version of the Secret that the state folder agrees with.
    seen: Option<String>,
}

/// Why the keys are not where they should be.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The API server does not let us.
    #[error("Secret {namespace}/{SECRET}: {cause}")]
    Api {
        /// Where it is.
        namespace: String,
        /// What was said.
        #[source]
        cause: kube::Error,
    },
    /// Nobody would hear of another replica's change.
    #[error("Secret {namespace}/{SECRET} is not watched: {cause}")]
    Watch {
        /// Where it is.
        namespace: String,
        /// What was said.
        #[source]
        cause: watcher::Error,
    },
    /// It is another one's.
    #[error("Secret {0}/{SECRET}: found no text at data[{KEY:?}]")]
    Foreign(String),
    /// The state folder does not let us.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What it holds is of no use.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// In the namespace that this runs in.
    pub fn new(client: &Client) -> Self {
        Self {
            secrets: Api::default_namespaced(client.clone()),
            namespace: client.default_namespace().to_owned(),
            owner: Owner::default(),
            seen: None,
        }
    }

    /// Says whose the Secret is where it is made or written.
    pub fn set_owner(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Whose it is.
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Brings the keys to the state folder, if there are any yet. Waits a while for an API server that does not
    /// answer.
    ///
    /// # Errors
    /// When it does not, or the keys cannot be used.
    pub async fn fetch(&mut self, state: &Path, trust_domain: &str) -> Result<(), KeysError> {
        let until = Instant::now() + PATIENCE;
        let found = loop {
            match self.secrets.get_opt(SECRET).await {
                Ok(found) => break found,
                Err(cause) if is_final(&cause) || Instant::now() >= until => return Err(self.failed(cause)),
                Err(error) => tracing::warn!(%error, "the API server does not answer, and is asked again"),
            }
            sleep(BETWEEN).await;
        };
        if let Some(secret) = found {
            Trust::bring(&Folder::open(state)?, trust_domain, &self.text(&secret)?)?;
            self.saw(&secret);
        }
        Ok(())
    }

    /// Has the Secret hold the keys, unless it does: then these are taken over.
    ///
    /// # Errors
    /// When it can be neither made nor read.
    pub async fn keep(&mut self, trust: &Trust) -> Result<(), KeysError> {
        if self.seen.is_some() {
            return Ok(());
        }
        let secret = self.secret(&trust.text()?);
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(made) => self.saw(&made),
            Err(kube::Error::Api(status)) if status.code == CONFLICT => {
                // Another replica was first.
                self.take_over(trust).await?;
            }
            Err(cause) => return Err(self.failed(cause)),
        }
        Ok(())
    }

    /// Keeps the Secret and the keys in force the same for as long as it is polled.
    pub async fn follow(mut self, trust: Arc<Trust>, faults: Arc<Faults>) {
        let mut changed = trust.subscribe();
        let only = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
        let events = watcher(self.secrets.clone(), only).default_backoff();
        let mut events = std::pin::pin!(events);
        loop {
            let done = tokio::select! {
                told = changed.changed() => match told {
                    Ok(()) => self.write(&trust).await,
                    Err(_) => return,
                },
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret))) => {
                        self.read(&secret, &trust)
                    }
                    Some(Ok(watcher::Event::Delete(_))) => {
                        self.seen = None;
                        self.keep(&trust).await
                    }
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => continue,
                    Some(Err(cause)) => Err(KeysError::Watch {
                        namespace: self.namespace.clone(),
                        cause,
                    }),
                    None => return,
                },
            };
            if let Err(error) = &done {
                tracing::error!(%error, "the Secret and the keys in force may differ");
            }
            faults.note(Doing::Keys, done.map_err(|error| error.to_string()));
        }
    }

    /// The keys have changed here, or were taken over from there.
    async fn write(&mut self, trust: &Trust) -> Result<(), KeysError> {
        let text = trust.text()?;
        let current = self
            .secrets
            .get_opt(SECRET)
            .await
            .map_err(|cause| self.failed(cause))?;
        let Some(current) = current else {
            self.seen = None;
            return self.keep(trust).await;
        };
        if self.text(&current)? == text {
            self.saw(&current);
            return Ok(());
        }
        let mut next = self.secret(&text);
        // Only if nobody has changed it since: two changes at once are two replicas' that do not know of each other.
        next.metadata.resource_version.clone_from(&self.seen);
        match self.secrets.replace(SECRET, &PostParams::default(), &next).await {
            Ok(written) => self.saw(&written),
            Err(kube::Error::Api(status)) if status.code == CONFLICT => {
                tracing::error!(
                    "another replica has changed the roots at the same time: its change stays, this one's is undone"
                );
                self.take_over(trust).await?;
            }
            Err(cause) => return Err(self.failed(cause)),
        }
        Ok(())
    }

    fn read(&mut self, secret: &Secret, trust: &Trust) -> Result<(), KeysError> {
        if trust.adopt(&self.text(secret)?)? {
            tracing::info!("another replica has changed the roots");
        }
        self.saw(secret);
        Ok(())
    }

    async fn take_over(&mut self, trust: &Trust) -> Result<(), KeysError> {
        let secret = self
            .secrets
            .get(SECRET)
            .await
            .map_err(|cause| self.failed(cause))?;
        self.read(&secret, trust)
    }

    fn saw(&mut self, secret: &Secret) {
        self.seen.clone_from(&secret.metadata.resource_version);
    }

    fn text(&self, secret: &Secret) -> Result<String, KeysError> {
        let data = secret.data.as_ref().and_then(|data| data.get(KEY));
        let text = data.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or_else(|| KeysError::Foreign(self.namespace.clone()))
    }

    fn secret(&self, text: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels()),
                owner_references: self.owner.references(),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(
                KEY.to_owned(),
                ByteString(text.as_bytes().to_vec()),
            )])),
            type_: Some("jitney.dev/authority".to_owned()),
            ..Secret::default()
        }
    }

    fn failed(&self, cause: kube::Error) -> KeysError {
        KeysError::Api {
            namespace: self.namespace.clone(),
            cause,
        }
    }
}

/// Whether asking again is of no use.
const fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code >= 400 && status.code < 500 && status.code != 429)
}

/// The Secret's name.
const SECRET: &str = "jitney-authority";
/// As in the state folder.
const KEY: &str = "authority.json";
/// Who made what in a cluster.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// See [`MANAGED_BY`].
pub(super) const MANAGER: &str = "jitney-control-plane";

/// What all that this program makes is labelled with.
pub(super) fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])
}

const CONFLICT: u16 = 409;

/// How long an API server may be away when a control plane starts.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_secs(1);
