//! The number of a timeline: one unbroken history of the log. Each promotion begins a new one.

use std::fmt;
use std::str::FromStr;

/// A timeline's number. The first is 1; a child's is always greater than its parent's; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// No timeline.
    pub const INVALID: TimelineId = TimelineId(0);
    /// The timeline on which every database begins. It has no history file.
    pub const FIRST: TimelineId = TimelineId(1);

    /// Whether this is a timeline at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TimelineId {
    type Err = std::num::ParseIntError;

    /// Decimal, as in replication commands and messages.
    fn from_str(text: &str) -> Result<TimelineId, Self::Err> {
        text.parse().map(TimelineId)
    }
}
