//! Which calls a rule is for, in the words of Gateway API, and `Template`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::rules::{self, rule};

/// Which calls a rule is for; all that is named must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// The method, in capitals. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::METHOD), length(max = 64))]
    pub method: Option<String>,
    /// The raw path. Default: any.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = [rules::template()]))]
    pub path: PathMatch,
    /// Header fields. A repeated field fits when one of its values does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule(
            format!("self.all(field, field.name.matches('{}'))", rules::HEADER_NAME.replace('\'', "\\'")),
            "expected the name of a header field",
        ),
    ]))]
    pub headers: Vec<FieldMatch>,
    /// Query parameters, raw. Of a repeated one the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule(
            format!("self.all(field, field.name.matches('{}'))", rules::PARAMETER),
            "expected a parameter's raw name",
        ),
    ]))]
    pub query_params: Vec<FieldMatch>,
}

/// What a raw path must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::path()))]
pub struct PathMatch {
    /// How the value is meant.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// The path, prefix, template or expression.
    #[serde(default = "root")]
    #[schemars(length(max = 1024))]
    pub value: String,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            kind: PathMatchType::default(),
            value: root(),
        }
    }
}

fn root() -> String {
    "/".to_owned()
}

/// How a path's value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The path is these bytes.
    Exact,
    /// The path begins with these segments.
    #[default]
    PathPrefix,
    /// Segments with variables, such as `/users/{id}` or `/models/{name}:predict`.
    Template,
    /// The whole path fits the expression.
    RegularExpression,
}

/// What a header field or query parameter must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.type != 'Present' || !has(self.value)", "expected no value with type: Present").at(".value"),
    rule("self.type == 'Present' || has(self.value)", "expected a value, or type: Present").at(".value"),
]))]
pub struct FieldMatch {
    /// How the value is meant.
    #[serde(default, rename = "type")]
    pub kind: FieldMatchType,
    /// Its name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Its value, or the expression for it; left out with `Present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
}

/// How a field's value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FieldMatchType {
    /// The value is these bytes.
    #[default]
    Exact,
    /// The whole value fits the expression.
    RegularExpression,
    /// The field is there, whatever its value.
    Present,
}
