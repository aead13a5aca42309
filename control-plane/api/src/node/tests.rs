//! Decoding tells every fault of a tree, once and with its place.

use std::sync::Arc;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Outer {
    name: String,
    #[serde(default)]
    list: Vec<Inner>,
    #[serde(default)]
    choice: Choice,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    size: u8,
    #[serde(default)]
    ratio: Option<f64>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
enum Choice {
    #[default]
    One,
    Two,
}

#[track_caller]
fn check(text: &str, decodes: bool, expected: &[&str]) {
    let nodes = parse(&Arc::from("f"), text).expect("valid YAML");
    let (value, faults) = decode::<Outer>(&nodes[0]);
    let told = faults.iter().map(|fault| {
        format!(
            "{}:{} {}: {}",
            fault.place.line, fault.place.column, fault.path, fault.message
        )
    });
    assert_eq!(told.collect::<Vec<_>>(), expected, "{text}");
    assert_eq!(value.is_some(), decodes, "{text}");
}

#[test]
fn values_are_decoded() {
    check(
        "{name: a, list: [{size: 1, ratio: 2}, {size: 3, ratio: 0.5}], choice: Two}",
        true,
        &[],
    );
    check("{name: a, list: [{size: 1, ratio: null}]}", true, &[]);
}

#[test]
fn every_fault_is_told_once() {
    check(
        "{name: a, list: [{size: 300}, {sise: 1, size: 1}, {ratio: x, size: 2}, 7], choice: Tow, x: 1}",
        true,
        &[
            "1:25 list[0].size: found 300, expected a whole number that is not negative",
            "1:32 list[1].sise: unknown field (did you mean size?); expected size or ratio",
            "1:59 list[2].ratio: found \"x\", expected a number",
            "1:72 list[3]: found 7, expected a map of fields",
            "1:84 choice: found \"Tow\", expected One or Two",
            "1:89 x: unknown field; expected one of name, list, choice",
        ],
    );
}

#[test]
fn what_is_missing_because_it_was_faulty_is_not_told_again() {
    check(
        "{name: [a], list: [{size: x}]}",
        false,
        &[
            "1:8 name: found a list, expected a string",
            "1:27 list[0].size: found \"x\", expected a whole number that is not negative",
        ],
    );
    check(
        "{list: [{}]}",
        false,
        &[
            "1:9 list[0].size: found nothing, but this field is required",
            "1:1 name: found nothing, but this field is required",
        ],
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-c:{}\\[\\], \n\t&*!|>'\"#?-]{0,60}") {
        let nodes = parse(&Arc::from("f"), &text).unwrap_or_default();
        for node in &nodes {
            let _outcome = decode::<Outer>(node);
        }
    }
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let fault = parse(&Arc::from("f"), text).unwrap_err().to_string();
    assert_eq!(fault, expected, "{text:.80}");
}

#[test]
fn what_cannot_be_read_is_told_to_people() {
    for (text, expected) in [
        (
            ": 1",
            "f:1:1: found no name in front of ':', expected the name of a field",
        ),
        (
            "a: 1\n~: 1",
            "f:2:1: found no name in front of ':', expected the name of a field",
        ),
        (
            "[a]: 1",
            "f:1:1: found a list or a map in front of ':', expected the name of a field",
        ),
        (
            "a: {{x}: 1}",
            "f:1:5: found a list or a map in front of ':', expected the name of a field",
        ),
        (
            "!!int 5: 1",
            "f:1:7: found a value of a type of its own in front of ':', expected the name of a field",
        ),
        (
            "a: 1\na: 2",
            "f:2:1: found the field \"a\" twice, expected it once",
        ),
        ("a: &x [*x]", "f:1:8: found an alias inside what it stands for"),
        ("a: !!int x", "f:1:10: found no whole number behind !!int"),
        (
            "a: .inf",
            "f:1:4: found .inf, expected a number that is not infinite",
        ),
        (
            "a: !!binary gICA",
            "f:1:13: found !!binary that is no UTF-8 text, expected text",
        ),
        ("a: [", "f:1:4: not valid YAML: unclosed bracket '['"),
    ] {
        refused(text, expected);
    }
}

#[test]
fn more_than_a_file_may_hold_is_refused_before_it_costs_much() {
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(parse(&Arc::from("f"), &deep(30)).is_ok());
    refused(
        &deep(100),
        "f:1:33: found lists and maps inside one another, expected at most 32 levels",
    );
    assert!(parse(&Arc::from("f"), &deep(100_000)).is_err());
    let long = format!("[{}]", "1,".repeat(200_000));
    let fault = parse(&Arc::from("f"), &long).unwrap_err();
    assert_eq!(
        fault.message,
        "found more than a policy file may hold, expected at most 100000 values"
    );
}
