#!/usr/bin/env python3
"""Whole-run figures of `replicate` for docs/benchmarks.md. Needs only Python 3 and a built binary.

    cargo build --release && python3 benches/whole.py [--binary PATH] [--dir FOLDER] [--only NAME,...] [--size-mb 1024]

Each section prints lines of `name: figure unit`. Ratios compare things measured in the same run, alternating.
"""
import argparse, json, os, random, shutil, signal, sqlite3, statistics, subprocess, sys, tempfile, time

TICK = os.sysconf("SC_CLK_TCK")


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))] if values else float("nan")


class Replicator:
    """A running `replicate run` with its CPU time and memory."""

    def __init__(self, binary, folder, database, sync="1s", name="replica"):
        self.replica = os.path.join(folder, name)
        config = os.path.join(folder, name + ".yml")
        with open(config, "w") as f:
            f.write(f"databases:\n  - path: {database}\n    sync-interval: {sync}\n    replicas: [{{ url: \"file://{self.replica}\" }}]\n")
        self.log = open(os.path.join(folder, name + ".log"), "a")
        self.process = subprocess.Popen([binary, "run", "--config", config], stdout=self.log, stderr=self.log)
        self.status_cpu = 0.0

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self, key="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) / 1024
        return float("nan")

    def objects(self):
        for base, _, files in os.walk(self.replica):
            for name in files:
                if not name.startswith(".tmp-"):
                    yield os.path.join(base, name)

    def size(self):
        return sum(os.path.getsize(path) for path in self.objects())

    def has_snapshot(self):
        return any("/snapshot/" in path for path in self.objects())

    def wait_snapshot(self, limit=600):
        end = time.time() + limit
        while not self.has_snapshot():
            if time.time() > end or self.process.poll() is not None:
                sys.exit("no snapshot arrived; see the log in the work folder")
            time.sleep(0.02)

    def segments(self):
        """(first, last, time of arrival under its name) of every level-0 segment."""
        for path in self.objects():
            if "/0/" in path:
                first, last = os.path.basename(path).split("-")[:2]
                yield int(first, 16), int(last, 16), os.stat(path).st_ctime_ns / 1e9

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=120)
        if code != 0:
            sys.exit(f"replicate ended with {code}; see {self.log.name}")


def connect(path, sync="normal"):
    connection = sqlite3.connect(path, isolation_level=None, timeout=20)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={sync}")
    return connection


def table(connection, rows=2000):
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, seq INTEGER, v TEXT)")
    connection.execute("BEGIN")
    for i in range(rows):
        connection.execute("INSERT INTO t VALUES(?,?,?)", (i, 0, os.urandom(100).hex()))
    connection.execute("COMMIT")


def commit(connection, rows, n=1):
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(n):
        connection.execute("UPDATE t SET seq=seq+1, v=? WHERE id=?", (os.urandom(100).hex(), random.randrange(rows)))
    started = time.perf_counter()
    connection.execute("COMMIT")
    return time.perf_counter() - started, time.time()


def lag(options, folder):
    """Lag from the return of COMMIT to the stored object, and what it costs at 10 commits/s."""
    for sync, rate, seconds in (("1s", 10, 40), ("1ms", 10, 20), ("1ms", 200, 10)):
        work = tempfile.mkdtemp(dir=folder)
        database = os.path.join(work, "app.db")
        app = connect(database)
        table(app)
        r = Replicator(options.binary, work, database, sync)
        r.wait_snapshot()
        time.sleep(1.5)
        idle = r.memory()
        cpu, start, returned = r.cpu(), time.time(), []
        while time.time() - start < seconds:
            returned.append(commit(app, 2000)[1])
            time.sleep(max(0, start + len(returned) / rate * random.uniform(0.98, 1.02) - time.time()))
        used, wall = r.cpu() - cpu, time.time() - start
        time.sleep(1.5)
        segments = sorted(r.segments())
        last = segments[-1][1]
        stored = {}
        for first, until, when in segments:
            for txid in range(first, until + 1):
                stored[txid] = min(when, stored.get(txid, when))
        lags = [stored[last - len(returned) + 1 + i] - when for i, when in enumerate(returned)]
        print(f"lag, sync-interval {sync}, {rate} commits/s: p50 {percentile(lags, .5)*1e3:.1f} ms, p99 {percentile(lags, .99)*1e3:.1f} ms, "
              f"max {max(lags)*1e3:.1f} ms, {len(segments)} objects for {len(returned)} commits")
        print(f"  CPU {100*used/wall:.2f} % of a core, resident {idle:.1f} MB idle, {r.memory('VmHWM'):.1f} MB at most")
        r.stop()
        app.close()


