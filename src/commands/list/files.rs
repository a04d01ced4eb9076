//! The file sets of a generation, and what each holds.

use serde_json::{Value, json};

use super::Lister;
use crate::error::Error;
use crate::fileset::{FileSetError, FileSets, living};
use crate::layout::ObjectName;
use crate::restore::point::format_time;

impl Lister<'_> {
    pub(super) async fn files(&self, damage: &mut Vec<String>) -> Result<(String, Value), Error> {
        let sets = FileSets::new(self.reading.replica().store().clone());
        let (all, _) = sets.list(self.generation_id()).await?;
        let mut text = format!("generation {}\n", self.generation_id());
        let mut values = Vec::new();
        for listed in living(&all, self.inventory).into_iter().filter(|set| self.span.holds(set.name.time)) {
            let (txid, time) = (listed.name.txid.0, format_time(listed.name.time));
            let key = ObjectName::FileSet(listed.name).key();
            let set = match sets.read(listed.name).await {
                Ok(set) => set,
                Err(FileSetError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    damage.push(error.to_string());
                    continue;
                }
            };
            let (count, bytes) = (set.files.len(), set.total_bytes());
            text.push_str(&format!("  from txid:{txid} ({time}) on: {count} files, {bytes} bytes\n"));
            for file in &set.files {
                text.push_str(&format!("    {}  {} bytes  {}\n", file.path, file.bytes, file.hash));
            }
            let files = set.files.iter().map(|file| {
                json!({
                    "path": file.path.as_str(), "bytes": file.bytes, "mode": format!("{:o}", file.mode),
                    "modified": format_time(file.modified), "sha256": file.hash.to_string(),
                })
            });
            let files: Vec<Value> = files.collect();
            values.push(json!({ "object": key.as_str(), "txid": txid, "time": time, "bytes": bytes, "files": files }));
        }
        Ok((text, json!({ "generation": self.generation_id().to_string(), "files": values })))
    }
}
