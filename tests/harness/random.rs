//! Seeded randomness for scripts: small, the same on every machine, and its seed is printed.

/// A SplitMix64 generator (Steele, Lea, Flood 2014): every seed is a good one.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that repeats itself for one seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of this run: `JITNEY_SEED`, or the process's id and clock. Printed, so that a
    /// failure can be repeated.
    ///
    /// # Panics
    /// If `JITNEY_SEED` is not a number.
    pub fn for_run(what: &str) -> Self {
        let seed = std::env::var("JITNEY_SEED").map_or_else(
            |_| {
                let since = std::time::UNIX_EPOCH
                    .elapsed()
                    .map_or(0, |age| u64::from(age.subsec_nanos()));
                since << 20 ^ u64::from(std::process::id())
            },
            |text| text.parse().expect("JITNEY_SEED is a number"),
        );
        #[expect(
            clippy::print_stdout,
            reason = "a failing run must be repeatable from its output"
        )]
        {
            println!("{what}: JITNEY_SEED={seed}");
        }
        Self(seed)
    }

    /// A generator of its own for one part of a script, whatever the others draw.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits().checked_rem(bound).unwrap_or(0)
    }

    /// A place in something of length `len`; 0 for a length of 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