def idle(options, folder):
    work = tempfile.mkdtemp(dir=folder)
    database = os.path.join(work, "app.db")
    app = connect(database)
    table(app)
    r = Replicator(options.binary, work, database)
    r.wait_snapshot()
    time.sleep(3)
    cpu, objects = r.cpu(), len(list(r.objects()))
    time.sleep(30)
    print(f"idle for 30 s: CPU {r.cpu()-cpu:.2f} s, resident {r.memory():.1f} MB (anonymous {r.memory('RssAnon'):.1f} MB), "
          f"{len(list(r.objects()))-objects} objects written")
    r.stop()


def latency(options, folder):
    """The writer's commit latency with and without a replicator, alternating."""
    for sync in ("normal", "full"):
        work = tempfile.mkdtemp(dir=folder)
        database = os.path.join(work, "app.db")
        app = connect(database, sync)
        table(app)
        results = {"alone": [], "with": []}
        for turn in range(6):
            r = None
            if turn % 2:
                r = Replicator(options.binary, work, database, "1s")
                r.wait_snapshot()
                time.sleep(1)
            else:
                time.sleep(1)
            bucket = results["with" if turn % 2 else "alone"]
            for _ in range(800):
                bucket.append(commit(app, 2000, 3)[0])
                time.sleep(0.003)
            if r:
                r.stop()
        a, b = results["alone"], results["with"]
        print(f"commit latency, synchronous={sync}: alone p50 {percentile(a,.5)*1e6:.0f} us p99 {percentile(a,.99)*1e6:.0f} us; "
              f"with p50 {percentile(b,.5)*1e6:.0f} us p99 {percentile(b,.99)*1e6:.0f} us; ratio p50 {percentile(b,.5)/percentile(a,.5):.3f} "
              f"p99 {percentile(b,.99)/percentile(a,.99):.3f}")
        app.close()


WORDS = [w.encode() for w in "alpha beta gamma delta order invoice customer paid open shipped returned late street city".split()]


