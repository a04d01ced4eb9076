"""One connection, told by its stdin: each line is SQL; the answer is one line of JSON. `!` instead of SQL ends at once."""
import json, os, sys
import duckdb

c = duckdb.connect(config={"threads": 1})
for line in sys.stdin:
    if line.strip() == "!": os._exit(0)
    try:
        r = c.execute(line)
        rows = r.fetchall() if r.description else []
        print(json.dumps({"ok": True, "rows": rows}, default=str), flush=True)
    except Exception as e:
        print(json.dumps({"ok": False, "error": str(e)}), flush=True)
