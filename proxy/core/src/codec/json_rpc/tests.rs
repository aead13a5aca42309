//! What `jsonRpc` merges and how it splits, by the bytes.

use super::JsonRpc;
use crate::Bypass;
use crate::codec::tests::{Sent, check_bypass, merge, post, text};
use crate::codec::{Codec, Unsplit};

fn call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#)
}

fn calls(bodies: &[&str]) -> Vec<Sent> {
    bodies.iter().map(post).collect()
}

#[test]
fn ids_are_ours_upstream_and_come_back_byte_for_byte() {
    let bodies = [
        call("1.0"),
        call(r#""\u0031""#),
        r#" {"method":"m","params":[ {"id":9} ],"\u0069d":-7,"jsonrpc":"2.\u0030"} "#.to_owned(),
        call("1.0"),
    ];
    let calls: Vec<Sent> = bodies.iter().map(post).collect();
    let batch = merge(&JsonRpc, &calls);
    assert_eq!(
        String::from_utf8(batch.request().1).unwrap(),
        concat!(
            r#"[{"jsonrpc":"2.0","id":100,"method":"m"},{"jsonrpc":"2.0","id":101,"method":"m"},"#,
            r#"{"method":"m","params":[ {"id":9} ],"\u0069d":102,"jsonrpc":"2.\u0030"},"#,
            r#"{"jsonrpc":"2.0","id":103,"method":"m"}]"#
        )
    );
    let reply = r#"[{"id":103,"result":{"id":100}}, {"jsonrpc":"2.0","result":"c","id":102},
        {"error":{"code":-32601},"id" : 101},{"result":0.10,"\u0069d":100}]
"#;
    assert_eq!(
        batch.told(reply).unwrap(),
        [
            "200 {\"result\":0.10,\"\\u0069d\":1.0}\n",
            "200 {\"error\":{\"code\":-32601},\"id\" : \"\\u0031\"}\n",
            "200 {\"jsonrpc\":\"2.0\",\"result\":\"c\",\"id\":-7}\n",
            "200 {\"id\":1.0,\"result\":{\"id\":100}}\n",
        ]
    );
}

