"""What a second snapshot sends after a part of a SQLite database changed: `snapshot_cost.py REPLICATE DIRECTORY [MIB]`.

Rows of one page each, half of it incompressible. One per cent of them is updated, scattered or side by side; then
`replicate snapshot` is asked for. Counted are the bytes of the objects that are new in a directory replica.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time


def body():
    return os.urandom(2000) + b"x" * 2030


def objects(replica):
    found = {}
    for folder, _, names in os.walk(replica):
        for name in names:
            path = os.path.join(folder, name)
            found[path] = (os.path.basename(folder), os.path.getsize(path))
    return found


def total(found, kinds):
    return sum(size for kind, size in found.values() if kind in kinds)


def measure(replicate, folder, mib, is_scattered):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    database = os.path.join(folder, "app.db")
    rows = mib * 256
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)")
    with connection:
        connection.executemany("INSERT INTO t(b) VALUES(?)", ((body(),) for _ in range(rows)))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    subprocess.run([replicate, "run", database, "--once"], check=True, stderr=subprocess.DEVNULL)
    before = objects(database + ".replica")
    first = total(before, ["part", "snapshot"])
    count = rows // 100
    ids = random.Random(1).sample(range(1, rows + 1), count) if is_scattered else range(rows // 3, rows // 3 + count)
    with connection:
        connection.executemany("UPDATE t SET b=? WHERE id=?", ((body(), row) for row in ids))
    began = time.monotonic()
    subprocess.run([replicate, "snapshot", database], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.monotonic() - began
    connection.close()
    new = {path: what for path, what in objects(database + ".replica").items() if path not in before}
    parts, manifest, segments = total(new, ["part"]), total(new, ["snapshot"]), total(new, ["0"])
    print(
        f"{'scattered' if is_scattered else 'side by side'}: database {os.path.getsize(database)}, first {first}, "
        f"second {parts + manifest} ({100 * (parts + manifest) / first:.2f} %): parts and patches {parts}, manifest {manifest}; "
        f"segments {segments}; {took:.1f} s"
    )
    out = os.path.join(folder, "out.db")
    subprocess.run([replicate, "restore", database + ".replica", "-o", out], check=True, stdout=subprocess.DEVNULL)


for scattered in (True, False):
    measure(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1024, scattered)
