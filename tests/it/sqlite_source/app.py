import os, sqlite3, sys

connection = sqlite3.connect(os.environ["REPLICATE_TEST_APP_DATABASE"], isolation_level=None, timeout=5)
for line in sys.stdin:
    line = line.rstrip("\n")
    keeps, line = line.startswith("!"), line.lstrip("!")
    try:
        if line == ".close":
            connection.close()
            print("=ok=", flush=True)
            continue
        first, rest = None, line
        statements, current = [], ""
        for part in rest.split(";"):
            current += part
            if sqlite3.complete_statement(current + ";"):
                statements.append(current)
                current = ""
            else:
                current += ";"
        for statement in statements:
            if not statement.strip():
                continue
            rows = connection.execute(statement).fetchall()
            if first is None and rows:
                first = "|".join(str(value) for value in rows[0])
        print("=ok=" + (first or ""), flush=True)
    except sqlite3.Error as error:
        if connection.in_transaction and not keeps:
            connection.execute("ROLLBACK")
        print("=error=" + str(error), flush=True)
