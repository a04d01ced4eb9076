//! The small objects: claims and marks of a generation; and what stands beside the generations, the records of drills and labels.

use std::collections::BTreeSet;

use super::Verifier;
use crate::document::DocumentError;
use crate::drill::{RecordError, Records};
use crate::inventory::Inventory;
use crate::label::{LabelError, Labels};
use crate::layout::{DRILL_FOLDER, DrillName, LABEL_FOLDER, LabelEvent, LabelName, ObjectName};
use crate::position::{Generation, Term};
use crate::restore::{Fault, RestoreError, no_object};
use crate::store::{Key, StoreError};

impl Verifier<'_> {
    /// No restore reads them. Who wrote anything must have claimed its term before; where everything is read, each must be what was written.
    pub(super) async fn claims_and_marks(&mut self, inventory: &Inventory) -> Result<(), RestoreError> {
        let segments = inventory.segments.iter().chain(&inventory.dead_segments).map(|s| s.name.term);
        let snapshots = inventory.snapshots.iter().chain(&inventory.dead_snapshots).map(|s| s.name.term);
        let mut unclaimed: BTreeSet<Term> = segments.chain(snapshots).collect();
        unclaimed.retain(|term| !inventory.terms.contains(term));
        if !unclaimed.is_empty() {
            // A writer may have come between the two listings.
            let now = self.reading.inventory(inventory.generation).await.map_err(no_object)?;
            unclaimed.retain(|term| !now.terms.contains(term));
        }
        for term in unclaimed {
            let key = ObjectName::Term { generation: inventory.generation, term }.key();
            self.find(Some(inventory.generation), Some(key), "is missing: its writer's objects are there");
        }
        if !self.how.deep {
            return Ok(());
        }
        let (generation, replica) = (inventory.generation, self.reading.replica().clone());
        for &term in &inventory.terms {
            let key = ObjectName::Term { generation, term }.key();
            if self.is_chosen(&key) {
                let read = replica.claimant(generation, term).await;
                self.document(generation, key, read.map(|read| read.map(|claim| claim.is_proven))).await?;
            }
        }
        for time in replica.mark_times(generation).await? {
            let key = ObjectName::Mark { generation, time }.key();
            if self.is_chosen(&key) {
                let read = replica.read_mark(generation, time).await;
                self.document(generation, key, read.map(|read| read.map(|mark| mark.is_proven))).await?;
            }
        }
        Ok(())
    }

    async fn document(
        &mut self,
        generation: Generation,
        key: Key,
        read: Result<Result<bool, DocumentError>, StoreError>,
    ) -> Result<(), RestoreError> {
        match read {
            Ok(Ok(is_proven)) => self.tell_unproven(key, is_proven),
            Ok(Err(problem @ DocumentError::Newer { .. })) => self.report.notes.push(format!("{key} {problem}")),
            Ok(Err(problem)) => self.fault(Some(generation), Fault::object(&key, problem)).await?,
            Err(error) => self.fault(Some(generation), Fault::request(&key, error)).await?,
        }
        Ok(())
    }

    pub(super) fn tell_unproven(&mut self, key: Key, is_proven: bool) {
        if !is_proven {
            self.unproven.push(key);
        }
    }

    /// Names that are none of ours are noted. Where everything is read, what a record or a label holds must be readable.
    pub(super) async fn records(&mut self) -> Result<(), RestoreError> {
        let store = self.reading.replica().store().clone();
        let (mut drills, mut labels) = (Vec::<DrillName>::new(), Vec::<(LabelName, LabelEvent)>::new());
        for folder in [DRILL_FOLDER, LABEL_FOLDER] {
            for object in store.list(folder, None).await? {
                match (ObjectName::parse(object.key.as_str()), LabelName::parse_key(object.key.as_str())) {
                    (Some(ObjectName::Drill(name)), _) => drills.push(name),
                    (_, Some(label)) => labels.push(label),
                    _ => self.report.notes.push(format!("{} is no name of ours", object.key)),
                }
            }
        }
        if !self.how.deep {
            return Ok(());
        }
        for name in
            drills.into_iter().filter(|name| self.is_chosen(&ObjectName::Drill(*name).key())).collect::<Vec<_>>()
        {
            match Records::new(store.clone()).read(name).await {
                Ok(_) => {}
                Err(RecordError::Damaged { key, problem }) => self.fault(None, Fault::object(&key, problem)).await?,
                Err(RecordError::Store(error)) => return Err(error.into()),
            }
        }
        for (name, event) in labels {
            match Labels::new(store.clone()).prove(&name, event).await {
                Ok(Some(is_proven)) => self.tell_unproven(name.key(event), is_proven),
                // Removed from under us.
                Ok(None) => {}
                Err(LabelError::Damaged { key, problem }) => self.fault(None, Fault::object(&key, problem)).await?,
                Err(LabelError::Store(error)) => return Err(error.into()),
                Err(other) => self.find(None, Some(name.key(event)), other),
            }
        }
        Ok(())
    }
}
