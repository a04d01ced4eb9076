# `just` lists what there is. `just check` is what CI runs.

default:
    @just --list

# Format, lints, tests, with DuckDB: exactly what CI runs.
check:
    .ci/run

# The fast inner loop: without DuckDB, in the dev profile.
test *ARGS:
    cargo test --no-default-features {{ARGS}}

lint:
    cargo fmt
    cargo clippy --no-default-features --all-targets -- -D warnings

demo *ARGS:
    cargo run --no-default-features -- demo {{ARGS}}

# The manual, as it is installed.
man:
    cargo run --no-default-features -- man | man -l -

bench *ARGS:
    cargo bench {{ARGS}}
