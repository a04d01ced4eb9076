"""A WAL longer than 4 GiB: captured while a reader keeps SQLite from folding it in, and restored from both sides of the border.

    cargo build --release && python3 benches/big_wal.py

It needs some 5 GB in the directory for temporary files. The database has 2,000 pages; each transaction changes all of them, and every row
holds the number of the last one, so that a restored point tells which commit it is. REPLICATE names another program.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

PROGRAM = os.environ.get("REPLICATE", "target/release/replicate")
BYTES = int(sys.argv[1]) if len(sys.argv) > 1 else (1 << 32) + 350_000_000
ROWS = 2000


def replicate(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


with tempfile.TemporaryDirectory(prefix="big-wal-") as folder:
    database, replica = f"{folder}/a.db", f"{folder}/replica"
    writer = sqlite3.connect(database, isolation_level=None)
    writer.executescript("PRAGMA journal_mode=wal; PRAGMA synchronous=off; PRAGMA wal_autocheckpoint=0")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, pad BLOB)")
    writer.execute("BEGIN")
    writer.executemany("INSERT INTO t VALUES (?, 0, zeroblob(3900))", [(i,) for i in range(ROWS)])
    writer.execute("COMMIT")
    child = subprocess.Popen([PROGRAM, "run", database, replica], stderr=open(f"{folder}/log", "w"))
    reader = sqlite3.connect(database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchone()
    began, number = time.time(), 0
    while os.path.getsize(f"{database}-wal") < BYTES:
        number += 1
        writer.execute("UPDATE t SET n = n + 1")
    length = os.path.getsize(f"{database}-wal")
    replicate("sync", database, "--timeout", "300s")
    print(f"{number} transactions, WAL of {length} bytes, captured and stored after {time.time() - began:.0f} s")
    # The WAL may start over now.
    reader.execute("COMMIT")
    for _ in range(3):
        number += 1
        writer.execute("UPDATE t SET n = n + 1")
        time.sleep(1)
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 0
    listed = json.loads(replicate("list", replica, "--commits", "--json"))["generations"]
    txids = [commit["txid"] for generation in listed for commit in generation["commits"]]
    assert len(listed) == 1 and len(txids) >= number, "single commits are missing"
    for back in (0, 1, 3, 5, number // 50, number // 2, number - 5):
        restored = f"{folder}/back-{back}.db"
        replicate("restore", replica, "-o", restored, "--at", f"txid:{txids[-1] - back}")
        found = sqlite3.connect(restored).execute("SELECT min(n), max(n), count(*) FROM t").fetchone()
        assert found == (number - back, number - back, ROWS), (back, found)
        os.remove(restored)
        print(f"{back} commits before the last: exact")
