//! The hand-over-hand hold: two connections, at least one of which has a read transaction open at every instant.
//!
//! A transaction on a read mark keeps every frame of the WAL from being overwritten. One on slot 0 (taken when a checkpoint has
//! copied everything into the file) lets the WAL start over once, and keeps the new life from being checkpointed, hence
//! from starting over again. So as long as a transaction is ended only after another was begun *and* everything published
//! since was captured, no committed frame can vanish unseen.

use std::path::Path;
use std::time::{Duration, Instant};

use super::connection::{Checkpoint, Connection};
use super::wal::Salts;
use super::wal_index::IndexHeader;
use crate::engine::EngineError;

/// How long the fence waits for a foreign checkpoint to end before the roll goes on without it.
const FENCE_LIMIT: Duration = Duration::from_millis(20);

/// What a read transaction is known to pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub salts: Salts,
    /// Frames up to here may be checkpointed under it; the true mark may be higher.
    pub frame: u32,
    /// It may be on slot 0, so that the WAL may start over under it.
    pub may_be_zero: bool,
}

/// The two connections.
pub(super) struct Hold {
    holder: Connection,
    spare: Connection,
    mark: Mark,
    spare_mark: Option<Mark>,
    /// The life of the WAL in which no checkpoint of the life before can be under way any more.
    fenced: Salts,
    fencing_since: Option<(Salts, Instant)>,
}

impl Hold {
    /// Takes the first lock. Creates the `-wal` and `-shm` files if they are missing, as any reader does.
    pub(super) fn take(path: &Path) -> Result<(Hold, IndexHeader), EngineError> {
        let (holder, spare) = (Connection::open(path)?, Connection::open(path)?);
        holder.begin()?;
        // A connection that never read the WAL would take a checkpoint for an empty one.
        spare.begin()?;
        spare.end();
        let published = holder.index_header_waiting()?;
        let mark = Mark { salts: published.salts, frame: 0, may_be_zero: true };
        let fenced = published.salts;
        Ok((Hold { holder, spare, mark, spare_mark: None, fenced, fencing_since: None }, published))
    }

    /// The connection to read through: its transaction is open.
    pub(super) fn reader(&self) -> &Connection {
        &self.holder
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Makes sure that no checkpointer still works by a header from before the WAL started over: SQLite before 3.51.3
    /// would then corrupt the database once our lock on slot 0 is gone. `false`: try again in a moment.
    pub(super) fn fence(&mut self, published: &IndexHeader, now: Instant) -> Result<bool, EngineError> {
        if self.fenced == published.salts || published.last_frame == 0 {
            return Ok(true);
        }
        // Our transaction on slot 0 keeps this checkpoint from copying anything; it only waits for the checkpoint lock.
        if self.spare.checkpoint()? == Checkpoint::Busy {
            let since = match self.fencing_since {
                Some((salts, since)) if salts == published.salts => since,
                _ => self.fencing_since.insert((published.salts, now)).1,
            };
            if now.duration_since(since) < FENCE_LIMIT {
                return Ok(false);
            }
        }
        self.fenced = published.salts;
        self.fencing_since = None;
        Ok(true)
    }

    /// Begins the second transaction. `None` when SQLite is busy; the first one stays.
    pub(super) fn begin_next(&mut self) -> Result<Option<Mark>, EngineError> {
        let before = self.holder.index_header()?;
        match self.spare.begin() {
            Ok(()) => {}
            Err(EngineError::Busy(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let after = self.holder.index_header()?;
        self.spare_mark = Some(between(before, after));
        Ok(self.spare_mark)
    }

    /// Ends the first transaction; the second becomes the hold. The caller has captured everything published since it began,
    /// and made it durable if the second may be on slot 0.
    pub(super) fn end_previous(&mut self) {
        let mark = self.spare_mark.take().expect("a second transaction was begun");
        self.holder.end();
        std::mem::swap(&mut self.holder, &mut self.spare);
        self.mark = mark;
    }

    /// Ends the second transaction; the first stays.
    pub(super) fn cancel_next(&mut self) {
        self.spare_mark = None;
        self.spare.end();
    }

    /// Lets SQLite copy frames into the file, up to the marks of all readers. No lock of a writer is held.
    pub(super) fn checkpoint(&mut self) -> Result<Checkpoint, EngineError> {
        self.spare.checkpoint()
    }

    /// Takes the write lock on the second connection, if it is free: nothing is committed until `unlock_writers`.
    pub(super) fn lock_writers(&mut self) -> Result<bool, EngineError> {
        self.spare.try_write_lock()
    }

    pub(super) fn unlock_writers(&mut self) {
        self.spare.end();
    }

    /// Under the write lock, everything captured and durable: copies the last frames into the file and takes slot 0. The second
    /// connection's transaction holds the WAL meanwhile. `false`: the first transaction could not be begun again.
    pub(super) fn checkpoint_all(&mut self) -> Result<bool, EngineError> {
        self.holder.end();
        let mut outcome = self.holder.checkpoint();
        for _ in 0..CHECKPOINT_TRIES {
            match outcome {
                // An automatic checkpoint of the writer that is locked out: it ends by itself.
                Ok(Checkpoint::Busy) => std::thread::sleep(Duration::from_millis(1)),
                _ => break,
            }
            outcome = self.holder.checkpoint();
        }
        let before = self.spare.index_header()?;
        for _ in 0..BEGIN_TRIES {
            match self.holder.begin() {
                Ok(()) => {
                    self.mark = between(before, self.spare.index_header()?);
                    return outcome.map(|_| true);
                }
                Err(EngineError::Busy(_)) => std::thread::sleep(Duration::from_micros(200)),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// How often `checkpoint_all` tries to checkpoint while another checkpoint runs, 1 ms apart.
const CHECKPOINT_TRIES: u32 = 50;
/// How often `checkpoint_all` tries to begin its transaction again, 0.2 ms apart.
const BEGIN_TRIES: u32 = 50;

/// What a transaction pins that was begun between two looks at the wal-index.
fn between(before: Option<IndexHeader>, after: Option<IndexHeader>) -> Mark {
    match (before, after) {
        (Some(before), Some(after)) if before.salts == after.salts => Mark {
            salts: after.salts,
            frame: before.last_frame,
            // Within a life of the WAL the number of copied frames only grows.
            may_be_zero: after.backfilled >= before.last_frame,
        },
        (_, after) => Mark { salts: after.map_or(Salts::default(), |after| after.salts), frame: 0, may_be_zero: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sqlite::wal::{ByteOrder, Checksum};

    fn header(salt: u32, last_frame: u32, backfilled: u32) -> IndexHeader {
        IndexHeader {
            change: 0,
            order: ByteOrder::Little,
            page_size: 4096,
            last_frame,
            pages: 1,
            checksum: Checksum::default(),
            salts: Salts(salt, 0),
            backfilled,
        }
    }

    /// A mark is never taken for more than it surely is.
    #[test]
    fn loss_3_a_mark_is_a_lower_bound() {
        let mark = between(Some(header(1, 10, 3)), Some(header(1, 12, 9)));
        assert_eq!(mark, Mark { salts: Salts(1, 0), frame: 10, may_be_zero: false });
        assert!(between(Some(header(1, 10, 3)), Some(header(1, 12, 10))).may_be_zero);
        assert_eq!(between(Some(header(1, 10, 3)), Some(header(2, 1, 0))).frame, 0);
        assert!(between(Some(header(1, 10, 3)), Some(header(2, 1, 0))).may_be_zero);
        assert!(between(None, Some(header(2, 1, 0))).may_be_zero);
    }
}
