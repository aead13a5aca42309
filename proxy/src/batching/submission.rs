//! A call on a batching route before it is queued: what it is, and what its codec and key make of it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, request};
use jitney_core::Bypass;
use jitney_core::batch::Queued;
use jitney_core::codec::{AnyItem, Call, Codec};
use jitney_core::key::{self, KeyBuf, write_key};
use jitney_core::route::{Captures, Head, Route};

use crate::body::Body;
use crate::send::Sending;
use crate::upstream::{RouteState, Upstream};

/// A call and the policy that it arrived under. Boxed from the start: its head is large, and would
/// otherwise be copied at each step of its way.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) route: Arc<Route>,
    pub(crate) state: Arc<RouteState>,
    /// The head as it came, hop-by-hop fields taken off.
    pub(crate) head: request::Parts,
    /// The body as it came; empty until it has.
    pub(crate) body: Bytes,
    /// When all of it had arrived, as far as is known.
    pub(crate) arrived: Instant,
    /// When its caller stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// Whether silence until then speaks against who was asked.
    pub(crate) blames: bool,
}

/// What a submission was found to be.
pub(super) struct Understood {
    pub(super) item: AnyItem,
    pub(super) queued: Queued<()>,
}

impl Submission {
    /// A call whose body is still to be read.
    pub(crate) fn new(
        upstream: &Arc<Upstream>,
        route: Arc<Route>,
        state: Arc<RouteState>,
        request: Request<impl Into<Body>>,
        arrived: Instant,
        sending: &Sending,
    ) -> (Box<Self>, Body) {
        let (head, body) = request.into_parts();
        let submission = Box::new(Self {
            upstream: Arc::clone(upstream),
            route,
            state,
            head,
            body: Bytes::new(),
            arrived,
            deadline: sending.deadline,
            blames: sending.blames,
        });
        (submission, body.into())
    }

    /// Has the codec read the call, and hands `then` its key with what was learned. An error is why
    /// the call travels alone.
    pub(super) fn understand<T>(
        self: Box<Self>,
        then: impl FnOnce(Box<Self>, &[u8], Understood) -> T,
    ) -> Result<T, (Box<Self>, Bypass)> {
        KEY.with_borrow_mut(|key| match self.read(key) {
            Ok(understood) => Ok(then(self, key.as_bytes(), understood)),
            Err(why) => Err((self, why)),
        })
    }

    fn read(&self, key: &mut KeyBuf) -> Result<Understood, Bypass> {
        let head = self.view();
        let captures = self.captures();
        let read = self.route.codec.read(&self.call(&captures))?;
        if !self.route.fits(read.count, read.shared_bytes + read.bytes) {
            return Err(Bypass::TooLarge);
        }
        let queued = Queued {
            call: (),
            items: read.count,
            bytes: read.bytes,
            shared_bytes: read.shared_bytes,
            deadline: self.deadline,
            priority: key::priority(&self.route, head.headers),
            tenant: key::tenant(head.headers),
            class: self.state.class,
        };
        write_key(
            key,
            &self.route,
            &head,
            &captures,
            self.head.version,
            &read.invariants,
            queued.priority,
        );
        let held = self
            .state
            .held(head.headers, &self.body, head.uri.path(), key.as_bytes());
        match held {
            Some(why) => Err(why),
            None => Ok(Understood {
                item: read.item,
                queued,
            }),
        }
    }

    /// The bodies of the parts that the call can be divided into, each of which fits in a batch.
    pub(super) fn parts(&self) -> Option<Vec<Bytes>> {
        let captures = self.captures();
        let read = self.route.codec.read(&self.call(&captures)).ok()?;
        self.route.codec.divide(&read.item, self.route.limits.max_size)
    }

    fn captures(&self) -> Captures<'_, '_> {
        self.route.captures(&self.view()).unwrap_or_default()
    }

    fn call<'a>(&'a self, captures: &'a Captures<'_, '_>) -> Call<'a> {
        Call {
            method: &self.head.method,
            uri: &self.head.uri,
            headers: &self.head.headers,
            captures,
            body: &self.body,
        }
    }

    const fn view(&self) -> Head<'_> {
        Head {
            method: &self.head.method,
            uri: &self.head.uri,
            headers: &self.head.headers,
        }
    }

    /// The original request, byte for byte.
    pub(super) fn into_request(self: Box<Self>) -> Request<Body> {
        let Self { head, body, .. } = *self;
        Request::from_parts(head, Body::full(body))
    }
}

thread_local! {
    /// Keys are written here and copied only when they are new.
    static KEY: RefCell<KeyBuf> = const { RefCell::new(KeyBuf::new()) };
}
