"""The application of tests/e2e.sh. It knows nothing of replicate.

    e2e_app.py write DATABASE WORLD    commits until TERM; keeps a record of every commit in WORLD, which outlives the machine
    e2e_app.py digest DATABASE         tells which commit the database ends with, and a hash of everything in it

WORLD/record has `start N HASH` for what was found at the start, then for each commit `commit N HASH` right before it is made and
`done N` when the database has confirmed it. While WORLD/hold exists nothing is committed; WORLD/held says so.
A database is DuckDB's if its name ends with .duckdb, and otherwise SQLite's.
"""

import hashlib
import os
import random
import signal
import sys
import time

ACCOUNTS = 20


def connect(path, read_only):
    if path.endswith(".duckdb"):
        import duckdb

        return duckdb.connect(path, read_only=read_only)
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    if not read_only:
        connection.execute("PRAGMA journal_mode=wal")
    return connection


def state(connection):
    """The number of the last commit, and a hash of every row."""
    entries = connection.execute("SELECT n, text FROM entry ORDER BY n").fetchall()
    accounts = connection.execute("SELECT id, balance FROM account ORDER BY id").fetchall()
    content = repr([tuple(row) for row in entries + accounts]).encode()
    return (entries[-1][0] if entries else 0), hashlib.sha256(content).hexdigest()


def create(connection):
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE IF NOT EXISTS entry (n INTEGER PRIMARY KEY, text VARCHAR)")
    connection.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER)")
    if not connection.execute("SELECT count(*) FROM account").fetchone()[0]:
        for account in range(ACCOUNTS):
            connection.execute("INSERT INTO account VALUES (?, 1000)", [account])
    connection.execute("COMMIT")


def write(path, world):
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    hold, held = os.path.join(world, "hold"), os.path.join(world, "held")
    connection = connect(path, read_only=False)
    create(connection)
    with open(os.path.join(world, "record"), "w", buffering=1) as record:
        n, found = state(connection)
        record.write(f"start {n} {found}\n")
        with open(os.path.join(world, "pid"), "w") as pid:
            pid.write(f"{os.getpid()}\n")
        while not stopping:
            if os.path.exists(hold):
                open(held, "w").close()
                time.sleep(0.01)
                continue
            n += 1
            connection.execute("BEGIN")
            connection.execute("INSERT INTO entry VALUES (?, ?)", [n, random.randbytes(random.randrange(400)).hex()])
            amount, giver, taker = random.randrange(100), random.randrange(ACCOUNTS), random.randrange(ACCOUNTS)
            connection.execute("UPDATE account SET balance = balance - ? WHERE id = ?", [amount, giver])
            connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", [amount, taker])
            record.write(f"commit {n} {state(connection)[1]}\n")
            connection.execute("COMMIT")
            record.write(f"done {n}\n")
            time.sleep(0.01)
    connection.close()


if sys.argv[1] == "write":
    write(sys.argv[2], sys.argv[3])
else:
    print(*state(connect(sys.argv[2], read_only=True)))
