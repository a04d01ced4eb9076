#!/usr/bin/env bash
# A machine is lost and comes back, step by step as a user would do it:
#
#   tests/e2e.sh [PROGRAM]        default: the release build of this repository, which is built for it
#
# An S3 server on loopback, an application under `replicate run … -- COMMAND`, kill -9 and deletion of everything, restores on a new
# machine, and a comparison with what the application had recorded of each commit. Ends with 0 if all of it is as it should be.
# Everything happens below one temporary directory. Needs bash and python3; with a Python that has the package duckdb (DUCKDB_PYTHON,
# or python3 itself), the same once more with a DuckDB database.
set -Eeuo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repository/target}
if [[ $# -gt 0 ]]; then
    program=$(realpath "$1")
else
    cargo build --release --manifest-path "$repository/Cargo.toml"
    program=$(realpath "$target/release/replicate")
fi
# Any command that serves S3 and prints what a shell needs to reach it.
if [[ -n ${S3_SERVER:-} ]]; then
    read -ra s3_server <<<"$S3_SERVER"
else
    s3_server=(cargo run --quiet --release --manifest-path "$repository/Cargo.toml" --example s3_server)
fi
sqlite_python=$(python3 -c 'import sys; print(sys.executable)')
duckdb_python=${DUCKDB_PYTHON:-$sqlite_python}
has_duckdb=${HAS_DUCKDB:-yes} # no: the program was built with --no-default-features
patience=${PATIENCE:-120} # seconds until something that must happen counts as not happening

root=$(mktemp -d)
machine=$root/machine # what is lost
world=$root/world     # what is not: the record of the application, and where restored copies are looked at
server= replicator=

say() { echo "$(date +%T)  $*"; }

fail() {
    trap - ERR
    echo "FAILED: $*" >&2
    if [[ -f $world/replicate.log ]]; then echo "the end of the log of replicate:" >&2 && tail -n 20 "$world/replicate.log" >&2; fi
    exit 1
}

# However this ends, no process and no file is left behind.
clean_up() {
    local pid
    for pid in $replicator $(cat "$world/pid" 2>/dev/null) $server; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$root"
}
trap clean_up EXIT
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
trap 'exit 130' INT TERM

# wait_for WHAT COMMAND…: until the command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + patience)) pid
    shift
    until "$@"; do
        if ((SECONDS > end)); then fail "after $patience s: $what"; fi
        for pid in $server $replicator; do kill -0 "$pid" 2>/dev/null || fail "process $pid has ended, while waiting: $what"; done
        sleep 0.1
    done
}

# On the machine there is nothing of this shell's environment but the store's address and credentials.
on_machine() {
    cd "$machine"
    exec env -i PATH="$PATH" HOME="$machine/home" TMPDIR="$machine/tmp" AWS_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID" \
        AWS_SECRET_ACCESS_KEY="$AWS_SECRET_ACCESS_KEY" AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null "$@"
}
replicate() { (on_machine "$program" "$@"); }

new_machine() {
    mkdir -p "$machine"/{data,home,tmp} "$world"
    rm -f "$world"/*
}

# The application as the child of replicate. Where its database is missing, it is restored first.
start_application() {
    on_machine "$program" run --restore-if-missing "$database" "$url" -- \
        "$python" "$repository/tests/e2e_app.py" write "$database" "$world" >>"$world/replicate.log" 2>&1 &
    replicator=$!
    wait_for "the application starts" test -s "$world/pid"
}

# The last commit that the database has confirmed to the application.
last_commit() { grep '^done ' "$world/record" | tail -n 1 | cut -d ' ' -f 2; }
has_committed() { local last && last=$(last_commit) && ((last >= $1)); }

digest() { "$python" "$repository/tests/e2e_app.py" digest "$1"; }

# expect_recorded RECORD COPY FIRST LAST: the copy is exactly as it was recorded after one commit, which is FIRST, LAST or between them.
expect_recorded() {
    local record=$1 copy=$2 first=$3 last=$4 n hash
    read -r n hash <<<"$(digest "$copy")"
    ((n >= first)) || fail "$copy ends with commit $n, but commit $first had been confirmed to be in the replica"
    ((n <= last)) || fail "$copy ends with commit $n, which is later than $last"
    grep -qx "commit $n $hash" "$record" || fail "$copy is not what the application had recorded after commit $n"
}

# Restores a point, newly each time, and compares it with commit FIRST to LAST of RECORD.
expect_restored() {
    local point=$1
    shift
    rm -f "$world"/copy*
    replicate restore "$url" --at "$point" -o "$world/copy.${database##*.}" >>"$world/replicate.log" 2>&1 || fail "restore --at $point"
    expect_recorded "$1" "$world/copy.${database##*.}" "$2" "$3"
}

lose_and_restore() {
    local engine=$1 middle middle_time middle_txid acknowledged recorded found now question
    python=$2 database=data/app.$1 url="s3://$S3_BUCKET/$1/app?endpoint=$S3_ENDPOINT&region=us-east-1"

    say "$engine: a machine, and on it an application that commits; the store is empty, so there is nothing to restore yet"
    new_machine
    start_application
    wait_for "50 commits" has_committed 50

    say "$engine: the application rests for a moment, and everything is synced: this is the point in the middle"
    touch "$world/hold"
    wait_for "the application holds" test -e "$world/held"
    middle=$(last_commit)
    middle_txid=$(replicate sync "$database" --json --timeout "${patience}s" | sed -n 's/.*"txid": *\([0-9]*\).*/\1/p')
    middle_time=$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)
    rm "$world/hold" "$world/held"
    wait_for "50 more commits" has_committed $((middle + 50))

    say "$engine: what has been committed by now is acknowledged by \`replicate sync\`; the application goes on"
    acknowledged=$(last_commit)
    replicate sync "$database" --timeout "${patience}s"
    replicate status "$database"
    wait_for "20 more commits" has_committed $((acknowledged + 20))

    say "$engine: kill -9, and everything on the machine is gone"
    kill -9 "$replicator" "$(cat "$world/pid")"
    wait "$replicator" 2>/dev/null || true
    replicator=
    rm -rf "$machine"
    recorded=$root/record.$engine
    mv "$world/record" "$recorded"
    now=$(grep -c '^commit ' "$recorded")

    say "$engine: a new machine. This is in the replica:"
    new_machine
    replicate list "$url"

    say "$engine: the newest commit has everything up to commit $acknowledged, which was acknowledged, of $now that were made"
    expect_restored now "$recorded" "$acknowledged" "$now"
    say "$engine: --at $middle_time and --at txid:$middle_txid are exactly commit $middle"
    expect_restored "$middle_time" "$recorded" "$middle" "$middle"
    expect_restored "txid:$middle_txid" "$recorded" "$middle" "$middle"

    say "$engine: the application is started as on the first machine, and finds its database again"
    start_application
    found=$(head -n 1 "$world/record")
    grep -qx "commit ${found#start }" "$recorded" || fail "the application found \"$found\", which it had not recorded"
    read -r _ found _ <<<"$found"
    ((found >= acknowledged)) || fail "the application found commit $found, but $acknowledged had been acknowledged"
    wait_for "50 commits on the new machine" has_committed $((found + 50))

    say "$engine: it is stopped in good order: TERM, a final sync, exit code 0"
    kill -TERM "$replicator"
    wait "$replicator" || fail "replicate run ended with code $?"
    replicator=
    now=$(last_commit)
    expect_recorded "$world/record" "$machine/$database" "$now" "$now"
    cp "$world/record" "$recorded.2"
    say "$engine: the last commit, $now, is in the replica; and the one in the middle is still exactly commit $middle"
    expect_restored now "$recorded.2" "$now" "$now"
    expect_restored "$middle_time" "$recorded" "$middle" "$middle"

    say "$engine: every byte of the replica is proven, and a restore for practice answers a question"
    replicate verify "$url" --deep
    question=(--assert "SELECT count(*) = $now FROM entry")
    if [[ $engine == duckdb && $has_duckdb == no ]]; then
        question=()
        echo "SKIPPED: the question; this build of replicate has no DuckDB to ask" >&2
    fi
    replicate drill "$url" "${question[@]}"
}

say "an S3 server on loopback: ${s3_server[*]}"
mkdir -p "$world"
"${s3_server[@]}" >"$root/s3" 2>"$root/s3.log" &
server=$!
patience=600 wait_for "the S3 server tells its address" grep -qs S3_ENDPOINT= "$root/s3"
eval "$(grep '^export ' "$root/s3")"

lose_and_restore sqlite "$sqlite_python"
if "$duckdb_python" -c 'import duckdb' 2>/dev/null; then
    lose_and_restore duckdb "$duckdb_python"
else
    echo "SKIPPED: $duckdb_python has no package duckdb; nothing was shown of DuckDB" >&2
fi
say "all is as it was recorded"
