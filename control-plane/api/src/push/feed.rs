//! The control plane's end of one stream: what the sidecar asked for, holds, and is owed.

use std::sync::Arc;

use bytes::Bytes;

use super::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use super::config::Cause;
use super::kind::Kind;
use super::version::Version;

mod track;

use track::Track;

/// What one stream may read, as it is now.
pub trait View {
    /// The resource of a name; `None` when there is none, or it is not for this stream.
    fn get(&self, kind: Kind, name: &str) -> Option<Held>;
    /// Names that begin with a prefix, of those that this stream may read.
    fn below(&self, kind: Kind, prefix: &str) -> Vec<Arc<str>>;
    /// Names that the node is to have without asking for them.
    fn own(&self, kind: Kind) -> Vec<Arc<str>>;
    /// Whether a name is one of those.
    fn is_own(&self, kind: Kind, name: &str) -> bool;
}

/// A resource as it is sent. Cloning it copies no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version.
    pub version: Version,
    /// Its message, encoded.
    pub content: Bytes,
}

impl Held {
    /// Encodes a resource.
    pub fn of(message: &impl prost::Message) -> Self {
        Self::new(message.encode_to_vec().into())
    }

    fn new(content: Bytes) -> Self {
        Self {
            version: Version::of(&content),
            content,
        }
    }
}

impl From<&[u8]> for Held {
    fn from(encoded: &[u8]) -> Self {
        Self::new(Bytes::copy_from_slice(encoded))
    }
}

/// A name and the version that was sent; `None` when the resource was removed.
pub type Sent = (Arc<str>, Option<Version>);

/// What a sidecar said to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: the request only changed what is subscribed to, or answered an older response.
    None,
    /// Everything in the response is applied, or dropped where the version is `None`, but for what
    /// was rejected.
    Applied {
        /// The type of all of them.
        kind: Kind,
        /// What is applied.
        applied: Vec<Sent>,
        /// What is not.
        rejected: Vec<Nack>,
    },
}

/// A resource that a sidecar cannot run; it keeps the last good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The resource.
    pub name: Arc<str>,
    /// The version that was rejected.
    pub version: Option<Version>,
    /// What kind of fault it is.
    pub cause: Cause,
    /// Where in the resource; empty for the whole.
    pub field: String,
    /// What the sidecar says.
    pub reason: String,
}

/// Why a stream has to end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A type of somebody else's, or of a later version.
    #[error("type_url: {0:?} is not served here")]
    UnknownType(String),
    /// The bound on names.
    #[error("resource_names_subscribe: more than {MAX_NAMES} names of one type on one stream")]
    TooManyNames,
}

/// The state of one stream. Bounded: names that are asked for and resources that may be read.
#[derive(Debug, Default)]
pub struct Feed {
    tracks: [Track; Kind::ALL.len()],
    nonces: u64,
}

impl Feed {
    /// A stream that has just been opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a request.
    ///
    /// # Errors
    /// When the stream has to be ended, and why.
    pub fn request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        view: &impl View,
    ) -> Result<Answer, FeedError> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Err(FeedError::UnknownType(request.type_url.clone()));
        };
        let track = &mut self.tracks[kind.index()];
        let answer = track.answer(kind, request);
        track.subscribe(kind, request, view)?;
        Ok(answer)
    }

    /// Whether a name is wanted, by itself or by what stands for it too.
    pub fn covers(&self, kind: Kind, name: &str) -> bool {
        self.tracks[kind.index()].covers(name)
    }

    /// A resource has changed, appeared, or is gone.
    pub fn changed(&mut self, kind: Kind, name: &Arc<str>) {
        self.tracks[kind.index()].changed(name);
    }

    /// Much may have changed: everything that is wanted or held is looked at again.
    pub fn look_again(&mut self, view: &impl View) {
        for (kind, track) in Kind::ALL.into_iter().zip(&mut self.tracks) {
            track.look_again(kind, view);
        }
    }

    /// The next response; to be asked until `None` after every event.
    pub fn poll(&mut self, view: &impl View) -> Option<DeltaDiscoveryResponse> {
        let nonce = (self.nonces + 1).to_string();
        let response = self.next(&nonce, view)?;
        self.nonces += 1;
        Some(response)
    }

    fn next(&mut self, nonce: &str, view: &impl View) -> Option<DeltaDiscoveryResponse> {
        for (kind, track) in Kind::ALL.into_iter().zip(&mut self.tracks) {
            let owed = track.owed(kind, view);
            if !owed.is_empty() {
                // What is later in the order refers to this, and so has to wait with it.
                return track.is_free().then(|| track.send(kind, nonce, owed));
            }
            if track.is_unanswered() && !track.has_news() && track.is_free() {
                return Some(track.greet(kind, nonce));
            }
        }
        // What is in force may refer to what goes away, until its successor is applied.
        if !self.tracks.iter().all(Track::is_free) {
            return None;
        }
        let mut last_first = Kind::ALL.into_iter().zip(&mut self.tracks).rev();
        let (kind, track) = last_first.find(|(_, track)| track.has_news())?;
        Some(track.remove(kind, nonce))
    }

    /// Whether everything that was owed has been sent and answered.
    pub fn is_settled(&self) -> bool {
        let mut tracks = self.tracks.iter();
        tracks.all(|track| track.is_free() && !track.has_news() && !track.is_unanswered())
    }

    /// Names that this stream keeps something for: the measure of its memory.
    pub fn size(&self) -> usize {
        self.tracks.iter().map(Track::size).sum()
    }
}

/// Names of one type that a stream may subscribe to.
pub const MAX_NAMES: usize = 20_000;
