"""Migrations: order, locks, and databases that do not fit."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.core.errors import SchemaError
from relaytest.store import evidence, jobs, migrations, pages
from relaytest.store.cluster import Cluster
from relaytest.store.jobs import Ending
from relaytest.store.migrations import Migration, shipped, status, upgrade_one

EXTRA = Migration(len(shipped()) + 1, "9999_extra", "CREATE TABLE relaytest.extra (x integer)")


@pytest.fixture
async def empty(cluster: Cluster):
    """The DSN of a database without the schema."""
    admin = await asyncpg.connect(cluster.dsn("postgres"))
    await admin.execute("CREATE DATABASE empty_one")
    yield cluster.dsn("empty_one")
    await admin.execute("DROP DATABASE empty_one WITH (FORCE)")
    await admin.close()


async def upgrade(dsn: str, known=None) -> list[str]:
    connection = await asyncpg.connect(dsn)
    names: list[str] = []
    try:
        while True:
            async with connection.transaction():
                name = await upgrade_one(connection, known or shipped())
            if name is None:
                return names
            names.append(name)
    finally:
        await connection.close()


def test_the_shipped_migrations_are_numbered_without_gaps():
    assert [one.version for one in shipped()] == list(range(1, len(shipped()) + 1))


async def test_an_empty_database_gets_all_migrations_once(empty):
    assert await upgrade(empty) == [one.name for one in shipped()]
    assert await upgrade(empty) == []


async def test_two_upgrades_at_once_apply_each_migration_once(empty):
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(upgrade(empty)) for _ in range(2)]
    assert sorted(both[0].result() + both[1].result()) == [one.name for one in shipped()]


async def test_a_migration_that_fails_leaves_nothing_behind(empty):
    broken = replace(EXTRA, text="CREATE TABLE relaytest.extra (x integer); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await upgrade(empty, (*shipped(), broken))
    connection = await asyncpg.connect(empty)
    assert await connection.fetchval("SELECT to_regclass('relaytest.extra')") is None
    assert (await status(connection, shipped())).version == len(shipped())
    await connection.close()


async def test_status_names_what_is_pending(connection):
    found = await status(connection, (*shipped(), EXTRA))
    assert found.version == len(shipped())
    assert found.pending == ("9999_extra",)


async def test_a_database_newer_than_the_program_is_refused(connection):
    async with connection.transaction():
        await upgrade_one(connection, (*shipped(), EXTRA))
    with pytest.raises(SchemaError, match=f"schema {EXTRA.version}.*newer relaytest"):
        await status(connection, shipped())


async def test_a_migration_changed_after_it_was_applied_is_refused(connection):
    first, *rest = shipped()
    with pytest.raises(SchemaError, match=f"{first.name} was changed"):
        await status(connection, (replace(first, text=first.text + "-- x"), *rest))


# What a working system had when the listing was there, the first schema of any use.
FILL = """
    INSERT INTO relaytest.scope_network VALUES ('192.0.2.0/24', 'allow', 'a test');
    INSERT INTO relaytest.retest (target, reason, note)
    VALUES ('192.0.2.1', 'nominated', 'n'), ('192.0.2.2', 'recheck', NULL);
    INSERT INTO relaytest.trial
        (id, job, address, port, reason, requester, forms, visits, probed_at, ended)
    VALUES (nextval('relaytest.trial_id'), 1, '192.0.2.1', 25, 'nominated', 'x', '{257}', 1, now(),
            true),
           (nextval('relaytest.trial_id'), 2, '192.0.2.2', 25, 'recheck', 'x', '{}', 0, NULL,
            false);
    INSERT INTO relaytest.session
        (trial, visit, purpose, started_at, seconds, ended, at, ours, octets)
    VALUES (1, 1, 'scout', now(), 1, 'complete', '{0.1}', '{f}', ARRAY['220 hello'::bytea]);
    INSERT INTO relaytest.outcome (session, trial, visit, form, step, code)
    VALUES (1, 1, 1, 257, 'end-of-data', 250);
    INSERT INTO relaytest.receipt
        (trial, form, mailbox, peer, helo, reverse_path, forward_path, message, size)
    VALUES (1, 257, 'forward', '192.0.2.1', 'h', '', 'f', 'Subject: x', 10);
    INSERT INTO relaytest.verdict
        (trial, address, port, verdict, reason, confidence, explanation, forms)
    VALUES (1, '192.0.2.1', 25, 'open', 'relayed', 'high', 'Came back.', '{S-PLAIN/R-PLAIN}');
    INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at, recheck_at)
    VALUES ('192.0.2.1', 25, 'listed', 1, now(), now() + interval '1 day', now());
"""
TABLES = """
    SELECT table_name FROM information_schema.tables
     WHERE table_schema = 'relaytest' AND table_type = 'BASE TABLE'
"""


async def counts(connection: asyncpg.Connection) -> dict[str, int]:
    """Return the number of rows of each table."""
    names = [row[0] for row in await connection.fetch(TABLES)]
    count = "SELECT count(*) FROM relaytest.{}"
    return {name: await connection.fetchval(count.format(name)) for name in names}


@pytest.mark.parametrize("version", range(3, len(shipped())))
async def test_a_database_with_data_is_upgraded_and_nothing_is_lost(empty, version):
    await upgrade(empty, shipped()[:version])
    connection = await asyncpg.connect(empty)
    await connection.execute(FILL)
    before = await counts(connection)
    await upgrade(empty)
    after = await counts(connection)
    filled = {table for table, rows in before.items() if rows} - {"schema_version", "scope_network"}
    assert {table: after[table] for table in filled} == {table: before[table] for table in filled}
    assert {"job", "trial", "session", "outcome", "receipt", "verdict", "listing"} <= filled
    standing = await pages.standing_of(connection, ip_address("192.0.2.1"))
    assert [row["trial"] for row in standing.listings] == [1]
    worker = await jobs.join_workers(
        connection, host="h", pid=1, vantage="default", version="1", slots=1
    )
    claimed = await jobs.claim(connection, worker, 10, timedelta(minutes=1))
    assert {str(job.address) for job in claimed} == {"192.0.2.1", "192.0.2.2"}
    for job in claimed:
        assert await jobs.finish(connection, job, retry_in=None) is Ending.ENDED
    assert await evidence.trial_of(connection, 1) is not None
    await connection.close()


def test_a_folder_without_migrations_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(migrations, "files", lambda _: tmp_path / "a" / "b")
    with pytest.raises(SchemaError, match="no migrations"):
        shipped()
