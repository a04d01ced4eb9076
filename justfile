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

# A machine is lost and comes back from S3.
e2e *ARGS:
    tests/e2e.sh {{ARGS}}

# The manual, as it is installed.
man:
    cargo run --no-default-features -- man | man -l -

# Figures of the codecs; `bench-whole` measures the whole program (docs/benchmarks.md).
bench *ARGS:
    cargo bench {{ARGS}}

bench-whole *ARGS:
    cargo build --release
    python3 benches/whole.py {{ARGS}}

# The same for DuckDB; needs a Python with the duckdb package.
bench-duckdb *ARGS:
    cargo build --release
    python3 benches/whole_duckdb.py {{ARGS}}

# Needs a nightly toolchain and cargo-fuzz.
fuzz SECONDS="60":
    cargo +nightly fuzz run segment -- -max_total_time={{SECONDS}}

# Writes golden objects that are missing or changed; read the difference before it is committed.
fixtures:
    UPDATE_FIXTURES=1 cargo test --no-default-features --test it format::
