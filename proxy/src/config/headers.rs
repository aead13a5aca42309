//! The flags that say what becomes of the heads of requests.

use clap::{Args, ValueEnum};
use jitney_api::{Forwarded, HeaderRules, Pseudonym, RequestId};

/// What becomes of the heads of requests at the listeners that flags describe; what a Listener document
/// says of its own is there.
#[derive(Clone, Debug, Args)]
pub struct HeaderArgs {
    /// What becomes of X-Forwarded-* and Forwarded at --listen, --inbound and --outbound.
    #[arg(long, env = "JITNEY_FORWARDED", value_name = "WHAT", default_value = "keep")]
    forwarded: ForwardedFlag,

    /// What becomes of x-request-id, likewise.
    #[arg(long, env = "JITNEY_REQUEST_ID", value_name = "WHAT", default_value = "keep")]
    request_id: RequestIdFlag,

    /// The name to enter in Via, likewise; a request that has it five times gets a 508.
    #[arg(long, env = "JITNEY_VIA", value_name = "NAME")]
    via: Option<Pseudonym>,
}

/// As [`Forwarded`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ForwardedFlag {
    /// Pass them as they came.
    Keep,
    /// Add the caller's address.
    Append,
    /// Remove them, and say what is known here.
    Replace,
    /// Remove them.
    Remove,
}

/// As [`RequestId`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RequestIdFlag {
    /// Pass it as it came.
    Keep,
    /// Make one where there is none.
    Make,
}

impl HeaderArgs {
    /// What becomes of heads.
    pub fn rules(&self) -> HeaderRules {
        HeaderRules {
            forwarded: match self.forwarded {
                ForwardedFlag::Keep => Forwarded::Keep,
                ForwardedFlag::Append => Forwarded::Append,
                ForwardedFlag::Replace => Forwarded::Replace,
                ForwardedFlag::Remove => Forwarded::Remove,
            },
            request_id: match self.request_id {
                RequestIdFlag::Keep => RequestId::Keep,
                RequestIdFlag::Make => RequestId::Make,
            },
            via: self.via.clone(),
        }
    }
}
