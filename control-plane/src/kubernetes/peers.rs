//! What the other replicas of this control plane count: a sidecar is connected to one of them only. Each is asked
//! at its admin endpoint. One that does not answer is left out, and its sidecars count as not heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::header::HOST;
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jitney_api::push::Kind;
use kube::Client;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::status::{Count, Tally};

mod whereabouts;

use whereabouts::Whereabouts;

/// The other replicas, and what each has said last.
#[derive(Debug)]
pub(super) struct Peers {
    /// The name of this one, which is among those that are listed.
    own: String,
    /// The port of the admin endpoint, the same at all of them.
    port: u16,
    /// Watched from the first look on.
    whereabouts: Option<Whereabouts>,
    /// Why it is not known who there is.
    unknown: Option<String>,
    asked: Option<Instant>,
    heard: BTreeMap<SocketAddr, Heard>,
}

/// What is known of an address.
#[derive(Debug, Default)]
struct Heard {
    /// It is this replica, which is not to be asked.
    is_own: bool,
    tally: Option<Arc<Tally>>,
    /// Since when it does not answer, and why.
    silent: Option<(Instant, String)>,
}

/// Why a replica is left out.
#[derive(Debug, thiserror::Error)]
enum NoTally {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("cannot ask: {0}")]
    Ask(#[from] http::Error),
    #[error("gave no answer: {0}")]
    Answer(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("said too much, or broke off: {0}")]
    Body(#[source] axum::Error),
    #[error("said what is no tally: {0}")]
    Tally(#[from] serde_json::Error),
    #[error("gave no answer within {} s", DEADLINE.as_secs())]
    Late,
}

impl Peers {
    /// Nobody yet.
    pub(super) fn new(own: &str, port: u16) -> Self {
        Self {
            own: own.to_owned(),
            port,
            whereabouts: None,
            unknown: None,
            asked: None,
            heard: BTreeMap::new(),
        }
    }

    /// Looks who there is and asks them, each when it is time.
    ///
    /// # Errors
    /// When some of them are not known, or have not answered for a while.
    pub(super) async fn look(&mut self, client: &Client) -> Result<(), String> {
        let whereabouts = self
            .whereabouts
            .get_or_insert_with(|| Whereabouts::watch(client, self.port));
        match whereabouts.look().await {
            Ok(addresses) => {
                self.know(addresses);
                self.unknown = None;
            }
            // Those that were known are asked on.
            Err(error) => self.unknown = Some(error),
        }
        if is_due(self.asked, ASK_EVERY) {
            self.ask().await;
            self.asked = Some(Instant::now());
        }
        self.fault(Instant::now())
    }

    /// These are the addresses of all replicas.
    fn know(&mut self, addresses: BTreeSet<SocketAddr>) {
        let mut before = std::mem::take(&mut self.heard);
        let known = addresses.into_iter().take(MOST_PEERS);
        self.heard = known
            .map(|address| (address, before.remove(&address).unwrap_or_default()))
            .collect();
    }

    /// Asks all of them at once.
    async fn ask(&mut self) {
        let mut asking = JoinSet::new();
        for (address, heard) in self.heard.iter().filter(|(_, heard)| !heard.is_own) {
            let (address, tally) = (*address, heard.tally.clone());
            asking.spawn(async move {
                let answer = timeout(DEADLINE, fetch(address, tally));
                (address, answer.await.unwrap_or(Err(NoTally::Late)))
            });
        }
        while let Some(answer) = asking.join_next().await {
            // A panic in there was logged.
            let Ok((address, answer)) = answer else { continue };
            if let Some(heard) = self.heard.get_mut(&address) {
                heard.note(answer, &self.own, Instant::now());
            }
        }
    }

    /// What each of the others has said, one that has two addresses once.
    pub(super) fn tallies(&self) -> Vec<Arc<Tally>> {
        let tallies = self.heard.values().filter_map(|heard| heard.tally.as_ref());
        let by_name: BTreeMap<&str, &Arc<Tally>> =
            tallies.map(|tally| (tally.replica.as_str(), tally)).collect();
        by_name.into_values().cloned().collect()
    }

    /// Who has been silent for so long that it is more than a restart, or that nobody is known.
    fn fault(&self, now: Instant) -> Result<(), String> {
        if let Some(error) = &self.unknown {
            return Err(error.clone());
        }
        let mut silent = self.heard.iter().filter_map(|(address, heard)| {
            let (since, why) = heard.silent.as_ref()?;
            (now.saturating_duration_since(*since) > SILENT).then(|| format!("{address} {why}"))
        });
        silent.next().map_or(Ok(()), Err)
    }
}

impl Heard {
    fn note(&mut self, answer: Result<Option<Tally>, NoTally>, own: &str, now: Instant) {
        match answer {
            Ok(None) => self.silent = None,
            Ok(Some(tally)) => {
                self.is_own = tally.replica == own;
                self.tally = (!self.is_own).then(|| Arc::new(tally));
                self.silent = None;
            }
            Err(error) => {
                self.tally = None;
                let since = self.silent.take().map_or(now, |(since, _)| since);
                self.silent = Some((since, error.to_string()));
            }
        }
    }
}

/// A policy's sidecars at all replicas: those that are connected here, and those of the others.
pub(super) fn merged(own: Count, kind: Kind, name: &str, others: &[Arc<Tally>]) -> Count {
    let of_others = others.iter().filter_map(|tally| tally.count(kind, name));
    of_others.fold(own, |mut sum, count| {
        sum.add(count);
        sum
    })
}

/// What a replica counts; `None` when that is what it counted before.
async fn fetch(address: SocketAddr, before: Option<Arc<Tally>>) -> Result<Option<Tally>, NoTally> {
    let path = match &before {
        Some(before) => format!("/progress?revision={}", before.revision),
        None => "/progress".to_owned(),
    };
    let request = Request::get(path).header(HOST, address.to_string());
    let request = request.body(Body::empty())?;
    let stream = TcpStream::connect(address).await.map_err(NoTally::Connect)?;
    let (mut to, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asking = async move {
        let response = to.send_request(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if before.is_some() => return Ok(None),
            status => return Err(NoTally::Status(status)),
        }
        let body = to_bytes(Body::new(response.into_body()), MOST_BYTES).await;
        Ok(Some(serde_json::from_slice(&body.map_err(NoTally::Body)?)?))
    };
    // The connection ends when nobody asks on it any more; its error is the answer's.
    let (answer, _) = tokio::join!(asking, connection);
    answer
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}

/// How often each replica is asked what it counts.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one may take: a status waits for it.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long one may be silent before that is a fault: a pod that goes away is listed for a while.
const SILENT: Duration = Duration::from_secs(30);
/// Others are left out; the chart's autoscaler goes nowhere near.
const MOST_PEERS: usize = 64;
/// What one may say: about 200 bytes for each policy that has sidecars there. One that says more is left out.
const MOST_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests;
