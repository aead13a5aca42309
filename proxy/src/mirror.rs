//! Copies of calls: sent to another backend while the calls go their way, which no copy ever delays, and
//! forgotten.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use jitney_core::pressure::Pressure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::{Body, Progress, Room};
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::metrics::{BackendMetrics, MirrorOutcome};
use crate::send::Sending;
use crate::upstream::Upstream;

/// The bounds on copies that go to one backend.
#[derive(Debug)]
pub(crate) struct Copies {
    places: Arc<Semaphore>,
    room: Room,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(COPIES_MAX)),
            room: Room::new(ROOM),
        }
    }
}

/// Has a call be copied to another backend; `None` for one that is not known. A call that asks for another
/// protocol is not copied.
pub(crate) fn copy(
    call: &mut Request<Body>,
    to: Option<Arc<Upstream>>,
    sending: Sending,
    metrics: &Arc<BackendMetrics>,
) {
    let (to, place) = match place(to) {
        Ok(found) => found,
        Err(outcome) => return metrics.mirrored.inc(outcome),
    };
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = call.method().clone();
    *copy.uri_mut() = call.uri().clone();
    *copy.version_mut() = call.version();
    copy.headers_mut().clone_from(call.headers());
    let body = std::mem::replace(call.body_mut(), Body::empty());
    let (original, copied, progress) = body.copied(&to.copies.room);
    *call.body_mut() = original;
    *copy.body_mut() = copied;
    if headers::outbound(&mut copy).is_some() {
        return;
    }
    let metrics = Arc::clone(metrics);
    tokio::spawn(async move {
        metrics
            .mirrored
            .inc(follow(copy, &to, &sending, progress.as_deref()).await);
        drop(place);
    });
}

/// A place among the copies of a backend, or why there is none.
fn place(to: Option<Arc<Upstream>>) -> Result<(Arc<Upstream>, OwnedSemaphorePermit), MirrorOutcome> {
    let to = to.ok_or(MirrorOutcome::Unknown)?;
    if to.is_draining() {
        return Err(MirrorOutcome::Draining);
    }
    if to.backend.memory.pressure() != Pressure::None {
        return Err(MirrorOutcome::Memory);
    }
    let place = Arc::clone(&to.copies.places).try_acquire_owned();
    place.map_or(Err(MirrorOutcome::TooMany), |place| Ok((to, place)))
}

/// Sends a copy and reads as much of its reply as lets the connection be used again.
async fn send(copy: Request<Body>, to: &Upstream, sending: &Sending) -> Result<(), Error> {
    let mut reply = to.backend.send(&mut Some(copy), sending).await?.into_body();
    let mut read = 0;
    while read <= REPLY_MAX
        && let Some(Ok(piece)) = reply.frame().await
    {
        read += piece.data_ref().map_or(0, bytes::Bytes::len);
    }
    Ok(())
}

/// Sends a copy unless its body is given up, however it is waited for.
async fn follow(
    copy: Request<Body>,
    to: &Upstream,
    sending: &Sending,
    progress: Option<&Progress>,
) -> MirrorOutcome {
    let given_up = async {
        match progress {
            Some(progress) => progress.given_up().await,
            None => pending().await,
        }
    };
    let sent = tokio::select! {
        biased;
        () = given_up => None,
        sent = tokio::time::timeout(LONGEST, send(copy, to, sending)) => Some(sent),
    };
    match sent {
        Some(Ok(Ok(()))) => MirrorOutcome::Replied,
        Some(Ok(Err(error))) if !is_late(&error) => MirrorOutcome::Failed,
        Some(_) => MirrorOutcome::TimedOut,
        None if progress.is_some_and(Progress::is_behind) => MirrorOutcome::Behind,
        None => MirrorOutcome::CallerGone,
    }
}

fn is_late(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::TryTimeout)
}

/// Copies under way to one backend.
const COPIES_MAX: usize = 100;
/// Bytes of their bodies that wait to be sent.
const ROOM: usize = 16 << 20;
/// How much of a reply is read before its connection is rather given up.
const REPLY_MAX: usize = 1 << 20;
/// How long a copy may take in all, whatever the policy's timeouts: it has a place that others wait for.
const LONGEST: Duration = Duration::from_secs(60);
