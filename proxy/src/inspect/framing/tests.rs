//! The follower against streams of requests in every split.

use super::*;

/// A generator that needs no more than this.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[track_caller]
fn check(stream: &str, expected: Option<(u64, Rule)>, heads: u64) {
    let bytes = stream.as_bytes();
    let mut whole = Follower::default();
    assert_eq!(whole.follow(bytes), expected, "whole: {stream:?}");
    assert_eq!(whole.heads, heads, "whole: {stream:?}");
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for round in 0..200 {
        let mut follower = Follower::default();
        let (mut refused, mut at) = (None, 0);
        while at < bytes.len() {
            let longest = if round % 2 == 0 { 3 } else { 40 };
            let end = bytes
                .len()
                .min(at + 1 + usize::try_from(random(&mut seed) % longest).unwrap());
            let found = follower.follow(&bytes[at..end]);
            refused = refused.or(found);
            at = end;
        }
        assert_eq!(
            (refused, follower.heads),
            (expected, heads),
            "round {round}: {stream:?}"
        );
        assert_eq!(
            follower.inside_head(),
            whole.inside_head(),
            "round {round}: {stream:?}"
        );
    }
}

#[test]
fn heads_are_found_behind_every_kind_of_body() {
    let stream = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\nhello\r\n\r\n#\r\n\
        \r\n\r\n\
        POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: 1\r\nContent-Length: 3\r\n\r\n\
        PUT / HTTP/1.1\nContent-Length:0\n\n\
        GET /last HTTP/1.1\r\n\r\n";
    check(stream, None, 5);
}

#[test]
fn both_lengths_in_one_head_are_refused_in_either_order_and_case() {
    for stream in [
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nX-Other: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\nCONTENT-LENGTH: 5\r\n\r\n0\r\n\r\n",
    ] {
        check(stream, Some((1, Rule::BothLengths)), 1);
        let behind = format!("GET / HTTP/1.1\r\n\r\n{stream}");
        check(&behind, Some((2, Rule::BothLengths)), 2);
    }
}

#[test]
fn lengths_in_different_heads_or_in_a_body_are_fine() {
    check(
        "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nokPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        None,
        2,
    );
    check(
        "POST / HTTP/1.1\r\nContent-Length: 29\r\n\r\nTransfer-Encoding: chunked\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        None,
        2,
    );
}

#[test]
fn a_fragment_is_refused() {
    let long = "x".repeat(300);
    check("GET /a#b HTTP/1.1\r\n\r\n", Some((1, Rule::Fragment)), 1);
    check(
        &format!("GET /{long}#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        Some((1, Rule::Fragment)),
        1,
    );
    check(
        &format!("GET /{long} HTTP/1.1\r\nX-A: #\r\nX-B: {long}#\r\n\r\n"),
        None,
        1,
    );
}

#[test]
fn chunked_framing_that_the_parser_may_read_otherwise_refuses_all_that_follows() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "zz\r\n",
        "\r\n",
        "0\r\nX: a\n\r\n",
        "fffffffffffffffff\r\n",
        "5 5\r\n",
        "0x5\r\n",
    ] {
        let stream =
            format!("{head}{body}POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut follower = Follower::default();
        let refused = follower.follow(stream.as_bytes());
        assert_eq!(refused, Some((2, Rule::Chunking)), "{body:?}");
    }
}

#[test]
fn a_framing_field_too_long_to_keep_is_refused() {
    let spaces = " ".repeat(200);
    let stream = format!("POST / HTTP/1.1\r\nContent-Length:{spaces}5\r\n\r\nhello");
    let mut follower = Follower::default();
    assert_eq!(follower.follow(&stream.as_bytes()[..60]), None);
    assert_eq!(
        follower.follow(&stream.as_bytes()[60..]),
        Some((1, Rule::Overlong))
    );
    check(
        "POST / HTTP/1.1\r\nContent-Length:    5\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
        None,
        2,
    );
}

#[test]
fn inside_a_head_is_between_its_first_byte_and_its_end() {
    let mut follower = Follower::default();
    for (bytes, inside) in [
        ("\r\n", false),
        ("G", true),
        ("ET / HTTP/1.1\r\n", true),
        ("a: b\r", true),
        ("\n\r\n", false),
    ] {
        follower.follow(bytes.as_bytes());
        assert_eq!(follower.inside_head(), inside, "after {bytes:?}");
    }
}
