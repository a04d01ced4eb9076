//! An S3 server on loopback for a first try without an account, and for tests/e2e.sh. What it holds is in memory and gone with it.
//!
//!     cargo run --example s3_server
//!
//! It prints what a shell needs to reach it, and serves until it is killed.

/// The server of the tests.
#[path = "../tests/it"]
mod tests {
    pub mod s3_server;
}

fn main() {
    tests::s3_server::serve_until_killed();
}
