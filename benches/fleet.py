"""Many databases: what N of them cost at rest, and with one in a hundred active.

    cargo build --release && python3 benches/fleet.py [N…]

For each N (default: 1 100 1000 10000) it makes N small SQLite databases in WAL mode, replicates them into a directory by a pattern,
waits until every one is ready, and then measures the process: resident memory, descriptors, threads, CPU and requests
over 30 s without any commit, and over 30 s in which one database in a hundred commits once a second. REPLICATE names another
program; NOFILE sets the limit of open files (ulimit -n) that it gets.
"""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PROGRAM = os.environ.get("REPLICATE", "target/release/replicate")
NOFILE = int(os.environ.get("NOFILE", "0"))
PORT = 9479
WINDOW = 30
TICKS = os.sysconf("SC_CLK_TCK")


def make(folder, number):
    for i in range(number):
        path = f"{folder}/{i // 1000:03}/{i:05}.db"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with sqlite3.connect(path) as connection:
            connection.executescript("PRAGMA synchronous=off; PRAGMA journal_mode=wal; CREATE TABLE t (v); INSERT INTO t VALUES (randomblob(20000))")
        connection.close()


def metrics():
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=60) as answer:
        return answer.read().decode().splitlines()


def total(lines, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def largest(lines, name):
    return max(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def process(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip().split(":", 1) for line in file if ":" in line)
    rss = {key: int(status[key].split()[0]) // 1024 for key in ("VmRSS", "VmHWM", "RssAnon")}
    return (int(fields[11]) + int(fields[12])) / TICKS, rss, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))


def window(pid, what, number):
    before = total(metrics(), "replicate_store_requests_total")
    # What a look at the metrics took is given back.
    time.sleep(40)
    cpu, began = process(pid)[0], time.time()
    time.sleep(WINDOW)
    now, rss, threads, descriptors = process(pid)
    used = (now - cpu) / (time.time() - began)
    lines = metrics()
    print(
        f"{number:6} {what:10} resident {rss['VmRSS']} MB (anonymous {rss['RssAnon']}, at most {rss['VmHWM']}), {descriptors} descriptors,"
        f" {threads} threads, CPU {100 * used:.2f} % of a core, {total(lines, 'replicate_store_requests_total') - before:.0f} requests,"
        f" parked {total(lines, 'replicate_parked'):.0f}, gaps {total(lines, 'replicate_gaps_total'):.0f},"
        f" lag at most {largest(lines, 'replicate_lag_seconds'):.1f} s",
        flush=True,
    )


def commit(folder, number, stop):
    paths = [f"{folder}/{i // 1000:03}/{i:05}.db" for i in range(0, number, 100)]
    open_ones = [sqlite3.connect(path, check_same_thread=False, timeout=60) for path in paths]
    while not stop.is_set():
        began = time.time()
        for connection in open_ones:
            connection.execute("INSERT INTO t VALUES (randomblob(200))")
            connection.commit()
        stop.wait(max(0, 1 - (time.time() - began)))


def run(number):
    folder = tempfile.mkdtemp(prefix="fleet-")
    data, config = f"{folder}/data", f"{folder}/replicate.yml"
    make(data, number)
    with open(config, "w") as file:
        json.dump({
            "listen": f"127.0.0.1:{PORT}",
            "state-dir": f"{folder}/state",
            "databases": [{"glob": f"{data}/*/*.db", "replicas": [f"{folder}/replica/{{name}}"]}],
        }, file)

    def limit():
        if NOFILE:
            resource.setrlimit(resource.RLIMIT_NOFILE, (NOFILE, NOFILE))

    began = time.time()
    log = open(f"{folder}/log", "w")
    child = subprocess.Popen([PROGRAM, "run", "--config", config], stderr=log, stdout=log, preexec_fn=limit)
    try:
        while True:
            # Each look is a text of every database: seldom where there are many.
            time.sleep(0.5 + number / 1000)
            try:
                lines = metrics()
            except OSError:
                continue
            if total(lines, "replicate_ready") == number and total(lines, "replicate_snapshot_last_timestamp_seconds") > 0:
                missing = [l for l in lines if l.startswith("replicate_snapshot_last_timestamp_seconds{") and l.endswith(" 0")]
                if not missing:
                    break
            assert child.poll() is None, open(f"{folder}/log").read()[-4000:]
        print(f"{number:6} ready      after {time.time() - began:.1f} s, {process(child.pid)[0]:.1f} s CPU", flush=True)
        # Idle ones are parked after a minute, and memory is given back.
        time.sleep(int(os.environ.get("SETTLE", "100")))
        window(child.pid, "at rest", number)
        stop = threading.Event()
        writer = threading.Thread(target=commit, args=(data, number, stop))
        writer.start()
        time.sleep(5)
        window(child.pid, "1% active", number)
        stop.set()
        writer.join()
        began = time.time()
        child.send_signal(signal.SIGTERM)
        code = child.wait(timeout=300)
        print(f"{number:6} stopped    after {time.time() - began:.1f} s, exit code {code}", flush=True)
    finally:
        if child.poll() is None:
            child.kill()
        if os.environ.get("KEEP"):
            print(folder)
        else:
            shutil.rmtree(folder)


for number in [int(text) for text in sys.argv[1:]] or [1, 100, 1000, 10000]:
    run(number)
