//! Caps, keys and what follows a failure.

use std::fmt::Display;
use std::time::Duration;

use http::HeaderName;
use jitney_core::batch as core;
use jitney_core::key::{KeyRules, Sharing};
use jitney_core::policy;

use super::{Check, matching};
use crate::node::Path;
use crate::{
    BatchSettings, ByteSize, Dispatch, Identity, Isolate, KeySettings, OnFailure, Order, Replay, WindowBounds,
};

/// Caps, and the field that carries the class.
pub(super) fn batch(
    check: &Check<'_>,
    path: &Path,
    settings: &BatchSettings,
) -> Option<(core::Limits, Option<HeaderName>)> {
    let good = check_caps(check, path, settings);
    let priority = priority_header(check, path, settings);
    let limits = core::Limits {
        max_size: settings.max_size,
        max_bytes: usize::try_from(settings.max_bytes.0).ok()?,
        timeout: settings.timeout.0,
        dispatch: match settings.dispatch {
            Dispatch::Adaptive => core::Dispatch::Adaptive,
            Dispatch::Eager => core::Dispatch::Eager,
            Dispatch::Fixed => core::Dispatch::Fixed,
        },
        order: match settings.order {
            Order::Fifo => core::Order::Fifo,
            Order::ShortestFirst => core::Order::ShortestFirst,
            Order::Priority => core::Order::Priority,
            Order::EarliestDeadline => core::Order::EarliestDeadline,
        },
        max_queue_size: settings.max_queue_size,
        max_queue_bytes: usize::try_from(settings.max_queue_bytes.0).ok()?,
        queue_timeout: settings.queue_timeout.0,
        window: settings.window.map_or(core::Window::Auto, window),
    };
    good.then_some((limits, priority?))
}

pub(super) const fn window(bounds: WindowBounds) -> core::Window {
    core::Window::Within {
        min: bounds.min,
        max: bounds.max,
    }
}

/// Tells of bounds that are none.
pub(super) fn check_window(check: &Check<'_>, path: &Path, bounds: WindowBounds) -> bool {
    let WindowBounds { min, max } = bounds;
    let good = 1 <= min && min <= max && max <= MAX_WINDOW;
    if !good {
        let found = format!("found min {min}, max {max}");
        check.fault(
            &path.key("window"),
            format!("{found}, expected 1 <= min <= max <= {MAX_WINDOW}"),
        );
    }
    good
}

/// True when every cap is within its own bounds, and they fit each other.
fn check_caps(check: &Check<'_>, path: &Path, settings: &BatchSettings) -> bool {
    let within = |field: &str, found: &dyn Display, good: bool, expected: &str| {
        if !good {
            check.fault(&path.key(field), format!("found {found}, expected {expected}"));
        }
        good
    };
    let &BatchSettings {
        max_size: size,
        max_bytes: bytes,
        timeout,
        queue_timeout,
        ..
    } = settings;
    let (queue_size, queue_bytes) = (settings.max_queue_size, settings.max_queue_bytes);
    let wait_is_good = !queue_timeout.0.is_zero() && queue_timeout.0 <= MAX_WAIT;
    let bounds = [
        within("maxSize", &size, (1..=MAX_SIZE).contains(&size), "1 to 65536"),
        within(
            "maxBytes",
            &bytes,
            (ByteSize(1)..=MAX_BYTES).contains(&bytes),
            "1 to 256Mi",
        ),
        within(
            "maxQueueSize",
            &queue_size,
            (1..=MAX_QUEUE).contains(&queue_size),
            "1 to 1000000",
        ),
        within(
            "maxQueueBytes",
            &queue_bytes,
            queue_bytes <= MAX_QUEUE_BYTES,
            "at most 4Gi",
        ),
        within("timeout", &timeout, timeout.0 <= MAX_WAIT, "at most 1h"),
        within(
            "queueTimeout",
            &queue_timeout,
            wait_is_good,
            "more than 0s, at most 1h",
        ),
        settings
            .window
            .is_none_or(|bounds| check_window(check, path, bounds)),
    ];
    // Relations only between values that are good on their own.
    if bounds.contains(&false) {
        return false;
    }
    let size_bound = format!("at least maxSize, which is {size}: no batch would ever be full");
    let bytes_bound = format!("at least maxBytes, which is {bytes}: no batch would ever be full");
    let wait_bound =
        format!("at most queueTimeout, which is {queue_timeout}: calls would be shed before they leave");
    let relations = [
        within("maxQueueSize", &queue_size, queue_size >= size, &size_bound),
        within("maxQueueBytes", &queue_bytes, queue_bytes >= bytes, &bytes_bound),
        within("timeout", &timeout, timeout <= queue_timeout, &wait_bound),
    ];
    !relations.contains(&false)
}

