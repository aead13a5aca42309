//! Conventions of the array shape, as data.

use super::{JsonArray, JsonArraySettings};
use crate::codec::{AnyCodec, CodecError};

/// A named convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name in `codec: {preset: NAME}`.
    pub name: &'static str,
    items: &'static str,
    results: &'static str,
    index: &'static str,
    scalar: bool,
    usage: &'static [&'static str],
    replay: bool,
}

/// Every preset there is.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "kserve-v1",
        items: "/instances",
        results: "/predictions",
        index: "",
        scalar: false,
        usage: &[],
        replay: true,
    },
    Preset {
        name: "tf-serving",
        items: "/instances",
        results: "/predictions",
        index: "",
        scalar: false,
        usage: &[],
        replay: true,
    },
    Preset {
        name: "openai-embeddings",
        items: "/input",
        results: "/data",
        index: "/index",
        scalar: true,
        usage: &["/usage/prompt_tokens", "/usage/total_tokens"],
        replay: true,
    },
    Preset {
        name: "tei-embed",
        items: "/inputs",
        results: "",
        index: "",
        scalar: true,
        usage: &[],
        replay: true,
    },
];

impl Preset {
    /// The preset of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// True when the convention's calls are pure, so that a route's default is
    /// `onFailure.replay: Declared`: a prediction changes nothing.
    pub const fn declares_replay(&self) -> bool {
        self.replay
    }

    /// The preset as settings, to be read or changed.
    pub fn settings(&self) -> JsonArraySettings {
        JsonArraySettings {
            items: self.items.to_owned(),
            results: self.results.to_owned(),
            index: self.index.to_owned(),
            invariants: Vec::new(),
            scalar: self.scalar,
            usage: self.usage.iter().map(|&pointer| pointer.to_owned()).collect(),
        }
    }

    /// The preset's codec.
    ///
    /// # Errors
    /// Never: each preset of [`PRESETS`] is tested.
    pub fn codec(&self) -> Result<AnyCodec, CodecError> {
        JsonArray::new(&self.settings()).map(AnyCodec::JsonArray)
    }
}

impl JsonArray {
    /// The codec of a preset.
    ///
    /// # Errors
    /// When there is no preset of that name; see [`PRESETS`].
    pub fn preset(name: &str) -> Result<Self, CodecError> {
        let expected = "one of kserve-v1, tf-serving, openai-embeddings, tei-embed";
        let unknown = || CodecError {
            field: "preset",
            value: name.to_owned(),
            expected,
        };
        Self::new(&Preset::find(name).ok_or_else(unknown)?.settings())
    }
}
