//! Hides what a policy keeps secret before it is shown.

use serde_json::Value;

/// Replaces the values that a header or query match demands of a credential, and the credentials
/// of URLs.
///
/// Which fields are credentials is told by their names, generously: a value that is hidden without
/// need costs a look into the file; one that is shown costs more.
pub(super) fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is_secret = members
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(is_credential);
            for (name, member) in members {
                if member.is_string() && (is_secret && name == "value" || is_credential(name)) {
                    *member = MASKED.into();
                } else {
                    mask(member);
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(mask),
        Value::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://") {
                let authority = rest.split('/').next().unwrap_or_default();
                if let Some((_, host)) = authority.rsplit_once('@') {
                    *text = format!("{scheme}://{MASKED}@{host}{}", &rest[authority.len()..]);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "authorization",
        "cookie",
        "token",
        "secret",
        "password",
        "api-key",
        "apikey",
        "api_key",
        "credential",
    ]
    .iter()
    .any(|word| name.contains(word))
}

const MASKED: &str = "***";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_hidden_and_the_rest_stays() {
        let mut value = json!({
            "routes": [{
                "match": {"headers": [
                    {"name": "Authorization", "value": "Bearer t0p", "type": "Exact"},
                    {"name": "x-api-key", "value": "t0p"},
                    {"name": "x-tenant", "value": "acme"},
                ], "queryParams": [{"name": "access_token", "value": "t0p"}]},
                "key": {"includeHeaders": ["authorization"]},
            }],
            "endpoints": ["http://user:t0p@host:1/path@x", "10.0.0.1:80"],
            "password": "t0p",
        });
        mask(&mut value);
        let text = value.to_string();
        assert!(!text.contains("t0p"), "{text}");
        for kept in [
            "acme",
            "includeHeaders\":[\"authorization",
            "http://***@host:1/path@x",
            "10.0.0.1:80",
            "Exact",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
