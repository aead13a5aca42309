//! A table of HTTP/1 by the sections of RFC 9110 and RFC 9112, over a real sidecar between raw sockets:
//! what is passed on, as what; what is refused, and with zero bytes upstream; which replies are none.

use super::wire::{Rig, Upstream};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Sections, requests that they forbid, or allow to be refused; each gets a 400, and the connection ends.
const REFUSED: &[(&str, &str)] = &[
    (
        "9112 6.1: CL before TE",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE before CL",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: HTTP/1.0 with TE",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE gzip",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
    (
        "9112 6.1: TE gzip, chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE xchunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ),
    (
        "9112 6.3: two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    ),
    (
        "9110 8.6: a length list",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    ),
    (
        "9110 8.6: a signed length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    ),
    (
        "9110 8.6: an empty length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    ),
    (
        "9110 8.6: an overflowing length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
    ),
    (
        "9112 3.2: two hosts",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ),
    ("9112 3.2: no host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    ("9112 3.2: invalid host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (
        "9112 3.2: a host with a path",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ),
    (
        "9112 3.2: a host with a user",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    ),
    ("9112 3.2: a host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("9112 3.2: a bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    (
        "9112 5.1: white space before the colon",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A : 1\r\n\r\n",
    ),
    (
        "9112 5.1: the same on a framing field",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
    ),
    (
        "9112 5.2: obs-fold",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n 2\r\n\r\n",
    ),
    (
        "9112 5.2: obs-fold of a framing field",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9110 5.1: an empty name",
        "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
    ),
    (
        "9110 5.1: a name of no token",
        "GET / HTTP/1.1\r\nHost: a\r\nX(A: 1\r\n\r\n",
    ),
    (
        "9110 5.5: NUL in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\0\r\n\r\n",
    ),
    (
        "9110 5.5: a bare CR in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r2\r\n\r\n",
    ),
    ("9112 3: no version", "GET /\r\nHost: a\r\n\r\n"),
    ("9112 3: an unknown version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
    (
        "9112 3: white space before the method",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("9112 3: two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "9112 3: a space in the target",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3: a method of no token",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("9112 3.2: a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "9112 3.2.3: authority-form",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.3: CONNECT",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    ),
    (
        "9110 4.2.4: user information",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    // A head that two readers may read as two.
    (
        "9112 2.2: CR without LF ends no line",
        "GET / HTTP/1.1\rHost: a\r\r",
    ),
    (
        "9112 2.2: white space before the first field",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    ),
    (
        "9112 2.2: a tab before the first field",
        "GET / HTTP/1.1\r\n\tX: 1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 2.3: the name of HTTP is upper-case",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
    ),
    ("9112 2.3: one digit each", "GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    ("9112 2.3: no comma", "GET / HTTP/1,1\r\nHost: a\r\n\r\n"),
    ("9112 2.3: a sign", "GET / HTTP/+1.1\r\nHost: a\r\n\r\n"),
    ("9112 2.3: no minor", "GET / HTTP/1\r\nHost: a\r\n\r\n"),
    (
        "9112 2.3: a version of HTTP/0.9",
        "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 2.3: a version of HTTP/1.2",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 2.3: a version of HTTP/2.0",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    ),
    ("9112 3: a tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "9112 3: a tab before the version",
        "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3: a vertical tab for a space",
        "GET\u{b}/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3: white space behind the version",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3: two spaces before the version",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("9112 3: no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 3: an empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "9112 3: two versions",
        "GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.1: a method with a quote",
        "G\"T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.1: a method with a NUL",
        "GET\0 / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2: a raw NUL in the target",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2: a raw DEL in the target",
        "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2: a relative target",
        "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2: a target of dots",
        "GET ../etc HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2: a fragment behind a query",
        "GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.2: a foreign scheme",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.2: no authority",
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.2: a bad port",
        "GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.3: authority-form with GET",
        "GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.3: CONNECT to a name",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    ),
    (
        "9112 3.2.3: CONNECT in HTTP/1.0",
        "CONNECT a:443 HTTP/1.0\r\n\r\n",
    ),
    (
        "9112 3.2.4: an asterisk with GET",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    // Host.
    (
        "9112 3.2: hosts in two cases",
        "GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n",
    ),
    (
        "9112 3.2: two hosts in HTTP/1.0",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    ),
    (
        "9112 3.2: a host with a query",
        "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
    ),
    (
        "9112 3.2: a host with a fragment",
        "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
    ),
    (
        "9112 3.2: a host with a scheme",
        "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
    ),
    (
        "9112 3.2: a host with a backslash",
        "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
    ),
    (
        "9112 3.2: a host with two ports",
        "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n",
    ),
    (
        "9112 3.2: a port out of range",
        "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
    ),
    ("9112 3.2: a signed port", "GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n"),
    (
        "9112 3.2: half an IPv6 address",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    ),
    (
        "9112 3.2: a port without a host",
        "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
    ),
    (
        "9112 3.2: a bad host beside absolute-form",
        "GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    ),
    (
        "9112 3.2: no host beside absolute-form",
        "GET http://a/ HTTP/1.1\r\nAccept: b\r\n\r\n",
    ),
    // Fields.
    (
        "9112 5: a line without a colon",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n",
    ),
    (
        "9112 5.1: a tab before the colon",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A\t: 1\r\n\r\n",
    ),
    (
        "9112 5.1: white space before Host's colon",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    ),
    (
        "9112 5.1: white space before TE's colon",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 5.2: a fold with a tab",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\t2\r\n\r\n",
    ),
    (
        "9112 5.2: a fold of nothing",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n \r\n\r\n",
    ),
    (
        "9110 5.1: a name with a space",
        "GET / HTTP/1.1\r\nHost: a\r\nX A: 1\r\n\r\n",
    ),
    (
        "9110 5.1: a name with a NUL",
        "GET / HTTP/1.1\r\nHost: a\r\nX\0A: 1\r\n\r\n",
    ),
    (
        "9110 5.1: a name above 0x7f",
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: 1\r\n\r\n",
    ),
    (
        "9110 5.1: a name in quotes",
        "GET / HTTP/1.1\r\nHost: a\r\n\"X\": 1\r\n\r\n",
    ),
    (
        "9110 5.5: a vertical tab in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\u{b}2\r\n\r\n",
    ),
    (
        "9110 5.5: DEL in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\u{7f}\r\n\r\n",
    ),
    (
        "9110 5.5: ESC in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: \u{1b}[2J\r\n\r\n",
    ),
    (
        "9110 5.5: a bare CR before LF",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\r\n\r\n",
    ),
    // Framing.
    (
        "9112 6.1: TE with a tab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\t,\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE in quotes",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE with a parameter",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE identity",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    ),
    (
        "9112 6.1: chunked is not the last",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: chunked twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: an empty TE",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
    ),
    (
        "9112 6.1: an empty TE beside a length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "9112 6.1: TE with a vertical tab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE on GET with a length",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE and length in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9110 8.6: a negative length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ),
    (
        "9110 8.6: a hexadecimal length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
    ),
    (
        "9110 8.6: a length with a fraction",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello",
    ),
    (
        "9110 8.6: a length with a space",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nhello world",
    ),
    (
        "9110 8.6: a length with a low line",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_1\r\n\r\nhello world",
    ),
    (
        "9110 8.6: two lengths in one line",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello!",
    ),
    (
        "9110 8.6: a length in quotes",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"5\"\r\n\r\nhello",
    ),
];

/// Sections, requests with bodies whose chunks are none. Their heads may have gone on by then.
const BROKEN_BODIES: &[(&str, &str)] = &[
    ("9112 7.1: a size in words", "five\r\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: a signed size", "+5\r\nhello\r\n0\r\n\r\n"),
    (
        "9112 7.1: white space before the size",
        " 5\r\nhello\r\n0\r\n\r\n",
    ),
    ("9112 7.1: no size", "\r\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: a size with a low line", "0_5\r\nhello\r\n0\r\n\r\n"),
    (
        "9112 7.1: a size that overflows",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
    ),
    ("9112 7.1: a size that ends with LF", "5\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: a size that ends with CR", "5\rhello\r\n0\r\n\r\n"),
    ("9112 7.1: data longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: data that end without CRLF", "5\r\nhello0\r\n\r\n"),
    ("9112 7.1: data that end with LF", "5\r\nhello\n0\r\n\r\n"),
    (
        "9112 7.1.1: an extension with a bare LF",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "9112 7.1.1: an extension with a bare CR",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "9112 7.1.2: a trailer without a colon",
        "5\r\nhello\r\n0\r\nX-A\r\n\r\n",
    ),
    (
        "9112 7.1.2: a trailer that ends with LF",
        "5\r\nhello\r\n0\r\nX-A: 1\n\r\n",
    ),
    (
        "9112 7.1.2: a trailer that folds",
        "5\r\nhello\r\n0\r\nX-A: 1\r\n 2\r\n\r\n",
    ),
];

/// Sections, requests, and what of them is to go upstream.
const PASSED: &[(&str, &str, &str)] = &[
    (
        "9112 2.2: blank lines before a request",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9112 2.3: HTTP/1.0 goes on as HTTP/1.1",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9112 3.1: methods are case-sensitive, and unknown ones pass",
        "get /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "get /a HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9110 9.1: an extension method",
        "M-SEARCH /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "M-SEARCH /a HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9112 3.2.1: a target is passed on as it came",
        "GET //a/../b/%2e%2E/;c?d=%00&e=[f]|g' HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //a/../b/%2e%2E/;c?d=%00&e=[f]|g' HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9112 3.2.2: the authority of absolute-form wins",
        "GET http://b:81/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: b:81\r\n\r\n",
    ),
    (
        "9112 3.2.2: absolute-form without a path",
        "GET http://b HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: b\r\n\r\n",
    ),
    (
        "9112 3.2.4: asterisk-form with OPTIONS",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9112 3.2: an empty host is one",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: \r\n\r\n",
    ),
    (
        "9112 3.2: an IPv6 host",
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
    ),
    (
        "9112 5.1: white space around a value is none of it",
        "GET / HTTP/1.1\r\nHost:\t a \t\r\nX-A:1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n\r\n",
    ),
    (
        "9110 5.3: lines of one name stay apart and in order",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2, 3\r\nX-A:\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-a: 2, 3\r\nx-a: \r\n\r\n",
    ),
    (
        "9110 5.6.2: every character of a token names a field",
        "GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n!#$%&'*+-.^_`|~09: 1\r\n\r\n",
    ),
    (
        "9112 6.2: a body of known length",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello",
        "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0005\r\n\r\nhello",
    ),
    (
        "9112 6.3: equal lengths are one",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    ),
    (
        "9112 6.3: no framing, no body",
        "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9110 9.3.1: a body of GET is passed on",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    ),
    (
        "9112 7.1: sizes in either case, with leading zeros",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n00A\r\n0123456789\r\n000\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    ),
    (
        "9112 7.1.1: extensions are for one hop",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\";c\r\nhello\r\n0;d\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "9110 7.6.1: what Connection names is for one hop",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-A , ,x-b\r\nConnection: X-C\r\nX-A: 1\r\nx-B: 2\r\nX-c: 3\r\nX-D: 4\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-d: 4\r\n\r\n",
    ),
    (
        "9110 7.6.1: as are Keep-Alive, Proxy-Connection and Proxy-Authorization",
        "GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: 1\r\nProxy-Connection: b\r\nProxy-Authorization: c\r\nX-D: 4\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-d: 4\r\n\r\n",
    ),
    (
        "9110 10.1.4: of TE only trailers is passed on",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: gzip;q=0.5, trailers\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n",
    ),
    (
        "9110 7.8: an upgrade that Connection does not name is none",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "9110 7.8: h2c is never passed on",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
];

/// Sections, replies, and what of them the caller is to hear.
const REPLIES: &[(&str, &str, &str)] = &[
    (
        "9112 4: a reason is passed on",
        "HTTP/1.1 404 Not Here\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Here\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "9112 4: or none is",
        "HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 299 ",
    ),
    (
        "9112 2.3: HTTP/1.0 comes back as HTTP/1.1",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "9110 15.2: what is interim is not the reply",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "9112 6.3: TE overrides a length",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (
        "9110 7.6.1: what Connection names is for one hop",
        "HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nKeep-Alive: 1\r\nProxy-Authenticate: b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    (
        "9110 15.2.2: a 101 that nobody asked for is no reply",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
    ("9112 4: no version", "200 OK\r\n\r\n", "HTTP/1.1 502 "),
    (
        "9112 4: a status of two digits",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
    (
        "9112 4: a status of letters",
        "HTTP/1.1 2xx OK\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
    (
        "9112 4: a version of another major",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
    (
        "9112 5.1: white space before a colon",
        "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 502 ",
    ),
    (
        "9112 6.3: two lengths",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        "HTTP/1.1 502 ",
    ),
    (
        "9110 8.6: a length that is none",
        "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        "HTTP/1.1 502 ",
    ),
    (
        "9112 6.1: a coding that this side does not know",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
    (
        "9112 6.1: chunked twice",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
    (
        "9110 5.5: NUL in a value",
        "HTTP/1.1 200 OK\r\nX-A: 1\0\r\n\r\n",
        "HTTP/1.1 502 ",
    ),
];

/// All that fails, so that one look tells what to mend.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn c01_what_two_may_read_as_two_gets_400_and_nothing_of_it_goes_upstream() {
    let mut wrong = Vec::new();
    for (section, request) in REFUSED {
        let upstream = Upstream::answering(HELLO).await;
        let rig = Rig::start(upstream.address);
        // A second one behind it is what smugglers want to be heard.
        let mut wire = rig.connect().await;
        wire.send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let reply = wire.take(usize::MAX).await;
        let seen = upstream.seen();
        if reply.get(8..13) != Some(" 400 ") || reply.matches("HTTP/1.").count() > 1 || !seen.is_empty() {
            wrong.push(format!("{section}: {reply:?}, upstream {seen:?}"));
        }
    }
    assert_none(&wrong);
}

#[tokio::test]
async fn c01_a_broken_body_is_the_last_that_its_connection_carries() {
    let mut wrong = Vec::new();
    for (section, body) in BROKEN_BODIES {
        let upstream = Upstream::scripted(|mut wire, seen| async move {
            seen(wire.take(usize::MAX).await.as_bytes());
        })
        .await;
        let rig = Rig::start(upstream.address);
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut wire = rig.connect().await;
        wire.send(format!("{head}{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let reply = wire.take(usize::MAX).await;
        let seen = upstream.seen().concat();
        // Its end never goes on, so no upstream takes it for whole.
        let is_whole = seen.contains("\r\n0\r\n");
        if reply.starts_with("HTTP/1.1 2") || seen.contains("smuggled") || is_whole {
            wrong.push(format!("{section}: {reply:?}, upstream {seen:?}"));
        }
    }
    assert_none(&wrong);
}

#[tokio::test]
async fn what_is_allowed_goes_upstream_as_it_is_to() {
    let mut wrong = Vec::new();
    for (section, request, sent_on) in PASSED {
        let expected = sent_on.len();
        let upstream = Upstream::scripted(move |mut wire, seen| async move {
            seen(wire.take(expected).await.as_bytes());
            wire.send(HELLO).await;
        })
        .await;
        let rig = Rig::start(upstream.address);
        let mut wire = rig.connect().await;
        wire.send(request).await;
        let reply = wire.take("HTTP/1.1 200 ".len()).await;
        let seen = upstream.seen();
        if seen != [*sent_on] || !reply.contains(" 200 ") {
            wrong.push(format!("{section}: {reply:?}, upstream {seen:?}"));
        }
    }
    assert_none(&wrong);
}

#[tokio::test]
async fn replies_come_back_as_they_are_to() {
    let mut wrong = Vec::new();
    for (section, reply, sent_back) in REPLIES {
        let upstream = Upstream::answering(*reply).await;
        let rig = Rig::start(upstream.address);
        let mut wire = rig.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let heard = wire.take(sent_back.len()).await;
        if heard != *sent_back {
            wrong.push(format!("{section}: {heard:?}"));
        }
    }
    assert_none(&wrong);
}
