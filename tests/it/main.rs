//! Everything that is tested through the seams, in one binary.

mod audit;
mod cli;
mod config;
mod duckdb;
mod files;
mod fleet;
mod format;
mod history;
mod ledger;
mod litestream;
mod live;
mod month;
mod packaging;
mod processes;
mod prune;
mod replicator;
mod restore;
mod s3_server;
mod small_disk;
mod sqlite_source;
mod store_contract;
mod store_real_server;
mod store_s3;
mod supervisor;
mod tidy;
mod web;
