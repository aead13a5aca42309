//! Why a call travels alone: forwarded untouched, with its reason counted.

/// The reason a call on a batching route is forwarded on its own.
///
/// [`Bypass::as_str`] is the value of the `reason` label of `jitney_bypass_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bypass {
    /// The request carries `Idempotency-Key`.
    IdempotencyKey,
    /// The request is signed: RFC 9421, AWS SigV4 or DPoP.
    Signed,
    /// `Cache-Control: no-transform` (RFC 9110 section 7.7).
    NoTransform,
    /// The request carries `Expect`.
    Expect,
    /// `Range` or a conditional `If-*` field.
    Conditional,
    /// An upgrade or CONNECT.
    Upgrade,
    /// The request announces or carries trailers.
    Trailers,
    /// A body whose length exceeds what one batch may hold, or more items than `maxSize`.
    TooLarge,
    /// The body is content-coded (`Content-Encoding`).
    Coded,
    /// The body or path does not parse as the codec's convention.
    Unparsable,
    /// A member of the body's top level appears twice.
    DuplicateMember,
    /// The call carries no item.
    Empty,
    /// The method or kind of operation may not be merged by this codec.
    Kind,
    /// A JSON-RPC notification: nothing would come back to split.
    Notification,
    /// An identifier that cannot be told apart once merged.
    AmbiguousId,
    /// A method that is not idempotent on an all-or-nothing codec, without leave to replay.
    NotReplayable,
    /// The caller asked for it with `x-jitney-batch: never`.
    OptOut,
    /// The caller or its body made batches fail before.
    Quarantined,
    /// The upstream set a cookie on a batch reply of this route.
    SetCookie,
    /// Too many distinct keys are open.
    TooManyKeys,
    /// The bodies that are waited for take as much memory as they may.
    Memory,
    /// The policy's mode is `Disabled`.
    Disabled,
    /// The policy's mode is `Shadow`: a batch would have been formed.
    Shadow,
}

impl Bypass {
    /// Every reason, in the order of declaration.
    pub const ALL: &'static [Self] = &[
        Self::IdempotencyKey,
        Self::Signed,
        Self::NoTransform,
        Self::Expect,
        Self::Conditional,
        Self::Upgrade,
        Self::Trailers,
        Self::TooLarge,
        Self::Coded,
        Self::Unparsable,
        Self::DuplicateMember,
        Self::Empty,
        Self::Kind,
        Self::Notification,
        Self::AmbiguousId,
        Self::NotReplayable,
        Self::OptOut,
        Self::Quarantined,
        Self::SetCookie,
        Self::TooManyKeys,
        Self::Memory,
        Self::Disabled,
        Self::Shadow,
    ];

    /// The reason as a metric label and in `explain`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IdempotencyKey => "idempotency_key",
            Self::Signed => "signed",
            Self::NoTransform => "no_transform",
            Self::Expect => "expect",
            Self::Conditional => "conditional",
            Self::Upgrade => "upgrade",
            Self::Trailers => "trailers",
            Self::TooLarge => "too_large",
            Self::Coded => "coded",
            Self::Unparsable => "unparsable",
            Self::DuplicateMember => "duplicate_member",
            Self::Empty => "empty",
            Self::Kind => "kind",
            Self::Notification => "notification",
            Self::AmbiguousId => "ambiguous_id",
            Self::NotReplayable => "not_replayable",
            Self::OptOut => "opt_out",
            Self::Quarantined => "quarantined",
            Self::SetCookie => "set_cookie",
            Self::TooManyKeys => "too_many_keys",
            Self::Memory => "memory",
            Self::Disabled => "disabled",
            Self::Shadow => "shadow",
        }
    }
}

impl std::fmt::Display for Bypass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
