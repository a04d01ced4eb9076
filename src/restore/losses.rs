//! Saying what cannot be restored, why, and what can be instead.

use crate::inventory::{EVERY_COMMIT, Gap, Inventory, Moment, Window};
use crate::layout::SnapshotName;
use crate::position::{CommitKind, Generation, TimeMs, Txid};
use crate::restore::error::{Damage, DisplayMoment, Fault, NoSuchPoint, RestoreError};
use crate::restore::plan::reason;
use crate::restore::point::{Point, format_time};
use crate::restore::reading::Reading;
use crate::segment::Index;

/// Does any listed object hold this commit?
pub fn is_held(inventory: &Inventory, txid: Txid) -> bool {
    inventory.snapshots.iter().any(|s| s.name.txid == txid)
        || inventory.segments.iter().any(|s| (s.name.first..=s.name.last).contains(&txid))
}

/// Is this commit within what was merged, where none but the last can be restored? Segments that hold it exactly may be
/// left: they are deleted one after another.
pub fn is_merged(inventory: &Inventory, txid: Txid) -> bool {
    let mut merged = inventory.segments.iter().map(|s| s.name).filter(|name| name.level > EVERY_COMMIT);
    !inventory.snapshots.iter().any(|s| s.name.txid == txid)
        && merged.any(|name| (name.first..name.last).contains(&txid))
}

/// Says when a time lies where single commits were not captured: the commit before them is exact, and yet not all.
pub fn note_repair(index: &Index, target: Txid, time: TimeMs, notes: &mut Vec<String>) {
    let Some(next) = target.checked_next().and_then(|next| index.commit(next)) else { return };
    if let CommitKind::Repair(_) = next.commit.kind {
        notes.push(format!(
            "between txid:{} and the repair txid:{} of {} single commits were not captured ({}): what was committed there up to {} \
             cannot be told apart",
            target.0,
            next.commit.txid.0,
            format_time(next.commit.time),
            reason(next.commit.kind).unwrap_or_default(),
            format_time(time),
        ));
    }
}

pub fn unusable(snapshot: &SnapshotName, gap: &Gap) -> String {
    format!(
        "the snapshot txid:{} cannot be used: txid:{} to txid:{} are missing after it",
        snapshot.txid.0, gap.first.0, gap.last.0
    )
}

/// What of `oldest..=newest` is in no window.
pub fn outside(windows: &[Window], oldest: Txid, newest: Txid) -> Vec<(Txid, Txid)> {
    let mut lost = Vec::new();
    let mut next = oldest.0;
    for window in windows {
        if window.from.txid.0 > next {
            lost.push((Txid(next), Txid(window.from.txid.0 - 1)));
        }
        next = next.max(window.to.txid.0.saturating_add(1));
    }
    if next <= newest.0 {
        lost.push((Txid(next), newest));
    }
    lost
}

/// `windows` may be empty: then those that the names alone tell are used.
pub fn no_such_point(
    inventory: &Inventory,
    windows: &[Window],
    problem: &str,
    point: Point,
    target: Txid,
) -> RestoreError {
    let from_names;
    let windows = match windows.is_empty() {
        true => {
            from_names = inventory.windows(|_| None);
            &from_names
        }
        false => windows,
    };
    let before = windows.iter().filter(|w| w.from.txid <= target).map(|w| nearest_before(inventory, w, target)).max();
    let after = windows.iter().filter(|w| w.to.txid > target).map(|w| nearest_after(inventory, w, target)).min();
    let mut problem = format!("{point} {problem}");
    if let (Point::At(_), Some(newest), None) = (point, inventory.newest, after) {
        problem.push_str(&format!(", {}; for that one leave out --at, or say now", DisplayMoment(&newest)));
    }
    RestoreError::NoSuchPoint(NoSuchPoint { generation: inventory.generation, problem, before, after })
}

/// The last moment of `window` at or before `target` whose time is known.
fn nearest_before(inventory: &Inventory, window: &Window, target: Txid) -> Moment {
    if window.to.txid <= target {
        return window.to;
    }
    let known = inventory.moments().filter(|m| (window.from.txid..=target).contains(&m.txid)).max();
    known.unwrap_or(window.from)
}

/// The first moment of `window`, which ends after `target`, that is known to be after it.
fn nearest_after(inventory: &Inventory, window: &Window, target: Txid) -> Moment {
    if window.from.txid > target {
        return window.from;
    }
    let known = inventory.moments().filter(|m| m.txid > target && m.txid <= window.to.txid).min();
    known.unwrap_or(window.to)
}

/// Without the marker nothing is restored, and yet nothing else is lost: says what its return brings back.
pub async fn without_marker(
    reading: &Reading,
    problem: &str,
    generations: &[Generation],
) -> Result<RestoreError, RestoreError> {
    let problem = format!("{problem}; without it, what the generations hold must not be guessed: put it back");
    for &generation in generations.iter().rev() {
        let inventory = reading.inventory(generation).await.map_err(no_object)?;
        let windows = inventory.windows(|_| None);
        if !windows.is_empty() {
            let problems = vec![problem, format!("what its return brings back of generation {generation}:")];
            return Ok(RestoreError::Damaged(Damage { generation: None, problems, lost: Vec::new(), windows }));
        }
    }
    Ok(no_object_named(problem))
}

/// Where no other object can serve instead.
pub fn no_object(fault: Fault) -> RestoreError {
    match fault {
        Fault::Store(error) => RestoreError::Store(error),
        Fault::Newer { .. } => RestoreError::Newer(fault.to_string()),
        Fault::Io { doing, path, source } => RestoreError::Io { doing, path, source },
        fault @ (Fault::Object { .. } | Fault::Result(_)) => no_object_named(fault.to_string()),
    }
}

pub fn no_object_named(problem: String) -> RestoreError {
    let (lost, windows) = (Vec::new(), Vec::new());
    RestoreError::Damaged(Damage { generation: None, problems: vec![problem], lost, windows })
}