def value(size):
    """Half text, half random: neither constant nor incompressible."""
    text = b" ".join(random.choices(WORDS, k=size // 12 + 1))[: size // 2]
    return text + os.urandom(size - len(text))


def bulk(options, folder):
    """A load of 400 MB in transactions of 1,000 rows while replicating."""
    work = tempfile.mkdtemp(dir=folder)
    database = os.path.join(work, "app.db")
    app = connect(database)
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    r = Replicator(options.binary, work, database)
    r.wait_snapshot()
    cpu, start, changed, n = r.cpu(), time.time(), 0, 0
    while changed < 400e6:
        app.execute("BEGIN")
        for _ in range(1000):
            v = value(random.randrange(200, 1800))
            changed += len(v)
            n += 1
            app.execute("INSERT INTO t VALUES(?,?)", (n, v))
        app.execute("COMMIT")
    loaded = time.time() - start
    while True:  # until the replica has the last object
        size = r.size()
        time.sleep(3)
        if r.size() == size:
            break
    print(f"bulk load of {changed/1e6:.0f} MB: writer {loaded:.1f} s, replicator CPU {r.cpu()-cpu:.2f} s, resident at most {r.memory('VmHWM'):.1f} MB, "
          f"replica {r.size()/1e6:.0f} MB, WAL {os.path.getsize(database+'-wal')/1e6:.1f} MB at the end")
    r.stop()
    app.close()


def deltas(options, folder):
    """Bytes stored per byte changed for small transactions."""
    work = tempfile.mkdtemp(dir=folder)
    database = os.path.join(work, "app.db")
    app = connect(database)
    table(app, 50000)
    r = Replicator(options.binary, work, database)
    r.wait_snapshot()
    before, cpu = r.size(), r.cpu()
    for _ in range(5000):
        commit(app, 50000, 3)
        time.sleep(0.0005)
    time.sleep(3)
    pages = 5000 * 3 * 4096
    print(f"5000 transactions of 3 row updates: stored {(r.size()-before)/1e6:.2f} MB, {(r.size()-before)/(5000*3*200):.2f} bytes per byte of "
          f"the changed values, {(r.size()-before)/pages:.3f} per byte of the changed pages; CPU {1e6*(r.cpu()-cpu)/5000:.0f} us a commit")
    r.stop()
    app.close()


def children_cpu(run):
    before = os.times()
    started = time.time()
    run()
    wall = time.time() - started
    after = os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def copy(options, folder):
    """First copy and restore of one big database against cp with fsync."""
    work = tempfile.mkdtemp(dir=folder)
    database = os.path.join(work, "app.db")
    app = connect(database)
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    n = 0
    while os.path.getsize(database) < options.size_mb * 1e6:
        app.execute("BEGIN")
        for _ in range(20000):
            n += 1
            app.execute("INSERT INTO t VALUES(?,?)", (n, value(random.randrange(200, 1800))))
        app.execute("COMMIT")
        app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = os.path.getsize(database)
    gb = size / 1e9
    os.sync()
    start = time.time()
    r = Replicator(options.binary, work, database)
    r.wait_snapshot()
    print(f"first copy of {gb:.2f} GB: {time.time()-start:.1f} s, CPU {r.cpu()/gb:.2f} s/GB, resident at most {r.memory('VmHWM'):.1f} MB, "
          f"replica {r.size()/size:.3f} of the file")
    r.stop()
    against_cp(options, work, database, r, ("-wal", "-shm"))
    app.close()


def against_cp(options, work, database, r, companions):
    """Restores of a replica against cp with fsync of the database, alternating."""
    gb = os.path.getsize(database) / 1e9
    target = os.path.join(work, "restored")
    base = [options.binary, "restore", "file://" + r.replica, "-o", target]
    figures = {}
    for _ in range(3):
        for name, command in (("cp", ["sh", "-c", f"cp --reflink=never {database} {target} && sync {target}"]),
                              ("restore", base), ("restore --no-check", base + ["--no-check"])):
            for leftover in [target] + [target + ending for ending in companions]:
                if os.path.exists(leftover):
                    os.remove(leftover)
            figures.setdefault(name, []).append(children_cpu(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)))
    wall = {name: statistics.median(w for w, _ in runs) for name, runs in figures.items()}
    for name, runs in figures.items():
        print(f"{name} of {gb:.2f} GB: {wall[name]:.2f} s, {wall[name]/wall['cp']:.2f} x cp with fsync, CPU {statistics.median(c for _, c in runs)/gb:.2f} s/GB")


SECTIONS = [lag, idle, latency, bulk, deltas, copy]


def main(description=__doc__):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--binary", default=os.path.join(target, "release", "replicate"))
    parser.add_argument("--dir", default=None, help="where to work (default: the temporary folder)")
    parser.add_argument("--only", default="", help="comma-separated sections: " + ", ".join(s.__name__ for s in SECTIONS))
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--large-mb", type=int, default=10240, help="of the one very large DuckDB file")
    options = parser.parse_args()
    chosen = [s for s in SECTIONS if not options.only or s.__name__ in options.only.split(",")]
    folder = tempfile.mkdtemp(prefix="replicate-bench-", dir=options.dir)
    try:
        for section in chosen:
            print(f"== {section.__name__}", flush=True)
            section(options, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
