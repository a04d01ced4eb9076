//! The mark that stands in a replica before anything is deleted: what is going to be, and which commits were.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::inventory::{Gap, Inventory};
use crate::position::{ParseError, Txid};

/// Objects that one mark may name, a bound for its size: some 8 MB. What is beyond it waits for the next one.
pub const MAX_MARKED: usize = 100_000;
/// Bytes of a mark that are read; more is not ours.
pub const MAX_MARK_BYTES: usize = 32 << 20;

/// Commits `0..=1` are no longer held one by one because somebody wanted it so.
pub type Range = (Txid, Txid);

/// What a mark holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Mark {
    /// Sorted, apart from each other. Those of all marks before this one are in it.
    pub pruned: Vec<Range>,
    /// Names of the objects that may be deleted when the grace time is over, if they still need not be kept then.
    pub delete: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    /// First and last txid, as hexadecimal numbers like in names.
    pruned: Vec<(String, String)>,
    delete: BTreeSet<String>,
}

impl From<Mark> for Written {
    fn from(mark: Mark) -> Written {
        let pruned = mark.pruned.iter().map(|(first, last)| (first.to_string(), last.to_string())).collect();
        Written { pruned, delete: mark.delete }
    }
}

impl TryFrom<Written> for Mark {
    type Error = ParseError;

    fn try_from(written: Written) -> Result<Mark, ParseError> {
        let range = |(first, last): &(String, String)| {
            let (from, to): (Txid, Txid) = (first.parse()?, last.parse()?);
            let backwards = || ParseError { expected: "a first and a last txid", found: format!("{first} to {last}") };
            if from <= to { Ok((from, to)) } else { Err(backwards()) }
        };
        let pruned: Result<Vec<Range>, ParseError> = written.pruned.iter().map(range).collect();
        Ok(Mark { pruned: union(pruned?), delete: written.delete })
    }
}

/// Sorts ranges and joins those that touch.
pub fn union(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first.0 <= before.1.0.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What of `ranges` is in none of `others`; both sorted and apart.
pub fn without(ranges: &[Range], others: &[Range]) -> Vec<Range> {
    let mut rest = Vec::new();
    for &(first, last) in ranges {
        let mut next = first;
        let at = others.partition_point(|other| other.1 < first);
        for other in others[at..].iter().take_while(|other| other.0 <= last) {
            if other.0 > next {
                rest.push((next, Txid(other.0.0 - 1)));
            }
            next = next.max(Txid(other.1.0.saturating_add(1)));
        }
        if next <= last {
            rest.push((next, last));
        }
    }
    rest
}

/// Does one of `ranges` (sorted and apart) hold all of `first..=last`?
pub fn holds(ranges: &[Range], first: Txid, last: Txid) -> bool {
    let at = ranges.partition_point(|range| range.0 <= first);
    at > 0 && ranges[at - 1].1 >= last
}

/// The gaps of a history, told apart: what was lost, and what was pruned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps {
    pub lost: Vec<Gap>,
    pub pruned: Vec<Gap>,
}

impl Gaps {
    /// `pruned` is what the marks of the generation say.
    pub fn new(inventory: &Inventory, pruned: &[Range]) -> Gaps {
        let (pruned, lost) = inventory.gaps().into_iter().partition(|gap| holds(pruned, gap.first, gap.last));
        Gaps { lost, pruned }
    }
}
