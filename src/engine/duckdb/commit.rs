//! How a captured transaction reaches the sink, and the page map with it.

use std::collections::BTreeMap;

use super::file::Head;
use super::position::Position;
use super::source::{Change, DuckdbSource, Flow, Step};
use crate::checksum::WalHash;
use crate::engine::{NewCommit, TransactionSink};
use crate::position::{CommitKind, Lengths};

/// A transaction that is being put together.
pub(super) struct Plan {
    /// By page; pages that do not change may be among them, for their keys.
    pub changes: BTreeMap<u64, Change>,
    pub main_len: u64,
    pub wal_len: u64,
    pub wal_hash: WalHash,
    pub kind: CommitKind,
    /// Commits since the last one whose WAL is empty, or may be taken for empty: nothing of it is needed later.
    pub since_flip: u64,
}

impl DuckdbSource {
    /// A transaction that changes nothing yet.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            changes: BTreeMap::new(),
            main_len: self.main_len(),
            wal_len: self.tail.len,
            wal_hash: self.tail.hash.clone(),
            kind: CommitKind::Captured,
            since_flip: self.since_flip + 1,
        }
    }

    /// Runs `body` between `begin` and, should it fail, `abandon`.
    pub(super) fn transaction<T>(
        &mut self,
        sink: &mut dyn TransactionSink,
        body: impl FnOnce(&mut Self, &mut dyn TransactionSink) -> Step<T>,
    ) -> Step<T> {
        sink.begin(self.chain.iteration.head.grid())?;
        let result = body(self, sink);
        if result.is_err() {
            sink.abandon();
        }
        result
    }

    /// Commits `plan` as a state under `head`. The page map moves only if the sink took it.
    pub(super) fn finish(&mut self, sink: &mut dyn TransactionSink, plan: &Plan, head: &Head) -> Step<()> {
        let grid = self.map.grid();
        let pages = grid.pages(plan.main_len);
        let mut sum = self.map.sum();
        for page in pages..self.map.len() {
            sum ^= self.map.get(page);
        }
        for (&page, change) in plan.changes.range(..pages) {
            let before = self.map.get(page);
            if before != change.hash {
                sum ^= before ^ change.hash;
                if plan.kind != CommitKind::Initial {
                    sink.page(page, change.hash)?;
                }
            }
        }
        let position = Position {
            head: head.slots_hash(),
            file: self.main.key,
            wal_len: plan.wal_len,
            wal_hash: plan.wal_hash.value(),
            since_flip: plan.since_flip,
        };
        let txid = sink.commit(NewCommit {
            lengths: Lengths { main: plan.main_len, wal: plan.wal_len },
            checksum: sum ^ plan.wal_hash.value(),
            kind: plan.kind,
            position: &position.encode(),
        })?;
        self.map.set_len(pages);
        for (&page, change) in plan.changes.range(..pages) {
            self.map.set(page, change.hash);
            if let (Some(key), Some(block)) = (change.key, page.checked_sub(1)) {
                self.set_key(block, key);
            }
        }
        (self.txid, self.since_flip) = (txid, plan.since_flip);
        self.waits.unsettled = None;
        Ok(())
    }
}

impl From<crate::engine::EngineError> for Flow {
    fn from(error: crate::engine::EngineError) -> Self {
        Flow::Fail(error)
    }
}

impl From<crate::engine::SinkError> for Flow {
    fn from(error: crate::engine::SinkError) -> Self {
        Flow::Fail(error.into())
    }
}
