//! What stands at the fields of documents beside their types: patterns of texts, and rules over several
//! fields in CEL, which the API server of Kubernetes checks. All of it is checked in `compile`, too; what is
//! not said here is found there alone:
//!
//! - names that other documents have: targets, backends, and which of two policies has a target; and that files
//!   hold no routes;
//! - sizes that are texts: before Kubernetes 1.34 the server takes each for as long as a request, so that even
//!   one comparison for each route would be more than it allows;
//! - whether an expression is one of the regex crate, whose syntax is not quite that of CEL;
//! - variables: that a template names none twice, and that `batchPath` names none that the path has not; and
//!   all that is wrong with a template in an authorization;
//! - JSON pointers that point into each other;
//! - a name of a route, or of a rule of an authorization, that is the position of another, which has none;
//! - endpoints: those that are neither text nor map, unknown fields in a map, one endpoint twice;
//! - texts of the right form that mean nothing, such as `0.1ns` and SPIFFE IDs with a segment of dots.
//!
//! Every bound on a list or text bounds what a rule may cost, which the server adds up before it takes a definition.

use jitney_core::codec::PRESETS;
use jitney_core::key::{CREDENTIALS, ESSENTIAL};
use serde::Serialize;

/// A rule in CEL over the value at which it stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    rule: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field_path: Option<&'static str>,
}

/// A rule with what is said when it is false: what was expected, in the words of `compile`.
pub(crate) fn rule(rule: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule {
        rule: rule.into(),
        message: message.into(),
        field_path: None,
    }
}

impl Rule {
    /// The field that is at fault, such as `.maxSize`.
    pub(crate) fn at(self, field: &'static str) -> Self {
        Self {
            field_path: Some(field),
            ..self
        }
    }
}

/// A token (RFC 9110 §5.6.2).
pub(crate) const HEADER_NAME: &str = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// A token without lower-case letters.
pub(crate) const METHOD: &str = r"^[!#$%&'*+.^_`|~0-9A-Z-]+$";

/// The raw name of a query parameter.
pub(crate) const PARAMETER: &str = "^[^&=#]+$";

/// A JSON pointer (RFC 6901) of at most 16 names.
pub(crate) const POINTER: &str = "^(/([^/~]|~[01])*){0,16}$";

/// The name of a template's variable.
pub(crate) const VARIABLE: &str = "^[0-9A-Za-z_]+$";

/// A path and query with at least one expression of RFC 6570.
pub(crate) const BATCH_PATH: &str =
    r"^[!$-;=?-\[\]_a-z~]*(\{[+./;?&]?[0-9A-Za-z_]+\*?(,[0-9A-Za-z_]+\*?)*\}[!$-;=?-\[\]_a-z~]*)+$";

/// A name in metrics and logs.
pub(crate) const LABEL: &str = "^[0-9A-Za-z._-]{1,63}$";

/// A segment of a SPIFFE ID's path.
pub(crate) const SEGMENT: &str = "^[0-9A-Za-z._-]+$";

/// A caller of an authorization rule.
pub(crate) const CALLER: &str = r"^(\*|[0-9A-Za-z._-]+/(\*|[0-9A-Za-z._-]+)|spiffe://[0-9a-z._-]+/ns/[0-9A-Za-z._-]+/sa/[0-9A-Za-z._-]+)$";

/// `host:port`.
pub(crate) const ENDPOINT: &str = r"^([0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]+\]):0*[1-9][0-9]{0,4}$";

/// A condition of a retry.
pub(crate) const RETRY_CONDITION: &str = "^(connect-failure|reset|refused-stream|gateway-error|5xx|cancelled|deadline-exceeded|internal|\
     resource-exhausted|unavailable|[45][0-9][0-9])$";

/// Presets by name.
pub(crate) fn presets() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}

/// At most an hour, the longest that anything may wait.
pub(crate) fn wait() -> Rule {
    rule("self <= duration('1h')", "expected at most 1h")
}

/// More than nothing.
pub(crate) fn some_time() -> Rule {
    rule("self > duration('0s')", "expected more than 0s")
}

