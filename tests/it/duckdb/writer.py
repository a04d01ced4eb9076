"""A ledger writer: writer.py DATABASE ACKFILE SECONDS, options in the environment.

Five threads: A transfers between accounts whose sum is constant, B writes, updates and drops bulk rows with their sums,
D inserts only (its commits can happen during a checkpoint), R holds long reads (so that checkpoints are concurrent ones),
K runs checkpoints. Every transaction of A and B raises that thread's counter, every one of D its own number.
Lines of ACKFILE: `i|a|f thread number monotonic`: about to commit, committed, failed.
"""
import os, random, sys, threading, time
import duckdb

path, ack_path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
env = os.environ.get
seed = int(env("SEED", "1"))
version = duckdb.__version__
root = duckdb.connect(config={"threads": 2})
if env("UNSAFE"):
    if version.startswith("2"): root.execute("set debug_force_mbedtls_unsafe=true")
    elif version.startswith("1.5"): root.execute("set force_mbedtls_unsafe=true")
root.execute(f"attach '{path}' as d {env('ATTACH', '')}")
root.execute("use d")
root.execute(f"set wal_autocheckpoint='{env('AUTOCKPT', '1MB')}'")
if env("SLEEPCK"): root.execute(f"set debug_checkpoint_sleep_ms={env('SLEEPCK')}")

def cursor():
    c = root.cursor(); c.execute("use d"); return c

if not root.execute("select count(*) from duckdb_tables() where table_name='ctr'").fetchone()[0]:
    for q in ["begin",
              "create table ctr(name varchar primary key, n bigint)", "insert into ctr values ('A',0),('B',0)",
              "create table acct(id int, bal bigint, pad varchar)",
              "insert into acct select i, 1000, repeat('p',i%50) from range(500) r(i)",
              "create table log(n bigint, kind varchar, v double)", "create table logdel(n bigint, cnt bigint)",
              "create table bulk(n bigint, i bigint, h ubigint, s varchar)",
              "create table bulkmeta(n bigint, cnt bigint, sh hugeint)", "create table dlog(n bigint, v varchar)",
              "create table ctasmeta(n bigint, name varchar, cnt bigint, sh hugeint)", "commit"]:
        root.execute(q)
if env("NOIDX") is None and version >= "1.4" and not root.execute("select count(*) from duckdb_indexes() where index_name='ix'").fetchone()[0]:
    root.execute("create table kv(k bigint, v varchar)"); root.execute("create index ix on kv(k)")
IDX = version >= "1.4" and env("NOIDX") is None

ack, lock = open(ack_path, "a", buffering=1), threading.Lock()
def note(kind, thread, n):
    with lock: ack.write(f"{kind} {thread} {n} {time.monotonic():.6f}\n")

end, stats, fatal = time.time() + seconds, {}, []
def count(what): stats[what] = stats.get(what, 0) + 1

def transaction(c, thread, n, statements):
    c.execute("begin")
    try:
        for q in statements: c.execute(q)
        c.execute(f"update ctr set n={n} where name='{thread}'")
        note("i", thread, n); c.execute("commit"); note("a", thread, n)
        return True
    except Exception as e:
        note("f", thread, n); count(f"{thread} ERR {str(e)[:70]}")
        if "invalidated" in str(e): fatal.append(str(e)); raise
        try: c.execute("rollback")
        except Exception: pass
        return False

def A():
    c, r = cursor(), random.Random(seed); n = c.execute("select n from ctr where name='A'").fetchone()[0]; col = 0
    while time.time() < end and not fatal:
        k, m = r.random(), n + 1
        if k < 0.72:
            a, b, x = r.randint(0, 499), r.randint(0, 499), r.randint(1, 50)
            st = [f"update acct set bal=bal-{x} where id={a}", f"update acct set bal=bal+{x} where id={b}",
                  f"insert into log values ({m},'t',random())"]
        elif k < 0.88: st = [f"insert into log select {m}, 'm', random() from range({r.randint(1,3000)})"]
        elif k < 0.9:
            st = [f"create table if not exists alt{m} (a int)", f"alter table alt{m} add column b int",
                  f"drop table alt{m}", f"insert into log values ({m},'a',0)"]
        elif k < 0.92 and IDX: st = [f"insert into kv values ({m},'v'||{m})", f"insert into log values ({m},'k',0)"]
        else:
            lo = r.randint(0, max(1, n)); hi = lo + r.randint(0, 20)
            st = [f"insert into logdel select {m}, count(*) from log where n between {lo} and {hi}",
                  f"delete from log where n between {lo} and {hi}", f"insert into log values ({m},'d',0)"]
        if transaction(c, "A", m, st): n = m; count("A")
        time.sleep(r.choice([0, 0, 0.002, 0.02, 0.05]) * float(env("SLOW", "1")))

