//! What a policy has done to the calls that come to its backend before they are sent on.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use jitney_core::policy::{Detours, Replay};

use super::{Account, Way, go, head, sending};
use crate::batching::alarm::now;
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Fault, UpstreamCall};
use crate::mirror;
use crate::reply::Reply;
use crate::send::Sending;

/// Has a call wait, fail or be copied, and sends it to the backend that chance gives it to. From then on it is
/// that backend's, by whose policy it is treated as one that came there, but for this: it goes no further.
///
/// # Cancellation
/// Dropping the future ends the call wherever it is.
pub(super) async fn take(
    mut account: Account,
    mut way: Way,
    mut request: Request<Body>,
    detours: Arc<Detours>,
) -> Reply {
    if let Err(fault) = pass(&account, &mut way, &mut request, &detours).await {
        return account.close(Err(fault), None, None);
    }
    if let Some(other) = account.upstream.diverts(&detours) {
        let arrival = other.arrival(&head(&request));
        (way, account.state) = Way::of(arrival.route, arrival.timeouts, way.set_out);
        account.upstream = other;
        let passed = match (arrival.refused, arrival.detours) {
            (Some(refused), _) => Err(refused.into()),
            (None, None) => Ok(()),
            (None, Some(detours)) => pass(&account, &mut way, &mut request, &detours).await,
        };
        if let Err(fault) = passed {
            return account.close(Err(fault), None, None);
        }
    }
    go(account, way, request).await
}

/// Has a call wait, fail or be copied as the policy says of the backend that it is at.
async fn pass(
    account: &Account,
    way: &mut Way,
    request: &mut Request<Body>,
    detours: &Detours,
) -> Result<(), Error> {
    if let Some(faults) = &detours.faults {
        let (delay, abort) = account.upstream.strikes(faults);
        if let Some(delay) = delay {
            wait(account, way, request.headers(), delay).await?;
        }
        if let Some(injected) = abort {
            account.upstream.metrics.faults.inc(Fault::Abort);
            return Err(ErrorKind::FaultInjected(injected).into());
        }
    }
    copy(account, way, request, detours);
    Ok(())
}

/// Waits, but no longer than the caller does.
async fn wait(account: &Account, way: &mut Way, headers: &HeaderMap, delay: Duration) -> Result<(), Error> {
    let Ok(_place) = account.upstream.delays.try_acquire() else {
        return Ok(());
    };
    account.upstream.metrics.faults.inc(Fault::Delay);
    way.set_out = now() + delay;
    let deadline = way
        .timeouts
        .patience(headers)
        .limit
        .map(|limit| account.began + limit);
    if let Some(deadline) = deadline.filter(|deadline| *deadline < way.set_out) {
        tokio::time::sleep_until(deadline.into()).await;
        return Err(ErrorKind::DeadlineExceeded.into());
    }
    tokio::time::sleep_until(way.set_out.into()).await;
    Ok(())
}

/// Has a call be copied, if it is one of those that are.
fn copy(account: &Account, way: &Way, request: &mut Request<Body>, detours: &Detours) {
    let Some(name) = account.upstream.mirrors(detours) else {
        return;
    };
    let sending = Sending {
        why: UpstreamCall::Mirror,
        ..sending(way.timeouts, Replay::Never, account.began, request.headers())
    };
    let to = account.upstream.other(name);
    mirror::copy(request, to, sending, &account.upstream.metrics);
}
