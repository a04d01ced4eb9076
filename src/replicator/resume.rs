//! Where to go on: pure, from what local state and the replicas say of themselves.
//!
//! | local state | replicas | decision |
//! |---|---|---|
//! | none | none has a history | a new generation |
//! | none | some have | go on behind the newest of them |
//! | there | all stand on its line | go on behind local state |
//! | is behind a replica, or contradicts it | no other replica is further | go on behind that replica: others may have restored from it |
//! | contradicts one replica | another one is further | a new generation: no line suits both |

use crate::inventory::Inventory;
use crate::position::{Generation, Term};
use crate::segment::Index;
use crate::spool::{Object, ResumePoint, Spool};
use crate::status::Place;

/// What a replica said when it was first asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its newest generation; `None` when it has none.
    pub inventory: Option<Inventory>,
    /// The newest commit of that generation; `None` when there is none.
    pub point: Option<ResumePoint>,
}

impl Contact {
    pub fn generation(&self) -> Option<Generation> {
        self.inventory.as_ref().map(|inventory| inventory.generation)
    }

    pub fn place(&self) -> Option<Place> {
        self.point.as_ref().map(ResumePoint::place)
    }

    /// The highest term that was claimed or written with in a generation.
    pub fn term(&self, generation: Generation) -> Option<Term> {
        let inventory = self.inventory.as_ref().filter(|inventory| inventory.generation == generation)?;
        let written = inventory.segments.iter().map(|listed| listed.name.term);
        let snapshots = inventory.snapshots.iter().map(|listed| listed.name.term);
        inventory.terms.iter().copied().chain(written).chain(snapshots).max()
    }
}

/// The resume point that a segment's index states.
pub fn point_of(index: &Index) -> ResumePoint {
    ResumePoint {
        generation: index.header.generation,
        term: index.header.term,
        engine: index.header.engine,
        commit: index.last().clone(),
        position: index.position.clone(),
    }
}

/// Where a line of history ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub place: Place,
    pub term: Term,
    /// The database checksum there.
    pub checksum: u64,
}

impl From<&ResumePoint> for End {
    fn from(point: &ResumePoint) -> End {
        End { place: point.place(), term: point.term, checksum: point.commit.checksum }
    }
}

impl From<&Object> for End {
    fn from(object: &Object) -> End {
        End { place: object.last(), term: object.name.term, checksum: object.checksum }
    }
}

/// How a replica stands to local state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It has no history, or only that of an older generation.
    Fresh,
    /// It holds a prefix of what local state says, and the spool has the rest.
    OnOurLine,
    /// It holds less, and the spool no longer has what comes next.
    Lacks,
    /// It holds commits, or a generation, that local state knows nothing of.
    Ahead,
    /// It holds other commits under the same numbers.
    Contradicts,
}

/// How a replica stands to a history that ends at `local` and whose end the spool holds.
pub fn relate(local: End, spool: &Spool, contact: &Contact) -> Relation {
    let Some(remote) = contact.point.as_ref().map(End::from) else {
        // A claim in a newer generation that has no commit yet: somebody is about to write there.
        let is_newer = contact.generation().is_some_and(|generation| generation > local.place.generation);
        return if is_newer { Relation::Ahead } else { Relation::Fresh };
    };
    if remote.place.generation < local.place.generation {
        return Relation::Fresh;
    }
    if remote.place > local.place {
        return Relation::Ahead;
    }
    if remote.place == local.place {
        let same = remote.checksum == local.checksum;
        return if same { Relation::OnOurLine } else { Relation::Contradicts };
    }
    if remote.term > local.term {
        // Another writer took over after ours had written what is in the spool.
        return Relation::Contradicts;
    }
    match spool.next_after(remote.place).filter(|next| next.name.generation == local.place.generation) {
        Some(next) if Some(next.name.first) == remote.place.txid.checked_next() => {
            let connects = spool.connects(remote.place, remote.checksum);
            if connects { Relation::OnOurLine } else { Relation::Contradicts }
        }
        // A segment that begins at or before the replica's end and goes beyond it: other bounds than the replica's.
        Some(next) if next.name.first <= remote.place.txid => Relation::Contradicts,
        _ => Relation::Lacks,
    }
}

/// What a starting writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Goes on behind local state.
    Local,
    /// Goes on behind what this replica holds. `is_rollback`: local state knew less or other things than it does.
    Adopt { replica: usize, is_rollback: bool },
    /// Begins a new generation: there is no history anywhere.
    First,
    /// Begins a new generation: histories contradict each other.
    Contradiction,
}

