//! What a policy has done to the calls that come to its backend before they are sent on.

use std::future::ready;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use jitney_core::policy::Detours;

use super::{Account, Way, go, head};
use crate::connection::Serving;

/// Sends a call to the backend that chance gives it to. From then on it is that backend's, by whose policy it
/// is treated as one that came there, but for this: it goes no further.
pub(super) fn take(account: Account, way: Way, request: Request<Incoming>, detours: &Detours) -> Serving {
    let Some(other) = account.upstream.diverts(detours) else {
        return go(account, way, request);
    };
    let arrival = other.arrival(&head(&request));
    let (way, state) = Way::of(arrival.route, arrival.timeouts);
    let account = Account {
        upstream: Arc::clone(&other),
        state,
        ..account
    };
    match arrival.refused {
        None => go(account, way, request),
        Some(refused) => Box::pin(ready(account.close(Err(refused.into()), None, None))),
    }
}
