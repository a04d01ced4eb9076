//! What stands beside the generations: the records of drills, and labels.

use super::Verifier;
use crate::drill::{RecordError, Records};
use crate::label::{LabelError, Labels};
use crate::layout::{DRILL_FOLDER, DrillName, LABEL_FOLDER, LabelEvent, LabelName, ObjectName};
use crate::restore::{Fault, RestoreError};

impl Verifier<'_> {
    /// Names that are none of ours are noted. Where everything is read, what a record or a label holds must be readable.
    pub(super) async fn records(&mut self) -> Result<(), RestoreError> {
        let store = self.reading.replica().store().clone();
        let (mut drills, mut labels): (Vec<DrillName>, Vec<LabelName>) = (Vec::new(), Vec::new());
        for folder in [DRILL_FOLDER, LABEL_FOLDER] {
            for object in store.list(folder, None).await? {
                match (ObjectName::parse(object.key.as_str()), LabelName::parse_key(object.key.as_str())) {
                    (Some(ObjectName::Drill(name)), _) => drills.push(name),
                    (_, Some((name, LabelEvent::Created))) => labels.push(name),
                    (_, Some(_)) => {}
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
        for name in labels {
            match Labels::new(store.clone()).find(&name).await {
                Err(LabelError::Damaged { key, problem }) => self.fault(None, Fault::object(&key, problem)).await?,
                Err(LabelError::Store(error)) => return Err(error.into()),
                // Found, or retired from under us.
                _ => {}
            }
        }
        Ok(())
    }
}
