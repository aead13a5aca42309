//! First bytes and what they are taken for.

use super::*;

#[test]
fn first_bytes_tell_the_protocol() {
    use Protocol::{Http1, Http2, Opaque, Tls};
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], Some(Http1)),
        (b"GET", Some(Http1)),
        (b"G", None),
        (b"PROPFIND", None),
        (b"PROPFIND /", Some(Http1)),
        (b"P", None),
        (b"PRI", None),
        (b"PRI *", None),
        (PREFACE, Some(Http2)),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Some(Http1)),
        (b"PRI / HTTP/1.1\r\n", Some(Http1)),
        (b"\r\nGET / HTTP/1.1\r\n", Some(Http1)),
        (b" GET / HTTP/1.1\r\n", Some(Http1)),
        (b"G\0T / HTTP/1.1\r\n", Some(Http1)),
        (b"\xffGET / HTTP/1.1\r\n", Some(Http1)),
        (b"GET\0/ HTTP/1.1\r\n", Some(Http1)),
        (b"\x16\x03\x01\x02\x00\x01", Some(Tls)),
        (b"\x16", None),
        (b"*1\r\n$4\r\nPING\r\n", Some(Opaque)),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Opaque)),
        (b"S", None),
        (b"SSH-2.0-OpenSSH_9.2 Debian\r\n", Some(Opaque)),
        (b"SSH-2.0-OpenSSH_9.2 Debian", None),
        (b"SSH-2.0-X / HTTP/1.1\r\n", Some(Http1)),
        (b"SSH-X / HTTP/1.1\r\n", Some(Http1)),
        (b"\x1fGET /adm", Some(Http1)),
        (b"\xa0\x0bGE", None),
        (b"\0\0\0\x08", None),
        (b"SSHFOO / HTTP/1.1\r\n", Some(Http1)),
        (b"{\"id\":1}\n", Some(Opaque)),
    ] {
        assert_eq!(classify(bytes), expected, "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(classify(&[b'a'; LONGEST_WORD]), Some(Http1));
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_kept() {
    let mut stream = one_by_one(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0");
    let mut read = BytesMut::new();
    assert_eq!(
        detect(&mut stream, &mut read).await.unwrap(),
        Some(Protocol::Http2)
    );
    assert!(read.starts_with(PREFACE));
    let mut nothing = one_by_one(b"");
    assert_eq!(detect(&mut nothing, &mut BytesMut::new()).await.unwrap(), None);
    let mut cut = one_by_one(b"PROP");
    assert_eq!(
        detect(&mut cut, &mut BytesMut::new()).await.unwrap(),
        Some(Protocol::Http1)
    );
}

/// Gives one byte at a time.
fn one_by_one(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
    struct OneByOne(&'static [u8]);
    impl AsyncRead for OneByOne {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some((first, rest)) = self.0.split_first() {
                buf.put_slice(&[*first]);
                self.0 = rest;
            }
            Poll::Ready(Ok(()))
        }
    }
    OneByOne(bytes)
}

#[test]
fn what_stops_after_its_first_byte_is_what_it_began_as() {
    assert_eq!(settle(b"\x16"), Protocol::Tls);
    assert_eq!(settle(b"G"), Protocol::Http1);
}
