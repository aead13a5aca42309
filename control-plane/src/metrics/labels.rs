//! Labels of what is counted.

use jitney_api::push::Kind;
use jitney_api::push::config::Cause;
use prometheus_client::encoding::EncodeLabelSet;

use crate::inject::review::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfType {
    pub(super) r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfNack {
    pub(super) r#type: &'static str,
    pub(super) reason: &'static str,
}

impl OfNack {
    pub(super) const fn of(kind: Kind, cause: Cause) -> Self {
        let reason = match cause {
            Cause::Unspecified => "unspecified",
            Cause::Content => "content",
            Cause::Limit => "limit",
            Cause::Missing => "missing",
            Cause::Place => "place",
        };
        Self {
            r#type: kind.as_str(),
            reason,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfResult {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfReason {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfOutcome {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfState {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfRoot {
    pub(super) root: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfStep {
    pub(super) step: &'static str,
}

impl OfOutcome {
    pub(super) const fn of(outcome: Outcome) -> Self {
        let outcome = match outcome {
            Outcome::Injected => "injected",
            Outcome::Left => "left",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        };
        Self { outcome }
    }
}
