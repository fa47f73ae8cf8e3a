"""Migrations: order, locks, and databases that do not fit."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from relaytest.core.errors import SchemaError
from relaytest.store import migrations
from relaytest.store.cluster import Cluster
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


def test_a_folder_without_migrations_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(migrations, "files", lambda _: tmp_path / "a" / "b")
    with pytest.raises(SchemaError, match="no migrations"):
        shipped()
