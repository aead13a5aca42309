//! How closely a match describes calls. Of two that fit one call the more precise one has it: Gateway API, on
//! the matches of HTTPRoutes and GRPCRoutes.

use crate::{FieldMatch, PathMatch, PathMatchType};

/// What is more precise is greater. Of a Service that both kinds of routes are attached to, calls of gRPC
/// belong to the more special kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Of an HTTPRoute.
    Http {
        /// How closely the path is described.
        path: PathPrecision,
        /// Whether the method is.
        has_method: bool,
        /// Header fields that are.
        headers: usize,
        /// Query parameters that are.
        parameters: usize,
    },
    /// Of a GRPCRoute.
    Grpc {
        /// Characters of what the service must be.
        service: usize,
        /// Characters of what the method must be.
        method: usize,
        /// Header fields that are described.
        headers: usize,
    },
}

/// How closely a path is described. Where expressions stand is left open by the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathPrecision {
    /// By as many characters at its beginning.
    Prefix(usize),
    /// By an expression of as many characters.
    Expression(usize),
    /// Wholly.
    Exact,
}

impl Precision {
    /// That of a match of an HTTPRoute.
    pub(super) fn http(
        path: &PathMatch,
        method: Option<&str>,
        headers: &[FieldMatch],
        parameters: &[FieldMatch],
    ) -> Self {
        Self::Http {
            path: PathPrecision::of(path),
            has_method: method.is_some(),
            headers: headers.len(),
            parameters: parameters.len(),
        }
    }
}

impl PathPrecision {
    fn of(path: &PathMatch) -> Self {
        match path.kind {
            PathMatchType::Exact => Self::Exact,
            // A slash at its end says nothing.
            PathMatchType::PathPrefix => {
                Self::Prefix(path.value.strip_suffix('/').unwrap_or(&path.value).len())
            }
            PathMatchType::Template | PathMatchType::RegularExpression => Self::Expression(path.value.len()),
        }
    }
}
