#!/usr/bin/env python3
"""Whole-run figures of `replicate` with DuckDB, for docs/benchmarks.md. Needs a Python with the `duckdb` package (the
writer) and a built binary.

    cargo build --release && python3 benches/whole_duckdb.py [--binary PATH] [--dir FOLDER] [--only NAME,...] [--size-mb 1024]

Each section prints lines of `name: figure unit`. Ratios compare things measured in the same run, alternating. The DuckDB of
the release profile is not optimised, which shows in the check and the fold after a restore: build with
`--profile dist` for the figures of a shipped binary.
"""
import os, statistics, subprocess, sys, tempfile, time

import duckdb

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import whole
from whole import Replicator, against_cp, percentile


def connect(path):
    connection = duckdb.connect(path)
    connection.execute("set threads = 1")
    return connection


def settle(replicator, quiet=2.0):
    """Waits until nothing new arrives in the replica."""
    size, since = -1, time.time()
    while time.time() - since < quiet:
        now = replicator.size()
        if now != size:
            size, since = now, time.time()
        time.sleep(0.05)
    return size


def lag(options, folder):
    """Lag from the return of a commit to the stored object."""
    for sync, rate, seconds in (("1s", 10, 30), ("1ms", 10, 20)):
        work = tempfile.mkdtemp(dir=folder)
        app = connect(os.path.join(work, "app.duckdb"))
        app.execute("create table t(i bigint, v varchar)")
        r = Replicator(options.binary, work, os.path.join(work, "app.duckdb"), sync)
        r.wait_snapshot()
        time.sleep(1.5)
        cpu, start, returned = r.cpu(), time.time(), []
        while time.time() - start < seconds:
            app.execute("insert into t select i, 'row ' || i from range(20) r(i)")
            returned.append(time.time())
            time.sleep(max(0, start + len(returned) / rate - time.time()))
        used, wall = r.cpu() - cpu, time.time() - start
        time.sleep(1.5)
        stored = {}
        for first, until, when in sorted(r.segments()):
            for txid in range(first, until + 1):
                stored[txid] = min(when, stored.get(txid, when))
        last = max(stored)
        lags = [stored[last - len(returned) + 1 + i] - when for i, when in enumerate(returned)]
        print(f"lag, sync-interval {sync}, {rate} commits/s: p50 {percentile(lags, .5)*1e3:.1f} ms, p99 {percentile(lags, .99)*1e3:.1f} ms; "
              f"CPU {100*used/wall:.2f} % of a core, resident at most {r.memory('VmHWM'):.1f} MB (anonymous now {r.memory('RssAnon'):.1f} MB)")
        r.stop()
        app.close()


def load(app, seconds):
    """Rows per second of a mix of small and bulk inserts, updates and deletes."""
    rows, start, n = 0, time.time(), 0
    while time.time() - start < seconds:
        n += 1
        if n % 10 == 0:
            app.execute(f"insert into t select i, hash(i + {n})::varchar from range(150000) r(i)")
            rows += 150000
        elif n % 10 == 5:
            app.execute(f"delete from t where i % 1000 = {n % 1000}")
        else:
            app.execute(f"insert into t select i, 'row ' || i from range(500) r(i)")
            rows += 500
    return rows / (time.time() - start)


def throughput(options, folder):
    """The writer with and without a replicator, alternating."""
    results = {"alone": [], "with": []}
    for turn in range(8):
        name = "with" if turn % 2 else "alone"
        work = tempfile.mkdtemp(dir=folder)
        app = connect(os.path.join(work, "app.duckdb"))
        app.execute("create table t(i bigint, v varchar)")
        r = None
        if name == "with":
            r = Replicator(options.binary, work, os.path.join(work, "app.duckdb"), "1s")
            r.wait_snapshot()
        time.sleep(1)
        results[name].append(load(app, 8))
        if r:
            r.stop()
        app.close()
    a, b = statistics.median(results["alone"]), statistics.median(results["with"])
    print(f"writer: alone {a:.0f} rows/s, with {b:.0f} rows/s, ratio {b/a:.3f}  (all: {[round(x) for x in results['alone']]} and {[round(x) for x in results['with']]})")


