"""A backup that was never restored is none: all rows and rights come back, on another server."""

import re
import subprocess
from pathlib import Path

import asyncpg

from relaytest.store.binaries import find_binaries
from tests.cli.program import relaytest
from tests.daemons.test_web import found_open, judged, nominated, put_on, received, talked
from tests.postgres import temporary_cluster

README = Path(__file__).parents[2] / "README.md"
TABLES = """
    SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
     WHERE schemaname = 'relaytest' AND tablename <> 'allowance' ORDER BY 1
"""
ROWS = (
    "SELECT count(*), coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '') FROM {} AS t"
)
RIGHTS = """
    SELECT relname AS name, relacl::text AS rights FROM pg_class
     WHERE relnamespace = 'relaytest'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
    UNION ALL SELECT oid::regprocedure::text, proacl::text FROM pg_proc
     WHERE pronamespace = 'relaytest'::regnamespace ORDER BY 1
"""


async def contents(dsn: str) -> tuple[dict[str, tuple[int, str]], set[tuple[str, frozenset[str]]]]:
    """Number and digest of each table's rows; and who may do what with what."""
    connection = await asyncpg.connect(dsn)
    names = [row["name"] for row in await connection.fetch(TABLES)]
    rows = {name: tuple(await connection.fetchrow(ROWS.format(name))) for name in names}
    rights = {
        (row["name"], frozenset((row["rights"] or "").strip("{}").split(",")))
        for row in await connection.fetch(RIGHTS)
    }
    await connection.close()
    return rows, rights


def run(tool: str, *words: str | Path) -> None:
    done = subprocess.run(
        [find_binaries() / tool, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_a_restore_loses_nothing(dsn, connection, tmp_path):
    await put_on(connection)
    await found_open(connection, "S-EXT/R-PLAIN")
    await talked(connection, b"EHLO x\r\n", b"250 \xff\x00\r\n")
    await received(connection, message=bytes(range(256)) * 100)
    await nominated(connection, b"Subject: x\r\n\r\nBuy!")
    await put_on(connection, "2001:db8::1", number=2)
    await judged(connection, "closed \u20ac", number=2)
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ('192.0.2.9', 'operator')"
    )
    before = await contents(dsn)
    assert sum(count for count, _ in before[0].values()) > 12

    run("pg_dump", "--format=custom", "--file", tmp_path / "backup", "--dbname", dsn)
    with temporary_cluster() as other:
        there = other.dsn()
        assert relaytest("db", "upgrade", RELAYTEST_DATABASE__DSN=there).returncode == 0
        run("psql", "--quiet", there, "-c", "DROP SCHEMA relaytest CASCADE")
        run("pg_restore", "--exit-on-error", "--dbname", there, tmp_path / "backup")
        assert await contents(there) == before
        done = relaytest("db", "status", "--json", RELAYTEST_DATABASE__DSN=there)
        assert done.returncode == 0, done.stderr
        done = relaytest("lookup", "192.0.2.1", RELAYTEST_DATABASE__DSN=there)
        assert "listed" in done.stdout
        again = await asyncpg.connect(there)
        job = "INSERT INTO relaytest.retest (target, reason) VALUES ($1, 'operator') RETURNING id"
        assert await again.fetchval(job, "192.0.2.10") == 2  # numbers go on where they were
        skip = re.search(r'-c "(SELECT setval.*)"$', README.read_text(), re.MULTILINE)
        assert await again.fetchval(skip[1]) > 10_000_000  # and those of trials far beyond
        await again.close()
