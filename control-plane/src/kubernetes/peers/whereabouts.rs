//! Where all replicas are: the EndpointSlices of their Service, kept up by a watch.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt as _};

use crate::kubernetes::objects::{self, SERVICE_NAME, SliceRow};
use crate::kubernetes::table::{Event, Scope, Table};
use crate::kubernetes::watch::LONGEST_BACKOFF;

/// Where all replicas are.
pub(super) struct Whereabouts {
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<EndpointSlice>>> + Send>>,
    slices: Table<SliceRow>,
    port: u16,
    /// Why the watch failed, and when that was last. One that goes on from where it was says nothing.
    fault: Option<(Instant, String)>,
}

impl Debug for Whereabouts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whereabouts")
            .field("slices", &self.slices)
            .finish_non_exhaustive()
    }
}

impl Whereabouts {
    /// Watches the Service of this namespace; each replica is asked at this port.
    pub(super) fn watch(client: &Client, port: u16) -> Self {
        let slices = Api::<EndpointSlice>::default_namespaced(client.clone());
        let own = watcher::Config::default().labels(&format!("{SERVICE_NAME}={SERVICE}"));
        Self::of(watcher(slices, own).default_backoff(), port)
    }

    fn of(
        events: impl Stream<Item = watcher::Result<Event<EndpointSlice>>> + Send + 'static,
        port: u16,
    ) -> Self {
        Self {
            events: Box::pin(events),
            slices: Table::default(),
            port,
            fault: None,
        }
    }

    /// As far as it was told, without waiting for more; at first until everything was, for a moment. Those that are
    /// not ready are among them: they may have sidecars.
    ///
    /// # Errors
    /// Why it is not known. What was known before is as likely as ever.
    ///
    /// # Cancellation
    /// Safe: what was told is taken in at once.
    pub(super) async fn look(&mut self) -> Result<BTreeSet<SocketAddr>, String> {
        let all = [Scope::All];
        loop {
            self.fault.take_if(|(at, _)| at.elapsed() > LONGEST_BACKOFF);
            let wait = match self.slices.is_synced(&all) || self.fault.is_some() {
                true => Duration::ZERO,
                false => FIRST_DEADLINE,
            };
            match timeout(wait, self.events.next()).await {
                Ok(Some(Ok(event))) => {
                    self.fault = None;
                    let row = |slice: &EndpointSlice, _: Option<&SliceRow>| objects::slice(slice);
                    let (scope, mut changed) = (&all[0], BTreeSet::new());
                    self.slices.take(scope, event, row, PartialEq::eq, &mut changed);
                }
                Ok(Some(Err(error))) => self.fault = Some((Instant::now(), error.to_string())),
                Ok(None) | Err(_) => break,
            }
        }
        match &self.fault {
            Some((_, fault)) => Err(format!("EndpointSlices of {SERVICE}: {fault}")),
            None if self.slices.is_synced(&all) => Ok(self.addresses()),
            None => Err("the API server does not answer".to_owned()),
        }
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        let rows = self.slices.all().flat_map(|(_, _, row)| &row.endpoints);
        rows.map(|endpoint| SocketAddr::new(endpoint.address, self.port))
            .collect()
    }
}

/// The Service of all replicas, as the chart names it.
const SERVICE: &str = "jitney-control-plane";

/// How long the first answer may take: a status waits for it.
const FIRST_DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    fn slice(ips: &[&str]) -> EndpointSlice {
        let endpoints = ips
            .iter()
            .map(|ip| json!({"addresses": [ip], "conditions": {"ready": false}}));
        let slice = json!({
            "metadata": {"name": "a", "namespace": "jitney-system", "labels": {SERVICE_NAME: SERVICE}},
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        serde_json::from_value(slice).unwrap()
    }

    fn at(ips: &[&str]) -> Result<BTreeSet<SocketAddr>, String> {
        Ok(ips
            .iter()
            .map(|ip| format!("{ip}:15014").parse().unwrap())
            .collect())
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_what_is_told_and_says_when_nothing_is() {
        let (tell, told) = mpsc::channel(16);
        let mut places = Whereabouts::of(ReceiverStream::new(told), 15014);
        let silent = Err("the API server does not answer".to_owned());
        assert_eq!(places.look().await, silent);
        tell.send(Ok(Event::Init)).await.unwrap();
        tell.send(Ok(Event::InitApply(slice(&["10.0.0.1"]))))
            .await
            .unwrap();
        assert_eq!(places.look().await, silent, "there may be more of them");
        tell.send(Ok(Event::InitDone)).await.unwrap();
        assert_eq!(places.look().await, at(&["10.0.0.1"]));
        assert_eq!(places.look().await, at(&["10.0.0.1"]));
        tell.send(Ok(Event::Apply(slice(&["10.0.0.1", "10.0.0.2"]))))
            .await
            .unwrap();
        assert_eq!(places.look().await, at(&["10.0.0.1", "10.0.0.2"]));
        tell.send(Err(watcher::Error::NoResourceVersion)).await.unwrap();
        let said = places.look().await.unwrap_err();
        assert!(
            said.starts_with("EndpointSlices of jitney-control-plane: "),
            "{said}"
        );
        places.look().await.unwrap_err();
        tokio::time::advance(LONGEST_BACKOFF + Duration::from_secs(1)).await;
        assert_eq!(places.look().await, at(&["10.0.0.1", "10.0.0.2"]), "it goes on");
        tell.send(Ok(Event::Delete(slice(&[])))).await.unwrap();
        assert_eq!(places.look().await, at(&[]));
    }
}
