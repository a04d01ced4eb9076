//! Brings a database back as it was after one commit.
//!
//! | file | holds |
//! |---|---|
//! | `point.rs` | what `--at` can say |
//! | `reading.rs` | typed reading of a replica |
//! | `planner.rs` | from a point to a plan: which snapshot, which segments, which commit |
//! | `plan.rs` | the plan, as data |
//! | `execute.rs` | carrying it out, and looking for another way when an object is broken |
//! | `fetch.rs` | bounded requests and memory |
//! | `apply.rs` | transactions over a snapshot |
//! | `files.rs` | the files while they are written |
//! | `finish.rs` | proof, the engine's check, one file out of two |
//! | `prove.rs` | the checksum of the result |
//! | `target.rs`, `moved.rs` | the place where it goes |
//! | `beside.rs`, `stage.rs` | the files beside the database |
//! | `losses.rs` | what cannot be restored, and what can instead |
//! | `error.rs` | why it did not happen |

mod apply;
mod beside;
mod error;
mod execute;
mod fetch;
mod files;
mod finish;
mod losses;
mod moved;
mod plan;
mod planner;
pub mod point;
mod prove;
mod reading;
mod stage;
mod target;

pub use apply::needed_blocks;
pub use beside::{Action, FilesPlan, FilesTo, KeptFiles, PlannedFile, from_file_set, kept_files, plan_files};
pub use error::{Damage, Fault, NoSuchPoint, RestoreError};
pub use error::{DisplayMoment, DisplayWindow};
pub use execute::{
    DEFAULT_JOBS, Execution, MAX_JOBS, Progress, Restored, RestoredFiles, Silent, restore, restore_with_files,
};
pub use fetch::{PIECE_BYTES, in_background};
pub use losses::{no_object, outside};
pub use plan::{RestorePlan, commit_json, kind_word, reason};
pub use planner::{Planner, Request};
pub use reading::{Reading, prove_part, prove_patch};
pub use target::{Target, exists};