#[test]
fn a_clients_own_batch_gets_an_array_in_the_upstreams_order() {
    let own = format!(
        r#"[{}, {{"jsonrpc":"2.0","method":"note"}},{}]"#,
        call("\"a\""),
        call("5")
    );
    let calls = calls(&[&own, &call("5")]);
    let batch = merge(&JsonRpc, &calls);
    assert_eq!(batch.count(), 4);
    assert_eq!(
        String::from_utf8(batch.request().1).unwrap(),
        concat!(
            r#"[{"jsonrpc":"2.0","id":100,"method":"m"}, {"jsonrpc":"2.0","method":"note"},"#,
            r#"{"jsonrpc":"2.0","id":101,"method":"m"},{"jsonrpc":"2.0","id":102,"method":"m"}]"#
        )
    );
    assert_eq!(
        batch.told(r#"[{"id":101},{"id":102},{"id":100}]"#).unwrap(),
        [r#"200 [{"id":5},{"id":"a"}]"#, r#"200 {"id":5}"#]
    );
}

#[test]
fn what_does_not_fit_travels_alone() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{}{}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    check_bypass(
        &JsonRpc,
        &[
            (&deep, Bypass::Unparsable),
            ("", Bypass::Unparsable),
            ("{}", Bypass::Unparsable),
            ("7", Bypass::Unparsable),
            ("[]", Bypass::Empty),
            ("[1]", Bypass::Unparsable),
            (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, Bypass::Unparsable),
            (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, Bypass::Unparsable),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, Bypass::Unparsable),
            (r#"{"jsonrpc":"2.0","id":1}"#, Bypass::Unparsable),
            (r#"{"jsonrpc":"2.0","method":"m"}"#, Bypass::Notification),
            (r#"[{"jsonrpc":"2.0","method":"m"}]"#, Bypass::Notification),
            (
                r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"m"}"#,
                Bypass::AmbiguousId,
            ),
            (&call("null"), Bypass::AmbiguousId),
            (&call("true"), Bypass::AmbiguousId),
            (&call("[1]"), Bypass::AmbiguousId),
            (&call("{}"), Bypass::AmbiguousId),
            (
                &format!("[{},{}]", call("\"1\""), call(r#""\u0031""#)),
                Bypass::AmbiguousId,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[],"params":[]}"#,
                Bypass::DuplicateMember,
            ),
        ],
    );
}

#[test]
fn replies_that_do_not_fit_are_not_split() {
    let calls = calls(&[&call("1"), &call("2")]);
    let batch = merge(&JsonRpc, &calls);
    let unknown = Unsplit::Id("an id that was not sent");
    let twice = Unsplit::Id("an id twice, or of no call");
    let two_ids = Unsplit::Id("a reply with two ids");
    let one_object = Unsplit::Shape("one object that is not an error for all");
    for (reply, unsplit) in [
        (
            r#"[{"id":100}]"#,
            Unsplit::Count {
                expected: 2,
                found: 1,
            },
        ),
        (
            r#"[]"#,
            Unsplit::Count {
                expected: 2,
                found: 0,
            },
        ),
        (
            r#"[{"id":100},{"id":101},{"id":101}]"#,
            Unsplit::Count {
                expected: 2,
                found: 3,
            },
        ),
        (r#"[{"id":100},{"id":100}]"#, twice.clone()),
        (r#"[{"id":100},{"id":102}]"#, twice),
        (r#"[{"id":100},{"id":99}]"#, unknown.clone()),
        (r#"[{"id":100},{"id":"101"}]"#, unknown.clone()),
        (r#"[{"id":100},{"id":101.0}]"#, unknown.clone()),
        (r#"[{"id":100},{"id":null}]"#, unknown),
        (
            r#"[{"id":100},{"result":1}]"#,
            Unsplit::Id("a reply without an id"),
        ),
        (r#"[{"id":100},{"id":101,"id":101}]"#, two_ids.clone()),
        (r#"[{"id":100},{"id":101,"\u0069d":100}]"#, two_ids),
        (
            r#"[{"id":100},7]"#,
            Unsplit::Shape("an element that is not an object"),
        ),
        (r#"[{"id":100},{"id":101}"#, Unsplit::Shape("not JSON")),
        (r#"7"#, Unsplit::Shape("neither an array nor an object")),
        (r#"{"id":100,"result":1}"#, one_object.clone()),
        (r#"{"id":100,"error":{}}"#, one_object.clone()),
        (r#"{"error":{},"id":null,"id":null}"#, one_object.clone()),
        (r#"{"error":"no"}"#, one_object),
    ] {
        assert_eq!(batch.told(reply), Err(unsplit), "{reply}");
    }
}

#[test]
fn an_error_for_the_whole_batch_says_whether_anything_ran() {
    let calls = calls(&[&call(r#""a""#), &format!("[{}]", call("2"))]);
    let batch = merge(&JsonRpc, &calls);
    for (code, ran_nothing) in [
        ("-32600", true),
        ("-32700", true),
        ("-32603", false),
        ("-32600.0", false),
    ] {
        let reply =
            format!(r#"{{"jsonrpc":"2.0","error":{{"code":{code},"message":"too many"}},"id": null}}"#);
        let Err(Unsplit::Refused { nothing_ran, replies }) = batch.told(&reply).map(drop) else {
            panic!("{code}: not refused");
        };
        assert_eq!(nothing_ran, ran_nothing, "{code}");
        let told: Vec<String> = replies.iter().map(text).collect();
        assert_eq!(
            told,
            [
                format!("200 {}", reply.replace("null", r#""a""#)),
                format!("200 {reply}")
            ]
        );
    }
    assert!(!JsonRpc.all_or_nothing());
}
