//! `replicate`: continuous copies of live SQLite and DuckDB databases, restorable to any commit.
//!
//! The map, in layer order; a module may use what stands above it, never what stands below.

// 0: words
pub mod cron;
pub mod extent;
pub mod position;
pub mod status;
// 1: formats and seams (know nothing of each other, but for the words and the checksum)
pub mod checksum;
pub mod engine;
pub mod layout;
pub mod segment;
pub mod store;
// 2: history
pub mod compaction;
pub mod document;
pub mod fileset;
pub mod inventory;
pub mod label;
pub mod replica;
pub mod retention;
pub mod spool;
// 3: work
pub mod audit;
pub mod cost;
pub mod drill;
pub mod include;
pub mod prune;
pub mod replicator;
pub mod restore;
pub mod verify;
pub mod watcher;
// 4: shell
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod error;
pub mod supervisor;
pub mod systemd;
pub mod web;
