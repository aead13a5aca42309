//! How short of memory this process is, by what its group uses and may use: first less may be queued,
//! then no call is taken on. Better a few calls with 503 than all of them lost with the process.

/// What a group of processes uses and may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Used by all of them, less what the kernel can take back at once.
    pub used: u64,
    /// The most that they may use.
    pub limit: u64,
    /// Of what is used, this process's part.
    pub own: u64,
}

/// How short of memory the process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// Little is left: less may be queued.
    Some,
    /// Next to nothing is left: calls are shed.
    Full,
}

impl Pressure {
    /// The pressure by this reading, which comes after one that gave `self`. Without a limit there is none;
    /// neither is there where others use the memory, as shedding calls would give none of it back.
    #[must_use]
    pub fn next(self, usage: Option<Usage>) -> Self {
        let Some(usage) = usage.filter(|usage| usage.own >= usage.used / OWN_SHARE) else {
            return Self::None;
        };
        let percent = u128::from(usage.used) * 100 / u128::from(usage.limit.max(1));
        // It ends somewhat lower than it began, or it would come and go with each call.
        let is_over = |mark: u128, level| percent >= mark - if self >= level { SLACK } else { 0 };
        if is_over(FULL, Self::Full) {
            Self::Full
        } else if is_over(SOME, Self::Some) {
            Self::Some
        } else {
            Self::None
        }
    }

    /// Every bound of a queue is divided by this.
    pub const fn squeeze(self) -> usize {
        match self {
            Self::None => 1,
            Self::Some | Self::Full => 8,
        }
    }
}

/// Percent of the limit at which less may be queued, and at which calls are shed: Envoy's overload manager is
/// commonly run with the like of it.
const SOME: u128 = 85;
const FULL: u128 = 95;
/// So many percent lower either ends.
const SLACK: u128 = 5;
/// Below this part of what is used, it is somebody else's doing.
const OWN_SHARE: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_comes_at_its_marks_and_goes_somewhat_below() {
        let usage = |used| {
            Some(Usage {
                used,
                limit: 1000,
                own: used,
            })
        };
        let mut pressure = Pressure::default();
        for (used, expected) in [
            (849, Pressure::None),
            (850, Pressure::Some),
            (800, Pressure::Some),
            (799, Pressure::None),
            (2000, Pressure::Full),
            (900, Pressure::Full),
            (899, Pressure::Some),
            (949, Pressure::Some),
            (950, Pressure::Full),
            (10, Pressure::None),
        ] {
            pressure = pressure.next(usage(used));
            assert_eq!(pressure, expected, "{used}");
        }
        assert_eq!(Pressure::Full.next(None), Pressure::None, "no limit any more");
    }

    #[test]
    fn memory_that_others_use_is_no_reason_to_shed() {
        let usage = |own| {
            Some(Usage {
                used: 1000,
                limit: 1000,
                own,
            })
        };
        assert_eq!(Pressure::None.next(usage(249)), Pressure::None);
        assert_eq!(Pressure::None.next(usage(250)), Pressure::Full);
    }
}
