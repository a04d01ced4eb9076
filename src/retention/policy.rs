//! What is to be kept, as somebody wrote it.

use std::fmt;
use std::time::Duration;

/// How many of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Number(u32),
    Forever,
}

impl Count {
    /// Is there room for one more?
    pub(super) fn exceeds(self, taken: usize) -> bool {
        match self {
            Count::Number(number) => taken < usize::try_from(number).unwrap_or(usize::MAX),
            Count::Forever => true,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Number(number) => write!(f, "{number}"),
            Count::Forever => f.write_str("forever"),
        }
    }
}

/// A unit of the calendar, in UTC. Weeks begin on Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Calendar {
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Calendar {
    pub const ALL: [Calendar; 5] =
        [Calendar::Hourly, Calendar::Daily, Calendar::Weekly, Calendar::Monthly, Calendar::Yearly];

    /// The key of the configuration.
    pub fn key(self) -> &'static str {
        ["hourly", "daily", "weekly", "monthly", "yearly"][self as usize]
    }

    pub(super) fn unit(self) -> &'static str {
        ["hour", "day", "week", "month", "year"][self as usize]
    }
}

/// What is kept in one replica. What no rule keeps may go; the newest restorable point always stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Every commit of this time stays individually restorable.
    pub commits: Option<Duration>,
    /// Every snapshot of this time stays, and the way from each to the next.
    pub keep_within: Option<Duration>,
    /// So many of the newest snapshots stay.
    pub keep_last: Option<Count>,
    /// Where all other rules keep fewer snapshots than this, the newest of the others stay too.
    pub keep_min: Option<Count>,
    /// By unit of the calendar: the newest snapshot of each of the so many last units that have one.
    pub calendar: [Option<Count>; 5],
}

impl Policy {
    /// Says nothing at all: whoever wrote it cannot have meant that everything goes.
    pub fn is_empty(&self) -> bool {
        *self == Policy::default()
    }

    pub fn by(&self, unit: Calendar) -> Option<Count> {
        self.calendar[unit as usize]
    }

    /// Its rules as they are written, in order: key and value.
    pub fn rules(&self, show: impl Fn(Duration) -> String) -> Vec<(&'static str, String)> {
        let durations = [("commits", self.commits), ("keep-within", self.keep_within)];
        let counts = [("keep-last", self.keep_last), ("keep-min", self.keep_min)];
        let calendar = Calendar::ALL.map(|unit| (unit.key(), self.by(unit)));
        let durations = durations.into_iter().filter_map(|(key, value)| Some((key, show(value?))));
        let counts = counts.into_iter().chain(calendar).filter_map(|(key, value)| Some((key, value?.to_string())));
        durations.chain(counts).collect()
    }
}
