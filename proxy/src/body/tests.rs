//! Bodies read whole, cut at a limit, and given on.

use super::*;
use http_body_util::BodyExt;

fn chunks(parts: &[&'static str]) -> Body {
    Body::chunks(
        parts
            .iter()
            .map(|part| Bytes::from_static(part.as_bytes()))
            .collect(),
    )
}

#[tokio::test]
async fn a_body_is_taken_whole_up_to_the_limit() {
    let Ok(Taken::Whole(all)) = take(chunks(&["abc", "", "def"]), 6).await else {
        panic!()
    };
    assert_eq!(all, "abcdef");
    let Ok(Taken::Whole(none)) = take(Body::empty(), 0).await else {
        panic!()
    };
    assert!(none.is_empty());
    let one = Bytes::from_static(b"abc");
    let Ok(Taken::Whole(same)) = take(Body::full(one.clone()), 3).await else {
        panic!()
    };
    assert_eq!(same.as_ptr(), one.as_ptr());
}

#[tokio::test]
async fn a_body_over_the_limit_goes_on_as_it_came() {
    for body in [chunks(&["abc", "def"]), Body::full("abcdef")] {
        let Ok(Taken::Over(body)) = take(body, 5).await else {
            panic!()
        };
        assert_eq!(body.size_hint().exact(), Some(6));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
    }
}

#[tokio::test]
async fn trailers_are_kept_behind_what_was_read() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("1"));
    let body = Body::resumed(vec![Bytes::from_static(b"abc")], Body::full("def"), None);
    assert_eq!(body.size_hint().exact(), Some(6));
    let body = Body::resumed(
        vec![Bytes::from_static(b"abc")],
        Body::empty(),
        Some(trailers.clone()),
    );
    let Ok(Taken::WithTrailers(body)) = take(body, 10).await else {
        panic!()
    };
    assert!(!body.is_end_stream());
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "abc");
}

#[test]
fn bodies_at_hand_can_be_sent_again() {
    assert!(chunks(&["a", "b"]).try_clone().is_some());
    assert!(Body::full("a").try_clone().is_some());
    assert!(
        Body::resumed(Vec::new(), Body::empty(), None)
            .try_clone()
            .is_none()
    );
}
