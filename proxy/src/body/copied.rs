//! A body that is copied as it passes. The copy never holds up the original: where its reader is too far
//! behind, it is given up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{Notify, mpsc};

use super::{Body, Broken, Kind};

/// Bytes of copies that wait to be read, all together. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    taken: Arc<AtomicUsize>,
    /// The most at one time.
    limit: usize,
}

/// What both ends of one copy know.
#[derive(Debug)]
pub(crate) struct Progress {
    room: Room,
    /// Bytes of this copy that wait.
    held: AtomicUsize,
    /// All of the original has passed, and each piece of it waits or was read.
    is_whole: AtomicBool,
    is_behind: AtomicBool,
    /// Told when it is given up: whoever sends it may be waiting for something else.
    end: Notify,
}

/// The original.
#[derive(Debug)]
pub(super) struct Original {
    body: Body,
    /// `None` once there is nothing more to pass on, or nobody to pass it on to.
    pieces: Option<mpsc::Sender<Frame<Bytes>>>,
    progress: Arc<Progress>,
}

/// The copy.
#[derive(Debug)]
pub(super) struct Copied {
    pieces: mpsc::Receiver<Frame<Bytes>>,
    /// As the original's was when nothing had passed; of known bodies what is left.
    hint: SizeHint,
    progress: Arc<Progress>,
}

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            taken: Arc::default(),
            limit,
        }
    }
}

impl Progress {
    /// It was given up as its reader was too far behind, and not because the original was.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Returns when it is given up, if it is.
    pub(crate) async fn given_up(&self) {
        self.end.notified().await;
    }

    fn take(&self, bytes: usize) -> bool {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let taken = self.room.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        held <= HELD_MAX && taken <= self.room.limit
    }

    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.room.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

impl Body {
    /// This body and a copy of it, which gets each piece as the original passes; with what is known of the
    /// copy, where pieces are still to come.
    pub(crate) fn copied(self, room: &Room) -> (Self, Self, Option<Arc<Progress>>) {
        if let Some(copy) = self.try_clone() {
            return (self, copy, None);
        }
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let progress = Arc::new(Progress {
            room: room.clone(),
            held: AtomicUsize::new(0),
            is_whole: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            end: Notify::new(),
        });
        let copy = Copied {
            pieces,
            hint: self.size_hint(),
            progress: Arc::clone(&progress),
        };
        let original = Original {
            body: self,
            pieces: Some(sender),
            progress: Arc::clone(&progress),
        };
        let original = Self(Kind::Original(Box::new(original)));
        (original, Self(Kind::Copied(Box::new(copy))), Some(progress))
    }
}

impl Original {
    pub(super) const fn body(&self) -> &Body {
        &self.body
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let piece = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &piece {
            Some(Ok(frame)) => {
                self.pass(frame);
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.cut(),
            None => self.end(),
        }
        Poll::Ready(piece)
    }

    fn pass(&mut self, frame: &Frame<Bytes>) {
        let Some(pieces) = &self.pieces else { return };
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(data.clone()),
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return,
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        let is_full = if self.progress.take(length) {
            match pieces.try_send(copy) {
                Ok(()) => return,
                Err(error) => matches!(error, mpsc::error::TrySendError::Full(_)),
            }
        } else {
            true
        };
        self.progress.give(length);
        if is_full {
            self.progress.is_behind.store(true, Ordering::Relaxed);
            self.progress.end.notify_one();
        }
        self.pieces = None;
    }

    fn cut(&mut self) {
        if self.pieces.is_some() {
            self.progress.end.notify_one();
            self.pieces = None;
        }
    }

    fn end(&mut self) {
        if self.pieces.is_some() {
            self.progress.is_whole.store(true, Ordering::Release);
            self.pieces = None;
        }
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        // Who sends it asks for nothing more where its length was said and all of that has passed.
        match self.body.size_hint().exact() {
            Some(0) => self.end(),
            _ => self.cut(),
        }
    }
}

impl Copied {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let piece = ready!(self.pieces.poll_recv(cx));
        let Some(frame) = piece else {
            let is_whole = self.progress.is_whole.load(Ordering::Acquire);
            return Poll::Ready((!is_whole).then_some(Err(Broken::GivenUp)));
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.progress.give(length);
        if let Some(left) = self.hint.exact() {
            self.hint = SizeHint::with_exact(left.saturating_sub(length as u64));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.progress.is_whole.load(Ordering::Acquire) && self.pieces.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.hint.exact() {
            Some(_) => self.hint,
            None => SizeHint::default(),
        }
    }
}

/// The most bytes of one copy that wait.
const HELD_MAX: usize = 1 << 20;
/// The most pieces of one copy that wait, however small they are.
const PIECES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    /// A body that comes in these pieces; of known length, as it is made of bytes that are at hand.
    fn body(pieces: &[&'static [u8]]) -> Body {
        let read = pieces.iter().map(|piece| Bytes::from_static(piece)).collect();
        Body::resumed(read, Body::empty(), None)
    }

    async fn is_given_up(progress: &Progress) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, progress.given_up())
            .await
            .is_ok()
    }

    async fn pass(mut body: Body, pieces: usize) -> Body {
        for _ in 0..pieces {
            body.frame().await.unwrap().unwrap();
        }
        body
    }

    #[tokio::test]
    async fn a_copy_is_what_passed() {
        let room = Room::new(100);
        let (original, copy, progress) = body(&[b"ab", b"c"]).copied(&room);
        assert_eq!(copy.size_hint().exact(), Some(3));
        assert_eq!(original.collect().await.unwrap().to_bytes(), "abc");
        assert_eq!(copy.collect().await.unwrap().to_bytes(), "abc");
        assert!(!is_given_up(&progress.unwrap()).await);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn trailers_are_copied_too() {
        let trailers =
            http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("1"))]);
        let body = Body::resumed(
            vec![Bytes::from_static(b"ab")],
            Body::empty(),
            Some(trailers.clone()),
        );
        let (original, copy, progress) = body.copied(&Room::new(100));
        assert_eq!(original.collect().await.unwrap().trailers(), Some(&trailers));
        assert_eq!(copy.collect().await.unwrap().trailers(), Some(&trailers));
        assert!(!is_given_up(&progress.unwrap()).await);
    }

    #[tokio::test]
    async fn what_is_at_hand_needs_no_copying() {
        let (_, copy, progress) = Body::full("abc").copied(&Room::new(0));
        assert!(progress.is_none());
        assert_eq!(copy.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_copy_without_room_is_given_up_and_the_original_goes_on() {
        let room = Room::new(3);
        let (original, copy, progress) = body(&[b"ab", b"cd", b"ef"]).copied(&room);
        assert_eq!(original.collect().await.unwrap().to_bytes(), "abcdef");
        let progress = progress.unwrap();
        assert!(progress.is_behind() && is_given_up(&progress).await);
        assert!(matches!(copy.collect().await, Err(Broken::GivenUp)));
        drop(progress);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_copy_of_what_was_cut_ends_so_too() {
        let room = Room::new(100);
        let (original, copy, progress) = body(&[b"ab", b"cd"]).copied(&room);
        drop(pass(original, 1).await);
        let progress = progress.unwrap();
        assert!(!progress.is_behind() && is_given_up(&progress).await);
        drop(progress);
        assert!(matches!(copy.collect().await, Err(Broken::GivenUp)));
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_original_whose_copy_is_gone_goes_on() {
        let (original, copy, _) = body(&[b"ab", b"cd"]).copied(&Room::new(100));
        drop(copy);
        assert_eq!(original.collect().await.unwrap().to_bytes(), "abcd");
    }
}