/// What a path is for each of its types, but for expressions.
pub(crate) fn path() -> [Rule; 2] {
    // Bytes that are seen, but for those that begin a query or fragment.
    let raw = r#"self.type == 'RegularExpression' || self.value.matches('^/[!"$->@-~]*$')"#;
    let braces =
        "!(self.type in ['Exact', 'PathPrefix']) || !(self.value.contains('{') || self.value.contains('}'))";
    [
        rule(
            raw,
            "expected a raw path that begins with a slash, percent-encoded, without query and fragment",
        ),
        rule(
            braces,
            "expected a path without braces; variables need type: Template",
        ),
    ]
    .map(|rule| rule.at(".value"))
}

/// What a template is. This would cost too much for each path of each rule of an authorization.
pub(crate) fn template() -> Rule {
    rule(
        r"self.type != 'Template' || self.value.matches('^(/[^/{}]*(\\{\\w+\\}[^/{}]*)?)+$')",
        "expected a template with at most one variable in a segment, such as /users/{id}",
    )
    .at(".value")
}

/// What a route's match has to be for its codec.
pub(crate) fn route() -> [Rule; 5] {
    let path = "self.match.path.value";
    let batch_path = "self.codec.keyedGet.batchPath";
    // Without `item`, the last variable. Where an expression has an operator or a list, it is not looked for.
    let variable = format!(
        "has(self.codec.keyedGet.item) ? \
         {batch_path}.matches('[{{+./;?&,]' + self.codec.keyedGet.item + '[*,}}]') : \
         {batch_path}.matches('\\\\{{(\\\\W|\\\\w+[*,])') || {batch_path}.indexOf('{{' + \
         {path}.substring({path}.lastIndexOf('{{') + 1, {path}.lastIndexOf('}}')) + '}}') >= 0"
    );
    let template = "has(self.match) && has(self.match.path) && self.match.path.type == 'Template' && \
                    self.match.path.value.matches('\\\\{\\\\w+\\\\}')";
    let keyed = "!has(self.codec.keyedGet)";
    let method = "!has(self.match) || !has(self.match.method)";
    [
        rule(
            format!("{keyed} || {method} || self.match.method == 'GET'"),
            "expected GET: keyedGet merges nothing else",
        )
        .at(".match.method"),
        rule(
            format!(
                "has(self.codec.keyedGet) || {method} || \
                 !(self.match.method in ['GET', 'HEAD', 'OPTIONS', 'TRACE'])"
            ),
            "expected a method with a body, such as POST, for this codec",
        )
        .at(".match.method"),
        rule(
            format!("{keyed} || ({template})"),
            "expected a template with a variable, such as {type: Template, value: \"/users/{id}\"}, for keyedGet",
        )
        .at(".match.path"),
        rule(
            format!(
                "{keyed} || !has(self.codec.keyedGet.item) || !({template}) || \
                 {path}.contains('{{' + self.codec.keyedGet.item + '}}')"
            ),
            "expected a variable of the route's path template",
        )
        .at(".codec.keyedGet.item"),
        rule(
            format!("{keyed} || !({template}) || ({variable})"),
            "expected a template that has the route's variable, such as /users?ids={id}",
        )
        .at(".codec.keyedGet.batchPath"),
    ]
}

/// No field may be left out of a key that is put into it, or that says who calls or what.
pub(crate) fn key() -> [Rule; 3] {
    let none = |condition: &str| {
        format!("!has(self.ignoreHeaders) || !self.ignoreHeaders.exists(ignored, {condition})")
    };
    let included = "has(self.includeHeaders) && \
                    self.includeHeaders.exists(name, name.lowerAscii() == ignored.lowerAscii())";
    let one_of = |names: &[&str]| format!("ignored.lowerAscii() in ['{}']", names.join("', '"));
    [
        rule(
            none(included),
            "found in includeHeaders, too; expected it in one of them",
        ),
        rule(
            format!("self.identity == 'Shared' || {}", none(&one_of(&CREDENTIALS))),
            "found a credential: callers share a batch across identities only with `identity: Shared`",
        ),
        rule(
            none(&one_of(&ESSENTIAL)),
            "found what says where a call goes or what its body is, so members cannot differ in it",
        ),
    ]
    .map(|rule| rule.at(".ignoreHeaders"))
}

/// A level, or levels by target.
pub(crate) fn log_level() -> Rule {
    let level = r"\\s*(off|error|warn|info|debug|trace)\\s*";
    let part = format!(r"(\\s*[0-9A-Za-z_:]{{1,64}}=)?{level}");
    rule(
        format!("self.matches('(?i)^{part}(,{part})*$')"),
        "expected off, error, warn, info, debug or trace, or TARGET=LEVEL, comma separated",
    )
}
