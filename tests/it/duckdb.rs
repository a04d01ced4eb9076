//! DuckDB capture against live writers: other processes, other versions, unmodified.

mod ledger;
mod product;
pub mod python;
mod recorder;
mod scenarios;
mod steps;
mod versions;
