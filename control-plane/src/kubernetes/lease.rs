//! The Lease, which one of the replicas holds: the one that writes what only one should.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use kube_lease_manager::{DurationSeconds, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::authority::{MANAGER, labels};
use super::owner::Owner;
use crate::faults::{Doing, Faults};

/// Who holds the Lease, or waits for it.
pub(super) struct Leadership {
    pub(super) client: Client,
    /// What this replica is called there; no other is.
    pub(super) identity: String,
    /// Whose it is where it has to be made again.
    pub(super) owner: Owner,
    /// What is wrong with the holding.
    pub(super) faults: Arc<Faults>,
}

impl Leadership {
    /// Holds it whenever nobody else does, for as long as this is polled, and tells whether it does.
    pub(super) async fn keep(self, leads: watch::Sender<bool>) {
        loop {
            if let Err(error) = self.hold(&leads).await {
                self.faults.note(Doing::Lease, Err(error.to_string()));
            }
            leads.send_replace(false);
            sleep(BETWEEN_LEASES).await;
        }
    }

    async fn hold(&self, leads: &watch::Sender<bool>) -> kube_lease_manager::Result<()> {
        let manager = LeaseManagerBuilder::new(self.client.clone(), LEASE)
            .with_namespace(self.client.default_namespace())
            .with_identity(&self.identity)
            .with_duration(LEASE_DURATION)
            .with_grace(LEASE_GRACE)
            .with_field_manager(format!("{MANAGER}-lease"))
            .build()
            .await?;
        let (mut held, task) = manager.watch().await;
        self.faults.note(Doing::Lease, Ok::<_, String>(()));
        let mut looks = interval(BETWEEN_LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_leading = *held.borrow_and_update();
            if leads.send_replace(is_leading) != is_leading {
                tracing::info!(
                    is_leading,
                    holder = self.identity,
                    "whether this replica writes the status of policies has changed"
                );
            }
            tokio::select! {
                changed = held.changed() => if changed.is_err() { break },
                _ = looks.tick() => self.faults.note(Doing::Lease, self.restored().await),
            }
        }
        match task.await {
            Ok(ended) => ended.map(drop),
            // It panicked, and that was logged.
            Err(_) => Ok(()),
        }
    }

    /// Makes the Lease again if somebody has deleted it: the manager asks for the one that there was, ever less often.
    async fn restored(&self) -> kube::Result<()> {
        let leases = Api::<Lease>::default_namespaced(self.client.clone());
        if leases.get_metadata_opt(LEASE).await?.is_some() {
            return Ok(());
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                labels: Some(labels()),
                owner_references: self.owner.references(),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        match leases.create(&PostParams::default(), &lease).await {
            Ok(_) => {
                tracing::warn!("the Lease {LEASE} was gone, and is made again");
                Ok(())
            }
            // Another replica was first.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The Lease's name.
pub(super) const LEASE: &str = "jitney-control-plane";
/// How long nobody else may have it after it was last renewed.
const LEASE_DURATION: DurationSeconds = 15;
const LEASE_GRACE: DurationSeconds = 5;
const BETWEEN_LEASES: Duration = Duration::from_secs(2);
/// How soon one that is deleted is made again.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3);