/// `Some(None)`: there is none; `None`: it is at fault.
fn priority_header(check: &Check<'_>, path: &Path, settings: &BatchSettings) -> Option<Option<HeaderName>> {
    let Some(text) = settings.priority_header.as_deref() else {
        return Some(None);
    };
    let path = path.key("priorityHeader");
    if settings.order != Order::Priority {
        check.fault(
            &path,
            format!("found {text:?}, expected it only together with order: Priority"),
        );
        return None;
    }
    matching::header(check, &path, text).map(Some)
}

/// What members may differ in.
pub(super) fn key(check: &Check<'_>, path: &Path, settings: &KeySettings) -> Option<KeyRules> {
    let names = |field: &str, texts: &[String]| {
        let path = path.key(field);
        let names = texts
            .iter()
            .enumerate()
            .map(|(index, text)| matching::header(check, &path.index(index), text));
        // All are looked at, so that all faults are found.
        names.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    };
    let include = names("includeHeaders", &settings.include_headers);
    let ignore = names("ignoreHeaders", &settings.ignore_headers);
    let (include, ignore) = (include?, ignore?);
    let sharing = match settings.identity {
        Identity::Strict => Sharing::Strict,
        Identity::Shared => Sharing::Shared,
    };
    for (index, name) in ignore.iter().enumerate() {
        let path = path.key("ignoreHeaders").index(index);
        if include.contains(name) {
            check.fault(
                &path,
                format!(
                    "found {:?} in includeHeaders, too; expected it in one of them",
                    name.as_str()
                ),
            );
        }
        if let Err(error) = KeyRules::new(sharing, Vec::new(), vec![name.clone()]) {
            check.fault(&path, error.to_string());
        }
    }
    KeyRules::new(sharing, include, ignore).ok()
}

/// Which calls may reach the upstream again.
pub(super) const fn leave(replay: Replay) -> policy::Replay {
    match replay {
        Replay::Never => policy::Replay::Never,
        Replay::Idempotent => policy::Replay::Idempotent,
        Replay::Declared => policy::Replay::Declared,
    }
}

/// What follows a failure; `default` is the codec's.
pub(super) fn on_failure(settings: &OnFailure, default: policy::Replay) -> policy::OnFailure {
    policy::OnFailure {
        replay: settings.replay.map_or(default, leave),
        isolate: match settings.isolate {
            Isolate::Bisect => policy::Isolate::Bisect,
            Isolate::Singles => policy::Isolate::Singles,
            Isolate::None => policy::Isolate::None,
        },
    }
}

pub(super) const MAX_SIZE: usize = 65_536;

const MAX_QUEUE: usize = 1_000_000;

/// Keys hold lengths in 32 bits, so bodies stay far below 4 GiB.
const MAX_BYTES: ByteSize = ByteSize(256 << 20);

const MAX_QUEUE_BYTES: ByteSize = ByteSize(4 << 30);

pub(super) const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The most that any window can be learned to be.
const MAX_WINDOW: usize = 256;
