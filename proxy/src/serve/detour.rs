//! What a policy has done to the calls that come to its backend before they are sent on.

use std::future::ready;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use jitney_core::policy::{Detours, Replay};

use super::{Account, Way, go, head, sending};
use crate::body::Body;
use crate::connection::Serving;
use crate::metrics::UpstreamCall;
use crate::mirror;
use crate::send::Sending;

/// Copies a call, and sends it to the backend that chance gives it to. From then on it is that backend's, by
/// whose policy it is treated as one that came there, but for this: it goes no further.
pub(super) fn take(account: Account, way: Way, request: Request<Incoming>, detours: &Detours) -> Serving {
    let mut request = request.map(Body::from);
    copy(&account, &way, &mut request, detours);
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
    if let Some(refused) = arrival.refused {
        return Box::pin(ready(account.close(Err(refused.into()), None, None)));
    }
    if let Some(detours) = arrival.detours {
        copy(&account, &way, &mut request, &detours);
    }
    go(account, way, request)
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
