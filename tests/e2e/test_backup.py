"""A backup that was never restored is none: all rows and rights come back, on another server."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from relaytest.store.binaries import command_on, find_binaries
from relaytest.store.cluster import Cluster
from tests.cli.program import relaytest
from tests.daemons.test_web import found_open, judged, nominated, put_on, received, talked
from tests.lab import until
from tests.postgres import temporary_cluster

OPERATE = Path(__file__).parents[2] / "docs" / "operate.md"
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
    complete([find_binaries() / tool, *words])


def complete(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


async def fill(connection: asyncpg.Connection) -> None:
    """Put something into every corner."""
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


async def test_a_restore_loses_nothing(dsn, connection, tmp_path):
    await fill(connection)
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
        skip = re.search(r'-c "(SELECT setval.*)"$', OPERATE.read_text(), re.MULTILINE)
        assert await again.fetchval(skip[1]) > 10_000_000  # and those of trials far beyond
        await again.close()


@pytest.fixture
async def archive(tmp_path_factory) -> AsyncIterator[Path]:
    """A folder for a server, its copy and its archive, which other users may enter."""
    folder = tmp_path_factory.mktemp("archive")
    folder.chmod(0o711)
    (folder / "wal").mkdir()
    (folder / "wal").chmod(0o777)  # the server of a root runs as another user
    yield folder
    for name in ("one", "two"):
        if (folder / name / "postmaster.pid").exists():
            await Cluster(folder / name).stop(always=True)


async def archiving(folder: Path) -> Cluster:
    """Start a server that keeps its WAL, as the manual says; with our schema."""
    server = Cluster(folder / "one", durable=False)
    await server.start()
    admin = await asyncpg.connect(server.dsn())
    await admin.execute("ALTER SYSTEM SET archive_mode = on")
    wal = folder / "wal"
    await admin.execute(
        f"ALTER SYSTEM SET archive_command = 'test ! -f {wal}/%f && cp %p {wal}/%f'"
    )
    await admin.close()
    await server.stop()
    await server.start()
    assert relaytest("db", "upgrade", RELAYTEST_DATABASE__DSN=server.dsn()).returncode == 0
    return server


async def archived(admin: asyncpg.Connection, folder: Path) -> bool | None:
    """Whether all that was written before a switch of the WAL is in the archive."""
    name = await admin.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
    return await until(lambda: asyncio.to_thread(there, folder / "wal" / name), "the archived WAL")


def there(file: Path) -> bool | None:
    return file.exists() or None


async def test_a_restore_to_a_moment_loses_nothing_but_the_accident(archive):
    server = await archiving(archive)
    admin = await asyncpg.connect(server.dsn())
    await put_on(admin)
    copy = archive / "two"
    copy.mkdir(mode=0o700)
    source = ["-h", server.socket_dir, "-U", "postgres", "-c", "fast", "--no-sync"]
    complete([*command_on(find_binaries() / "pg_basebackup", copy), *map(str, source)])

    # From here on all is in the WAL alone.
    await put_on(admin, "2001:db8::1", number=2)
    await received(admin, message=b"Subject: x\r\n\r\nlate")
    before = await contents(server.dsn())
    moment = await admin.fetchval("SELECT clock_timestamp()::text")
    await admin.execute("DELETE FROM relaytest.receipt; DELETE FROM relaytest.listing")
    await archived(admin, archive)
    await admin.close()
    await server.stop()

    (copy / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # no data, but copied as such
    with (copy / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"restore_command = 'cp {archive}/wal/%f %p'\n"
            f"recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n"
        )
    (copy / "recovery.signal").touch(mode=0o666)
    restored = Cluster(copy, durable=False)
    await restored.start()
    admin = await asyncpg.connect(restored.dsn())
    await until(lambda: promoted(admin), "the end of the recovery")
    await admin.close()
    assert await contents(restored.dsn()) == before
    done = relaytest("lookup", "2001:db8::1", RELAYTEST_DATABASE__DSN=restored.dsn())
    assert "listed" in done.stdout


async def promoted(admin: asyncpg.Connection) -> bool | None:
    return not await admin.fetchval("SELECT pg_is_in_recovery()") or None
