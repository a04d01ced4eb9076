//! Compiles the stored format's messages. protox reads them, so that no protoc is needed.

use std::error::Error;

const PROTO_ROOT: &str = "proto";
const PROTO_FILES: [&str; 2] = ["proto/replicate/v1/segment.proto", "proto/replicate/v1/snapshot.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let descriptors = protox::compile(PROTO_FILES, [PROTO_ROOT])?;
    prost_build::compile_fds(descriptors)?;
    Ok(())
}
