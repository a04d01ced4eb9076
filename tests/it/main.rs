//! Everything that is tested through the seams, in one binary.

mod s3_server;
mod sqlite_source;
mod store_contract;
mod tidy;
