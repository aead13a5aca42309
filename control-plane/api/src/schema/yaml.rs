//! JSON as YAML that people read: blocks, and quotes only where a text could be taken for something else.

use serde_json::{Map, Value};

/// A value as a document, in block style, with its last line ended.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    behind(&mut text, value, 0);
    text.trim_start().to_owned()
}

/// Writes a value behind its key or dash: on lines of its own if it has parts, else on the same.
fn behind(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            entries(text, fields, indent);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            for item in items {
                begin(text, indent, "-");
                let at = text.len();
                behind(text, item, indent + 2);
                if item.as_object().is_some_and(|fields| !fields.is_empty()) {
                    // The first of its fields goes on behind the dash.
                    text.replace_range(at..at + 1 + indent + 2, " ");
                }
            }
        }
        Value::String(word) if is_plain(word) => end(text, word),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => end(text, &value.to_string()),
    }
}

fn entries(text: &mut String, fields: &Map<String, Value>, indent: usize) {
    for (name, value) in fields {
        if is_plain(name) {
            begin(text, indent, name);
        } else {
            begin(text, indent, &Value::from(name.as_str()).to_string());
        }
        text.push(':');
        // Lists stand under their key.
        behind(text, value, if value.is_array() { indent } else { indent + 2 });
    }
}

fn begin(text: &mut String, indent: usize, word: &str) {
    text.extend(std::iter::repeat_n(' ', indent));
    text.push_str(word);
}

fn end(text: &mut String, scalar: &str) {
    text.push(' ');
    text.push_str(scalar);
    text.push('\n');
}

/// Whether a text is read as itself: no number, no flag, nothing with a meaning of its own.
fn is_plain(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "./-_$".contains(c);
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '$')
        && text.chars().all(allowed)
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "plain": "jitney.dev/v1alpha1",
            "no": ["no", "1Mi", "12", "", "a: b", "- c", "two\nlines", "ä\t\"q\" \\", "{{x}}", "µs"],
            "nothing": null,
            "numbers": [1, -2.5, true],
            "empty": {"map": {}, "list": []},
            "nested": [{"a": [{"b": 1, "c": {"d": "e"}}], "f": "g"}, [["h"], []]],
            "x-kubernetes-validations": [{"rule": "self > 0"}],
        });
        let text = to_yaml(&value);
        let again: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(again, value, "{text}");
        assert_eq!(
            to_yaml(&json!({"a": [{"b": 1, "c": "d"}]})),
            "a:\n- b: 1\n  c: d\n"
        );
    }
}
