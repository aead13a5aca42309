//! The cursor accepts what `serde_json` accepts, and finds the same texts.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{Fault, MAX_DEPTH, Name, Names, Scan, decoded_string, whole_number};

/// The place of the one value in a text.
fn whole(text: &[u8]) -> Result<&[u8], Fault> {
    let mut scan = Scan::new(text)?;
    let value = scan.value()?;
    scan.end()?;
    Ok(value.of(text))
}

/// Compares with serde_json, which keeps a raw value's text and ignores how deep it nests.
#[track_caller]
fn check(text: &[u8]) {
    let raw = serde_json::from_slice::<&RawValue>(text)
        .ok()
        .map(|raw| raw.get().as_bytes());
    match whole(text) {
        Err(Fault::Bound) => {}
        found => assert_eq!(found.ok(), raw, "{:?}", String::from_utf8_lossy(text)),
    }
}

/// Texts, valid or not, one a line.
const TEXTS: &str = r#"
1
 1 
-0 - +1 01 1. .1
1.0e
1e+5
1E-05
1e5.0
--1
01
1.
.1
+1
0x1
true
tru
truex
null
false
NaN
Infinity
{}
{ }
[]
[ ]
[1,]
[,1]
[1 2]
[1,2
[1]]
{"a"}
{"a":}
{"a":1,}
{a:1}
{"a":1 "b":2}
{,}
{"a":1}}
{1:2}
{"a" : [ { } , [ ] ] }
[}
{]
[1}
{"a":1]
"
"\"
"a\qb"
"\u12"
"\u12g4"
"\uD800"
"\uD83D\uDE00"
"1234567\"8"
"é€😀"
'a'
[1]x
"a""b"
["a",{"b":[null,true,{"c":-1.5e-3}]}]"#;

#[test]
fn the_grammar_is_that_of_rfc_8259() {
    for text in TEXTS.lines() {
        check(text.as_bytes());
    }
    for text in [
        "\"\t\"",
        "\"\u{7f}\"",
        "\"\u{1f}12345678\"",
        "\"12345678\u{1f}\"",
        "\u{feff}1",
        "\u{a0}1",
        "1\u{b}",
    ] {
        check(text.as_bytes());
    }
    check(b"\"\xff\"");
    check(b"\"\xed\xa0\x80\"");
}

#[test]
fn a_value_may_nest_to_the_bound_and_no_deeper() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    let bound = MAX_DEPTH as usize;
    assert_eq!(whole(&nested(bound)).map(<[u8]>::len), Ok(2 * bound));
    assert_eq!(whole(&nested(bound + 2)), Err(Fault::Bound));
    assert_eq!(whole(&nested(1_000_000)), Err(Fault::Bound));
    let mixed = format!("{}{}", "{\"a\":[".repeat(bound / 2), "]}".repeat(bound / 2));
    assert!(whole(mixed.as_bytes()).is_ok());
}

#[test]
fn names_are_compared_decoded() {
    let names = |text: &str| {
        let mut names = Names::default();
        Scan::new(text.as_bytes())?.members(|scan, name| {
            names.insert(name)?;
            scan.value().map(drop)
        })
    };
    assert!(names(r#"{"a":1,"b":1,"A":1,"\\u0061":1}"#).is_ok());
    assert_eq!(names(r#"{"a":1,"\u0061":1}"#), Err(Fault::Duplicate));
    assert_eq!(names(r#"{"\ud83d\ude00":1,"😀":1}"#), Err(Fault::Duplicate));
    assert_eq!(names(r#"{"\ud800":1,"\uD800":1}"#), Err(Fault::Duplicate));
    assert!(names(r#"{"\ud800":1,"\ud801":1,"\ud800\u0041":1}"#).is_ok());
    let many: Vec<String> = (0..65).map(|n| format!("\"{n}\":0")).collect();
    assert_eq!(names(&format!("{{{}}}", many.join(","))), Err(Fault::Bound));
    assert!(
        Name {
            raw: br"\u0069\u0064",
            escaped: true
        }
        .is("id")
    );
}

#[test]
fn whole_numbers_are_digits_only() {
    for (text, number) in [
        ("0", Some(0)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-1", None),
        ("1.0", None),
        ("1e2", None),
        ("\"1\"", None),
        ("", None),
    ] {
        assert_eq!(whole_number(text.as_bytes()), number, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_as_serde_json_does(
        text in r#"([\[\]{},:" 01.e+\-tfn\\u]|"[a-z\\"]{0,9}"|true|null|-?[0-9]{1,3}|\{"a":|\},?|[\x00-\xff]){0,24}"#
    ) {
        check(text.as_bytes());
    }

    #[test]
    fn strings_decode_as_serde_json_does(text in r#""([ -!#-\[\]-~é€😀]|\\[\\/"bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude[0-9a-f]{2}){0,20}""#) {
        let decoded: String = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&*decoded_string(text.as_bytes()), decoded.as_bytes());
    }
}
