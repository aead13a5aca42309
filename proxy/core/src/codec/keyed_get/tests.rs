//! What `keyedGet` merges and how it splits.

use http::Method;

use super::{KeyedGet, KeyedGetSettings, MAX_TARGET, Missing};
use crate::Bypass;
use crate::codec::tests::{Sent, get, merge, read};
use crate::codec::{Codec, Unsplit};

fn settings(batch_path: &str) -> KeyedGetSettings {
    KeyedGetSettings {
        variables: vec!["shop".into(), "id".into()],
        batch_path: batch_path.into(),
        key: Some("/id".into()),
        ..KeyedGetSettings::default()
    }
}

fn codec(batch_path: &str) -> KeyedGet {
    KeyedGet::new(&settings(batch_path)).unwrap()
}

fn calls(uris: &[&str]) -> Vec<Sent> {
    uris.iter().map(|uri| get(uri)).collect()
}

#[track_caller]
fn check_target(batch_path: &str, uris: &[&str], target: &str) {
    assert_eq!(
        merge(&codec(batch_path), &calls(uris)).request(),
        (target.to_owned(), Vec::new()),
        "{batch_path}"
    );
}

#[test]
fn the_list_expands_as_rfc_6570_says() {
    for (batch_path, target) in [
        ("/users?ids={id}", "/users?ids=1,2"),
        ("/users{?id}", "/users?id=1,2"),
        ("/users{?id*}", "/users?id=1&id=2"),
        ("/users?x=1{&id*}", "/users?x=1&id=1&id=2"),
        ("/users?x=1{&id}", "/users?x=1&id=1,2"),
        ("/users{;id*}", "/users;id=1;id=2"),
        ("/users{;id}", "/users;id=1,2"),
        ("/users{/id*}", "/users/1/2"),
        ("/users{/id}", "/users/1,2"),
        ("/users{.id*}", "/users.1.2"),
        ("/users/{+id}", "/users/1,2"),
        ("/users/({id})/all", "/users/(1,2)/all"),
        ("{/shop,id*}", "/s/1/2"),
        ("/users{?shop,id*}", "/users?shop=s&id=1&id=2"),
        ("/{shop}/users?ids={id}&to={shop}", "/s/users?ids=1,2&to=s"),
    ] {
        check_target(batch_path, &["/s/users/1", "/s/users/2"], target);
    }
}

#[test]
fn the_rest_of_the_query_is_appended() {
    check_target(
        "/users?ids={id}",
        &["/s/users/1?a=%20&b", "/s/users/2?a=%20&b"],
        "/users?ids=1,2&a=%20&b",
    );
    check_target("/users/{id}", &["/s/users/1?a", "/s/users/2?a"], "/users/1,2?a");
    check_target("/users/{id}", &["/s/users/1?", "/s/users/2?"], "/users/1,2");
}

#[test]
fn values_are_never_encoded_twice_and_cannot_break_out() {
    check_target(
        "/users?ids={id}",
        &["/s/users/a%2Cb", "/s/users/%c3%A9"],
        "/users?ids=a%2Cb,%c3%A9",
    );
    check_target(
        "/users?ids={id}",
        &["/s/users/a&b=c", "/s/users/d+e:f@g;h"],
        "/users?ids=a%26b%3Dc,d%2Be%3Af%40g%3Bh",
    );
    check_target(
        "/users?ids={+id}",
        &["/s/users/a:b", "/s/users/c@d"],
        "/users?ids=a:b,c@d",
    );
}

