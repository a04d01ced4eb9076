//! Everything that is tested through the seams, in one binary.

mod duckdb;
mod format;
mod restore;
mod s3_server;
mod sqlite_source;
mod store_contract;
mod store_real_server;
mod store_s3;
mod tidy;