def build(path, size_mb):
    app = connect(path)
    app.execute("create table t(i bigint, h ubigint, k ubigint, s varchar)")
    app.execute("create table small(i bigint)")
    n = 0
    while not os.path.exists(path) or os.path.getsize(path) < size_mb * 1e6:
        app.execute(f"insert into t select i, hash(i), hash(i + 1), 'row ' || (i % 9973) from range({n}, {n + 2000000}) r(i)")
        app.execute("checkpoint")
        n += 2000000
    return app, n


def io_read(replicator):
    with open(f"/proc/{replicator.process.pid}/io") as f:
        return int(next(line for line in f if line.startswith("rchar")).split()[1])


def changed_blocks(before, after, block=262144):
    """Bytes of the blocks that differ between two copies of the file."""
    changed = 0
    with open(before, "rb") as a, open(after, "rb") as b:
        a.seek(12288), b.seek(12288)
        while True:
            x, y = a.read(block), b.read(block)
            if not y:
                return changed
            changed += len(y) if x != y else 0


def checkpoints(options, folder):
    """Bytes that were read and handed on for a checkpoint, against the blocks that changed; first copy; restore against cp."""
    work = tempfile.mkdtemp(dir=folder)
    path = os.path.join(work, "app.duckdb")
    app, n = build(path, options.size_mb)
    gb = os.path.getsize(path) / 1e9
    start = time.time()
    r = Replicator(options.binary, work, path)
    r.wait_snapshot()
    print(f"first copy of {gb:.2f} GB: {time.time()-start:.1f} s, CPU {r.cpu()/gb:.2f} s/GB, resident at most {r.memory('VmHWM'):.1f} MB, replica {r.size()/1e9/gb:.3f} of the file")
    settle(r)
    # The WAL is read and shipped before the checkpoint begins, so that what is measured is the checkpoint alone.
    app.execute("set checkpoint_threshold = '1TB'")
    for what in ("insert into small select * from range(100)", f"update t set h = h + 1 where i < {n // 100}",
                 f"delete from t where i between {n // 2} and {n // 2 + n // 50}"):
        app.execute(what)
        settle(r)
        copy = os.path.join(work, "before")
        subprocess.run(["cp", path, copy], check=True)
        size, read, cpu = settle(r), io_read(r), r.cpu()
        app.execute("checkpoint")
        stored = settle(r) - size
        # The list is fetched before the next statement, so that its commits are this one's.
        changed = changed_blocks(copy, path)
        read, cpu = io_read(r) - read, r.cpu() - cpu
        os.remove(copy)
        print(f"{what}: {changed/1e6:.1f} MB of blocks changed, {read/1e6:.1f} MB read ({read/max(changed, 1):.2f} x; stored objects that are read to be joined included), "
              f"{stored/1e6:.1f} MB stored, CPU {cpu:.2f} s")
    r.stop()
    app.close()
    against_cp(options, work, path, r, (".wal",))


def large(options, folder):
    """What one small checkpoint costs in a file of 10 GB (--large-mb), and memory."""
    work = tempfile.mkdtemp(dir=folder)
    path = os.path.join(work, "app.duckdb")
    app, n = build(path, options.large_mb)
    gb = os.path.getsize(path) / 1e9
    r = Replicator(options.binary, work, path)
    r.wait_snapshot(limit=3600)
    settle(r)
    for _ in range(3):
        cpu, read = r.cpu(), io_read(r)
        app.execute("insert into small select * from range(100)")
        app.execute("checkpoint")
        settle(r)
        print(f"a small checkpoint in {gb:.1f} GB: CPU {r.cpu()-cpu:.2f} s, {(io_read(r)-read)/1e6:.1f} MB read")
    print(f"memory at {gb:.1f} GB: resident at most {r.memory('VmHWM'):.1f} MB, anonymous now {r.memory('RssAnon'):.1f} MB")
    r.stop()
    app.close()


whole.SECTIONS[:] = [lag, throughput, checkpoints, large]

if __name__ == "__main__":
    print(f"DuckDB {duckdb.__version__}")
    whole.main(__doc__)
