//! The text of policies, as a user would write them.

use std::fmt;

/// One route of a policy.
#[derive(Clone, Debug)]
pub struct Route {
    name: &'static str,
    lines: Vec<String>,
}

impl Route {
    /// KServe v1 predictions.
    pub fn kserve() -> Self {
        Self::new(
            "predict",
            r#"match: {method: POST, path: {type: Template, value: "/v1/models/{model}:predict"}}"#,
            "codec: {preset: kserve-v1}",
        )
    }

    /// Users by id.
    pub fn users() -> Self {
        Self::new(
            "user-by-id",
            r#"match: {method: GET, path: {type: Template, value: "/users/{id}"}}"#,
            r#"codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}"#,
        )
    }

    /// JSON-RPC on `/rpc`.
    pub fn json_rpc() -> Self {
        Self::new(
            "rpc",
            "match: {method: POST, path: {type: Exact, value: /rpc}}",
            "codec: {jsonRpc: {}}",
        )
    }

    /// Any route.
    pub fn new(name: &'static str, matches: &str, codec: &str) -> Self {
        Self {
            name,
            lines: vec![matches.to_owned(), codec.to_owned()],
        }
    }

    /// A batch leaves with exactly `max_size` items; a call that waits for companions in vain is
    /// held so long that a test sees it.
    #[must_use]
    pub fn fixed(self, max_size: usize) -> Self {
        self.line(format!(
            "batch: {{dispatch: Fixed, maxSize: {max_size}, timeout: 30s, queueTimeout: 60s}}"
        ))
    }

    /// One more line, such as `batch: {…}`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  - name: {}", self.name)?;
        self.lines.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// An active policy with these routes.
pub fn active(routes: &[Route]) -> String {
    with_mode("Active", routes)
}

/// A policy in `mode` with these routes.
pub fn with_mode(mode: &str, routes: &[Route]) -> String {
    let routes: String = routes.iter().map(Route::to_string).collect();
    format!("kind: BatchPolicy\nmetadata: {{name: test}}\nspec:\n  mode: {mode}\n  routes:\n{routes}")
}