def B():
    c, r = cursor(), random.Random(seed + 1); n = c.execute("select n from ctr where name='B'").fetchone()[0]
    tables = [x[0] for x in c.execute("select name from ctasmeta order by n").fetchall()]
    bulks = [x[0] for x in c.execute("select n from bulkmeta order by n").fetchall()]
    while time.time() < end and not fatal:
        k, m = r.random(), n + 1
        meta = f"insert into bulkmeta select {m}, count(*), sum(h) from bulk where n={m}"
        if k < 0.35:
            z, s = r.randint(123000, 400000), r.randint(0, 10**9); kind = "bulk"
            st = [f"insert into bulk select {m}, i, hash(i+{s}), 's'||(i*{s}%977) from range({z}) t(i)", meta]
        elif k < 0.55:
            z, s, name, kind = r.randint(1000, 300000), r.randint(0, 10**9), f"ct{m}", "ctas"
            st = [f"create table {name} as select i, hash(i+{s}) h, repeat('z',(i%13)::int) s from range({z}) t(i)",
                  f"insert into ctasmeta select {m}, '{name}', count(*), sum(h) from {name}"]
        elif k < 0.75:
            kind = "small"
            st = [f"insert into bulk select {m}, i, hash(i), 'q' from range({r.randint(1,4000)}) t(i)", meta]
        elif k < 0.85 and bulks:
            kind = "delete"; d = bulks[0]
            st = [f"delete from bulk where n={d}", f"delete from bulkmeta where n={d}"]
        elif k < 0.92 and tables:
            kind = "drop"; st = [f"drop table {tables[0]}", f"delete from ctasmeta where name='{tables[0]}'"]
        elif bulks:
            kind = "update"; d = r.choice(bulks)
            st = [f"update bulk set h=h+1 where n={d} and i%1000=0", f"delete from bulkmeta where n={d}",
                  f"insert into bulkmeta select {d}, count(*), sum(h) from bulk where n={d}"]
        else: continue
        if r.random() < 0.1 and kind in ("bulk", "ctas"):
            c.execute("begin"); c.execute(st[0].replace("ct", "rb", 1) if kind == "ctas" else st[0])
            c.execute("rollback"); count("B rolled back"); continue
        if transaction(c, "B", m, st):
            n = m; count("B " + kind)
            if kind in ("bulk", "small"): bulks.append(m)
            if kind == "ctas": tables.append(f"ct{m}")
            if kind == "delete": bulks.pop(0)
            if kind == "drop": tables.pop(0)
            if len(bulks) > 25:
                d = ",".join(map(str, bulks[:10]))
                if transaction(c, "B", n + 1, [f"delete from bulk where n in ({d})", f"delete from bulkmeta where n in ({d})"]):
                    n += 1; del bulks[:10]
        time.sleep(r.choice([0, 0.01, 0.1, 0.3]) * float(env("SLOW", "1")))

def D():
    c, r = cursor(), random.Random(seed + 2); n = c.execute("select max(n) from dlog").fetchone()[0] or 0
    while time.time() < end and not fatal:
        m = n + 1
        try:
            note("i", "D", m)
            if r.random() < float(env("BIGP", "0.03")): c.execute(f"insert into dlog select {m}, 'b'||i from range(125000) t(i)")
            else: c.execute(f"insert into dlog values ({m},'x')")
            note("a", "D", m); n = m; count("D")
        except Exception as e:
            count(f"D ERR {str(e)[:60]}")
            if "invalidated" in str(e): fatal.append(str(e)); return
        time.sleep(r.choice([0.005, 0.02, 0.05]) * float(env("SLOW", "1")))

def R():
    c, r = cursor(), random.Random(seed + 3)
    while time.time() < end and not fatal:
        try:
            c.execute("begin"); c.execute("select count(*) from log").fetchall(); time.sleep(r.uniform(0.05, 1.0)); c.execute("commit")
        except Exception as e: count(f"R ERR {str(e)[:60]}")
        time.sleep(r.uniform(0, 0.5))

def K():
    c, r = cursor(), random.Random(seed + 4)
    while time.time() < end and not fatal:
        time.sleep(r.uniform(0.3, 3))
        try: c.execute("force checkpoint" if env("FORCE") and r.random() < 0.3 else "checkpoint"); count("K")
        except Exception as e: count(f"K ERR {str(e)[:60]}")

threads = [threading.Thread(target=f) for f in ((D, R, K) if env("INSONLY") else (A, B, D, R, K))]
[t.start() for t in threads]; [t.join() for t in threads]
print(version, stats, "fatal", fatal[:1], flush=True)
root.execute("use memory")
if not env("NOCLOSE"): root.execute("detach d"); root.close()
os._exit(0)
