//! What a sidecar asks for, and the most that it may take: quantities of Kubernetes, of which no limit is less than
//! what is asked for.

use serde_json::{Map, Value, json};

use super::wishes::refused;
use super::{GROUP, Pod, Refused, ResourceArgs, Wishes};

/// Something that a sidecar asks for.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) annotation: &'static str,
    /// `requests` or `limits`.
    kind: &'static str,
    name: &'static str,
}

/// What a sidecar may ask for: first what it is given in any case, then the most of each, in the same order.
pub(crate) const RESOURCES: [Resource; 4] = [
    Resource {
        annotation: "proxy-cpu-request",
        kind: "requests",
        name: "cpu",
    },
    Resource {
        annotation: "proxy-memory-request",
        kind: "requests",
        name: "memory",
    },
    Resource {
        annotation: "proxy-cpu-limit",
        kind: "limits",
        name: "cpu",
    },
    Resource {
        annotation: "proxy-memory-limit",
        kind: "limits",
        name: "memory",
    },
];

/// As a container says it.
pub(super) fn resources(wishes: &Wishes, set: &ResourceArgs) -> Value {
    let mut resources = Map::new();
    for ((resource, wish), set) in RESOURCES.iter().zip(&wishes.resources).zip(in_order(set)) {
        if let Some(quantity) = wish.as_deref().or(set) {
            let kind = resources.entry(resource.kind).or_insert_with(|| json!({}));
            kind[resource.name] = Value::from(quantity);
        }
    }
    Value::Object(resources)
}

/// Refuses an annotation by which a limit is less than a request: the API server would, in words that name neither.
pub(super) fn check(pod: Pod<'_>, wishes: &Wishes, set: &ResourceArgs) -> Result<(), Refused> {
    let set = in_order(set);
    let half = RESOURCES.len() / 2;
    for (request, limit) in (0..half).map(|at| (at, at + half)) {
        let [asked, most] = [request, limit].map(|at| wishes.resources[at].as_deref().or(set[at]));
        let (Some(asked), Some(most)) = (asked, most) else {
            continue;
        };
        let (Some(least), Some(amount)) = (amount(asked), amount(most)) else {
            continue;
        };
        if amount >= least {
            continue;
        }
        let annotation = |at: usize| format!("{GROUP}{}", RESOURCES[at].annotation);
        let whose = |at: usize| match wishes.resources[at] {
            Some(_) => annotation(at),
            None => format!("--{}, which all sidecars have", RESOURCES[at].annotation),
        };
        let told = |at, value, bound: String| Err(refused(pod, &annotation(at), value, &bound));
        if wishes.resources[limit].is_some() {
            return told(
                limit,
                most,
                format!("at least {asked}, its request ({})", whose(request)),
            );
        }
        if wishes.resources[request].is_some() {
            return told(
                request,
                asked,
                format!("at most {most}, its limit ({})", whose(limit)),
            );
        }
    }
    Ok(())
}

fn in_order(set: &ResourceArgs) -> [Option<&str>; 4] {
    [
        Some(&*set.cpu_request),
        Some(&*set.memory_request),
        set.cpu_limit.as_deref(),
        set.memory_limit.as_deref(),
    ]
}

/// A quantity in the notation of Kubernetes: a decimal number, and thousands or 1024s of it.
pub(crate) fn quantity(text: &str) -> Result<String, String> {
    let is_number = |number: &str| {
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        number.len() <= 18 && digits(whole) && digits(part)
    };
    let (number, unit) = split(text);
    (is_number(number) && UNITS.iter().any(|(name, _)| *name == unit))
        .then(|| text.to_owned())
        .ok_or_else(|| "a quantity, such as 100m, 0.5 or 64Mi".to_owned())
}

/// How much one is, in thousandths; a part of one is a whole one, as the API server has it. `None` of more than
/// anybody has.
fn amount(quantity: &str) -> Option<u128> {
    let (number, unit) = split(quantity);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let parts = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    Some(digits.checked_mul(*scale)?.div_ceil(parts))
}

fn split(quantity: &str) -> (&str, &str) {
    let end = quantity.find(|c: char| c.is_ascii_alphabetic());
    quantity.split_at(end.unwrap_or(quantity.len()))
}

/// Each unit in thousandths.
const UNITS: [(&str, u128); 13] = [
    ("", 1000),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("Ti", 1000 << 40),
    ("Pi", 1000 << 50),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_what_they_are() {
        for (less, more) in [
            ("31Mi", "32Mi"),
            ("32M", "32Mi"),
            ("9m", "0.01"),
            ("0.5", "501m"),
            ("1000Ki", "1.5Mi"),
            ("999999999999999999", "1E"),
        ] {
            assert!(amount(less) < amount(more), "{less} {more}");
        }
        for (one, same) in [
            ("100m", "0.1"),
            ("1Gi", "1024Mi"),
            ("1k", "1000"),
            ("0.0005", "1m"),
        ] {
            assert_eq!(amount(one), amount(same), "{one} {same}");
        }
        assert_eq!(amount("999999999999999999E"), None);
    }
}