/// Decides. `contacts` of replicas that did not answer are `None`.
pub fn decide(local: Option<&ResumePoint>, spool: &Spool, contacts: &[Option<Contact>]) -> Decision {
    let answered = || contacts.iter().enumerate().filter_map(|(n, contact)| Some((n, contact.as_ref()?)));
    let newest = |of: &dyn Fn(&Contact) -> bool| {
        let candidates = answered().filter(|(_, contact)| of(contact));
        // Of equals, the replica that is named first.
        candidates
            .filter_map(|(n, contact)| Some((contact.place()?, n)))
            .max_by_key(|&(place, n)| (place, std::cmp::Reverse(n)))
    };
    let Some(local) = local else {
        return match newest(&|_| true) {
            Some((_, replica)) => Decision::Adopt { replica, is_rollback: false },
            None => Decision::First,
        };
    };
    let is_foreign =
        |contact: &Contact| matches!(relate(local.into(), spool, contact), Relation::Ahead | Relation::Contradicts);
    if !answered().any(|(_, contact)| is_foreign(contact)) {
        return Decision::Local;
    }
    // Without a place: a newer generation in which nothing was written yet.
    let Some((place, replica)) = newest(&is_foreign) else { return Decision::Contradiction };
    let is_beyond = |contact: &Contact| contact.place().is_some_and(|other| other > place);
    if answered().any(|(_, contact)| is_beyond(contact)) {
        return Decision::Contradiction;
    }
    Decision::Adopt { replica, is_rollback: true }
}

/// The term that this process claims in `generation`: above every one that is known of. `None` after 2^32 of them.
pub fn next_term(generation: Generation, local: Option<Term>, contacts: &[Option<Contact>]) -> Option<Term> {
    let remote = contacts.iter().flatten().filter_map(|contact| contact.term(generation));
    remote.chain(local).max().map_or(Some(Term(1)), Term::next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineKind;
    use crate::extent::PageGrid;
    use crate::position::{Commit, CommitKind, Lengths, TimeMs, Txid};
    use crate::spool::Disk;
    use crate::status::{Status, system_clock};

    fn point(generation: u64, txid: u64, checksum: u64) -> ResumePoint {
        let commit = Commit {
            txid: Txid(txid),
            time: TimeMs(txid),
            lengths: Lengths { main: 512, wal: 0 },
            checksum,
            kind: CommitKind::Captured,
            grid: PageGrid::new(0, 512).expect("a valid grid"),
        };
        let (generation, term) = (Generation(generation), Term(1));
        ResumePoint { generation, term, engine: EngineKind::Sqlite, commit, position: Vec::new() }
    }

    fn at(generation: u64, txid: u64, checksum: u64) -> Option<Contact> {
        let inventory = Some(Inventory::new(Generation(generation), []));
        Some(Contact { inventory, point: Some(point(generation, txid, checksum)) })
    }

    /// Every row of the table in this module's head, and what becomes of replicas that do not answer.
    #[test]
    fn every_constellation_has_a_decision() {
        let directory = tempfile::tempdir().expect("a directory");
        let status = Status::new("test", [], 1, system_clock());
        let spool = Spool::open(directory.path(), 1, 0, Disk::default(), status).expect("opened");
        let empty = Some(Contact { inventory: None, point: None });
        let claimed = Some(Contact { inventory: Some(Inventory::new(Generation(9), [])), point: None });
        let adopt = |replica, is_rollback| Decision::Adopt { replica, is_rollback };
        let local = point(5, 10, 77);
        for (local, contacts, expected) in [
            (None, vec![], Decision::First),
            (None, vec![empty.clone(), None], Decision::First),
            (None, vec![empty.clone(), at(5, 3, 1), at(5, 9, 1)], adopt(2, false)),
            (None, vec![at(5, 9, 1), at(5, 9, 1)], adopt(0, false)),
            (None, vec![at(5, 9, 1), at(6, 1, 1)], adopt(1, false)),
            (Some(&local), vec![], Decision::Local),
            (Some(&local), vec![empty.clone(), None, at(5, 10, 77), at(4, 99, 1)], Decision::Local),
            // The spool has nothing behind commit 9: a gap in that replica, and no reason to leave our line.
            (Some(&local), vec![at(5, 9, 1)], Decision::Local),
            (Some(&local), vec![at(5, 10, 78)], adopt(0, true)),
            (Some(&local), vec![at(5, 10, 77), at(5, 12, 1)], adopt(1, true)),
            (Some(&local), vec![at(6, 1, 1), at(5, 12, 1)], adopt(0, true)),
            (Some(&local), vec![claimed], Decision::Contradiction),
        ] {
            assert_eq!(decide(local, &spool, &contacts), expected, "{local:?} {contacts:?}");
        }
    }

    /// A claim is above everything that was claimed or written in that generation, here or there.
    #[test]
    fn a_claim_is_above_all_others() {
        let mut inventory = Inventory::new(Generation(5), []);
        inventory.terms = vec![Term(3), Term(8)];
        let contacts = [Some(Contact { inventory: Some(inventory), point: None }), None];
        assert_eq!(next_term(Generation(5), None, &contacts), Some(Term(9)));
        assert_eq!(next_term(Generation(5), Some(Term(20)), &contacts), Some(Term(21)));
        assert_eq!(next_term(Generation(6), None, &contacts), Some(Term(1)));
        assert_eq!(next_term(Generation(6), Some(Term(u32::MAX)), &contacts), None);
    }
}
