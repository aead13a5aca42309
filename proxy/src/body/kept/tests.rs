//! Bodies sent once more after some of them has passed.

use http_body_util::BodyExt as _;

use super::*;

/// A stream of these pieces, with trailers, of which so many bytes are kept.
fn stream(pieces: &[&'static str], limit: usize) -> Body {
    let pieces = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes()));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", 7.into());
    let mut body = Body::resumed(pieces.collect(), Body::empty(), Some(trailers));
    body.keep(limit);
    body
}

async fn piece(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

/// All of it, and whether the trailers came.
async fn all(body: Body) -> (Bytes, bool) {
    let collected = body.collect().await.unwrap();
    let has_trailers = collected.trailers().is_some();
    (collected.to_bytes(), has_trailers)
}

#[tokio::test]
async fn what_has_passed_is_sent_again_with_what_had_not() {
    let mut first = stream(&["abc", "def", "ghi"], 1000);
    let second = first.try_clone().unwrap();
    assert_eq!(
        (piece(&mut first).await, piece(&mut first).await),
        ("abc".into(), "def".into())
    );
    let third = second.try_clone().unwrap();
    assert_eq!(all(second).await, ("abcdefghi".into(), true));
    assert_eq!(
        all(third).await,
        ("abcdefghi".into(), true),
        "of what has ended, too"
    );
}

#[tokio::test]
async fn a_try_that_another_has_followed_fails_and_never_ends_well() {
    let mut first = stream(&["abc", "def"], 1000);
    let mut second = first.try_clone().unwrap();
    assert_eq!(piece(&mut first).await, "abc");
    assert!(second.claim() && !first.claim());
    assert!(first.frame().await.unwrap().is_err());
    assert!(!first.is_end_stream());
    assert_eq!(all(second).await, ("abcdef".into(), true));
}

#[tokio::test]
async fn too_much_of_it_is_sent_once() {
    let mut first = stream(&["abc", "def"], 4 + EACH);
    let mut second = first.try_clone().unwrap();
    assert_eq!(piece(&mut first).await, "abc");
    assert!(second.is_whole());
    assert_eq!(piece(&mut first).await, "def");
    assert!(!second.is_whole() && !second.claim() && first.try_clone().is_none());
    assert_eq!(all(first).await, (Bytes::new(), true), "the first try goes on");
    assert!(second.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn nothing_is_kept_for_nobody() {
    let mut first = stream(&["abc", "def"], 1000);
    drop(first.try_clone());
    assert_eq!(piece(&mut first).await, "abc");
    assert!(!first.is_whole());
    assert_eq!(all(first).await, ("def".into(), true));
}

#[test]
fn its_size_is_that_of_the_stream() {
    let mut body = Body::resumed(vec!["abc".into()], Body::full("de"), None);
    body.keep(1000);
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5), false));
    let mut large = Body::resumed(vec!["abc".into()], Body::full("de"), None);
    large.keep(4);
    assert!(large.try_clone().is_some(), "none of it has passed");
}