#[test]
fn one_id_is_asked_once_and_answers_all_its_callers() {
    let uris = ["/s/users/7", "/s/users/%37", "/s/users/8", "/s/users/7"];
    let (codec, calls) = (codec("/users?ids={id}"), calls(&uris));
    let batch = merge(&codec, &calls);
    assert_eq!(batch.request().0, "/users?ids=7,8");
    assert_eq!(
        batch
            .told(r#"[{"id":8,"n":1.0},{"n":"x", "id":"\u0037"}]"#)
            .unwrap(),
        [
            r#"200 {"n":"x", "id":"\u0037"}"#,
            r#"200 {"n":"x", "id":"\u0037"}"#,
            r#"200 {"id":8,"n":1.0}"#,
            r#"200 {"n":"x", "id":"\u0037"}"#,
        ]
    );
}

#[test]
fn a_missing_id_is_asked_alone_or_not_found() {
    let uris = ["/s/users/007", "/s/users/8"];
    for (missing, told) in [(Missing::AskAlone, "alone"), (Missing::NotFound, "404 ")] {
        let codec = KeyedGet::new(&KeyedGetSettings {
            missing,
            ..settings("/users?ids={id}")
        })
        .unwrap();
        let calls = calls(&uris);
        assert_eq!(
            merge(&codec, &calls).told("[{\"id\":8}]\n").unwrap(),
            [told, "200 {\"id\":8}\n"]
        );
    }
}

#[test]
fn elements_may_be_nested_or_members_of_an_object() {
    let uris = ["/s/users/a%22b", "/s/users/8"];
    let nested = KeyedGetSettings {
        elements: "/data/users".into(),
        ..settings("/users?ids={id}")
    };
    let calls = calls(&uris);
    let codec = KeyedGet::new(&nested).unwrap();
    let reply = r#"{"data":{"users":[{"id":"a\"b"},{"id":8}]},"next":null}"#;
    assert_eq!(
        merge(&codec, &calls).told(reply).unwrap(),
        [r#"200 {"id":"a\"b"}"#, r#"200 {"id":8}"#]
    );
    let codec = KeyedGet::new(&KeyedGetSettings { key: None, ..nested }).unwrap();
    let reply = r#"{"data":{"users":{"8":[1],"a\u0022b":null}}}"#;
    assert_eq!(
        merge(&codec, &calls).told(reply).unwrap(),
        ["200 null", "200 [1]"]
    );
}

#[test]
fn replies_that_do_not_fit_are_not_split() {
    let (codec, calls) = (codec("/users?ids={id}"), calls(&["/s/users/7", "/s/users/8"]));
    let batch = merge(&codec, &calls);
    for (reply, unsplit) in [
        (r#"[{"id":7},{"id":9}]"#, Unsplit::Stranger { suspects: vec![1] }),
        (r#"[{"id":7.0}]"#, Unsplit::Stranger { suspects: vec![0, 1] }),
        (
            r#"[{"id":7},{"id":8},{"id":9}]"#,
            Unsplit::Id("an element that nobody asked for"),
        ),
        (
            r#"[{"id":7},{"id":"7"}]"#,
            Unsplit::Id("two elements with one key"),
        ),
        (r#"[{"id":7},{}]"#, Unsplit::Id("an element without a key")),
        (r#"[{"id":7},8]"#, Unsplit::Id("an element without a key")),
        (
            r#"[{"id":7},{"id":true}]"#,
            Unsplit::Id("a key that is neither text nor number"),
        ),
        (r#"{"7":{}}"#, Unsplit::Shape("the elements are not an array")),
        (r#"[{"id":7},{"id":8}"#, Unsplit::Shape("not JSON")),
    ] {
        assert_eq!(batch.told(reply), Err(unsplit), "{reply}");
    }
}

#[test]
fn what_does_not_fit_travels_alone() {
    let plain = codec("/users?ids={id}");
    for (uri, reason) in [
        ("/s/users/a,b", Bypass::AmbiguousId),
        ("/s/users/%zz", Bypass::AmbiguousId),
        ("/s/users/%ff", Bypass::AmbiguousId),
        (&*format!("/s/users/{}", "x".repeat(MAX_TARGET)), Bypass::TooLarge),
    ] {
        assert_eq!(read(&plain, &get(uri)).err(), Some(reason), "{uri}");
    }
    assert_eq!(
        read(&codec("/u?ids={+id}"), &get("/s/users/a&b")).err(),
        Some(Bypass::AmbiguousId)
    );
    assert_eq!(
        read(&codec("/u{.id*}"), &get("/s/users/a.b")).err(),
        Some(Bypass::AmbiguousId)
    );
    let with_body = Sent {
        body: "x".into(),
        ..get("/s/users/1")
    };
    assert_eq!(read(&plain, &with_body).err(), Some(Bypass::Kind));
    let head = Sent {
        method: Method::HEAD,
        ..get("/s/users/1")
    };
    assert_eq!(read(&plain, &head).err(), Some(Bypass::Kind));
}

#[test]
fn settings_are_checked() {
    for batch_path in [
        "users?ids={id}",
        "/users",
        "/users?ids={id",
        "/users?ids={}",
        "/users?ids={other}",
        "/users?ids={id}&x={id}",
        "/users{#id}",
        "/users#{id}",
        "/users?ids={id:3}",
        "/us ers?ids={id}",
        "http://x/{id}",
    ] {
        let fault = KeyedGet::new(&settings(batch_path)).unwrap_err();
        assert_eq!(fault.field, "batchPath", "{batch_path}");
    }
    let of = |settings| KeyedGet::new(&settings).unwrap_err().field;
    assert_eq!(
        of(KeyedGetSettings {
            variables: Vec::new(),
            ..settings("/u/{id}")
        }),
        "match.path"
    );
    assert_eq!(
        of(KeyedGetSettings {
            item: Some("x".into()),
            ..settings("/u/{id}")
        }),
        "item"
    );
    assert_eq!(
        of(KeyedGetSettings {
            key: Some("id".into()),
            ..settings("/u/{id}")
        }),
        "key"
    );
    let other = KeyedGet::new(&KeyedGetSettings {
        item: Some("shop".into()),
        ..settings("/s{?shop*}")
    })
    .unwrap();
    assert_eq!(other.item_variable(), "shop");
    assert_eq!(other.max_bytes(), Some(MAX_TARGET));
}
