//! What a policy says about batches: caps and choices, never tuning.

use std::time::Duration;

/// The batching limits of one route. All are caps: the dispatcher learns the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most items in one batch; a call that has more travels alone. At least 1.
    pub max_size: usize,
    /// Most bytes in one merged body, separators included.
    pub max_bytes: usize,
    /// The longest a call may wait for companions. Zero: only for announced arrivals, capped by
    /// what the wait can gain. With [`Dispatch::Fixed`] zero means at once.
    pub timeout: Duration,
    /// When batches leave.
    pub dispatch: Dispatch,
    /// Which queued call goes first.
    pub order: Order,
    /// Most items queued under one key.
    pub max_queue_size: usize,
    /// Most bytes queued under one key.
    pub max_queue_bytes: usize,
    /// The longest a call may be queued, whatever it waits for.
    pub queue_timeout: Duration,
    /// How many batches may be in flight.
    pub window: Window,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_size: 64,
            max_bytes: 1 << 20,
            timeout: Duration::ZERO,
            dispatch: Dispatch::Adaptive,
            order: Order::Fifo,
            max_queue_size: 1024,
            max_queue_bytes: 16 << 20,
            queue_timeout: Duration::from_secs(2),
            window: Window::Auto,
        }
    }
}

/// When batches leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Dispatch {
    /// With a free slot at once, else gather; the number of slots is learned.
    #[default]
    Adaptive,
    /// With a free slot at once, else gather; the number of slots is fixed.
    Eager,
    /// At `max_size` items or after `timeout`, and for no other reason.
    Fixed,
}

/// Which queued call goes first. Tenants take turns whatever the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// First come, first served.
    #[default]
    Fifo,
    /// Fewest items, then fewest bytes. A call ages by one item's worth for each
    /// `queue_timeout / max_size` that it waits, so none starves.
    ShortestFirst,
    /// Lower [`super::Queued::priority`] first, and before any tenant's turn; first come first served within one.
    Priority,
    /// Earliest deadline; a call without one counts as due at its queue timeout.
    EarliestDeadline,
}

/// How many batches may be in flight to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Window {
    /// Learned with [`Dispatch::Adaptive`]; [`EAGER_WINDOW`] with [`Dispatch::Eager`].
    #[default]
    Auto,
    /// As [`Window::Auto`] says, but never fewer and never more than this; 0 counts as 1.
    Within {
        /// Never fewer.
        min: usize,
        /// Never more; at least `min`.
        max: usize,
    },
    /// Exactly this many; 0 counts as 1.
    Fixed(usize),
}

/// The window of [`Dispatch::Eager`] when none is given: enough to keep a small pool of workers
/// busy, and few enough to fill batches in front of a serial upstream.
pub const EAGER_WINDOW: usize = 4;

/// Bounds of a whole batcher, whatever its routes say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most keys held, idle ones included; the idle one that was used longest ago makes room.
    pub max_keys: usize,
    /// Most bytes of key text held by idle keys.
    pub max_idle_key_bytes: usize,
    /// Most items queued over all keys.
    pub max_queued_items: usize,
    /// Most bytes queued over all keys.
    pub max_queued_bytes: usize,
    /// The learned window never exceeds this.
    pub max_window: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_keys: 1024,
            max_idle_key_bytes: 1 << 20,
            max_queued_items: 1 << 16,
            max_queued_bytes: 256 << 20,
            max_window: 256,
        }
    }
}
