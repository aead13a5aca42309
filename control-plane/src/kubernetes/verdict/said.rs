//! What is said of one object, whatever its kind: a condition, and who runs it.

use jitney_api::{Condition, ConditionStatus, ConditionType, Reason, SidecarStatus};

/// A condition without what is the same for all of a status.
pub(super) struct Said {
    pub(super) kind: ConditionType,
    pub(super) status: ConditionStatus,
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) generation: i64,
}

impl Said {
    /// As the status has it that was `before`: since when it is so stays as long as it is.
    pub(super) fn condition(self, before: &[Condition], now: &str) -> Condition {
        let kind = self.kind.to_string();
        let same = before
            .iter()
            .find(|one| one.kind == kind && one.status == self.status);
        let since = same.map_or(now, |same| &same.last_transition_time);
        Condition {
            kind,
            status: self.status,
            reason: self.reason.to_string(),
            message: cut(self.message),
            last_transition_time: since.to_owned(),
            observed_generation: Some(self.generation),
        }
    }
}

/// Whether the generation that is pushed, if any is, is run by all that are to. `present` is the object's own.
pub(super) fn programmed(in_force: Option<i64>, present: i64, sidecars: &SidecarStatus) -> Said {
    let SidecarStatus { selected, acked, .. } = *sidecars;
    let (status, reason) = match (selected, acked) {
        (0, _) => (ConditionStatus::Unknown, Reason::NoSidecars),
        (selected, acked) if selected == acked => (ConditionStatus::True, Reason::Programmed),
        (_, 0) => (ConditionStatus::False, Reason::Pending),
        _ => (ConditionStatus::False, Reason::PartiallyProgrammed),
    };
    Said {
        kind: ConditionType::Programmed,
        status,
        reason,
        message: match (in_force, selected) {
            (None, _) => "no generation of it is in force".to_owned(),
            (Some(_), 0) => "there is no sidecar that is to run it".to_owned(),
            (Some(generation), _) => running(sidecars, &format!("generation {generation}")),
        },
        generation: in_force.unwrap_or(present),
    }
}

/// Who runs what, in a sentence.
pub(super) fn running(sidecars: &SidecarStatus, what: &str) -> String {
    let noun = if sidecars.selected == 1 {
        "sidecar runs"
    } else {
        "sidecars run"
    };
    let mut text = format!("{} of {} {noun} {what}", sidecars.acked, sidecars.selected);
    if let Some(last) = sidecars.last_rejection.as_ref().filter(|_| sidecars.rejected > 0) {
        let field = if last.field.is_empty() {
            String::new()
        } else {
            format!("{}: ", last.field)
        };
        text.push_str(&format!(
            "; {} rejected it: {}: {field}{}",
            sidecars.rejected, last.sidecar, last.reason
        ));
    }
    if sidecars.stale > 0 {
        text.push_str(&format!("; {} not heard of yet", sidecars.stale));
    }
    text
}

pub(super) const fn status(is_so: bool) -> ConditionStatus {
    match is_so {
        true => ConditionStatus::True,
        false => ConditionStatus::False,
    }
}

/// As long as a condition's message may be.
fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MOST_MESSAGE));
    message
}

const MOST_MESSAGE: usize = 4096;
