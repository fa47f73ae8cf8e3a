"""Every SQL statement in relaytest.store is valid against the schema of sql/."""

import importlib
import pkgutil
from datetime import timedelta

import asyncpg
import pytest

import relaytest.store

IN_PARTS = {  # templates; two statements in one
    "exports.EXPORT",
    "exports.EXPORT_CODES",
    "exports.EXPORT_PATHS4",
    "exports.EXPORT_PATHS6",
    "exports.EXPORT_RECORDS",
    "exports.OWNER4",
    "exports.OWNER6",
    "migrations.BOOTSTRAP",
}

STATEMENTS = {
    f"{module.name.rpartition('.')[2]}.{name}": value
    for module in pkgutil.iter_modules(relaytest.store.__path__, "relaytest.store.")
    for name, value in vars(importlib.import_module(module.name)).items()
    if name.isupper() and not name.startswith("_") and isinstance(value, str)
}


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - IN_PARTS))
async def test_statement_prepares(connection: asyncpg.Connection, name: str):
    await connection.prepare(STATEMENTS[name])


def test_there_are_statements_to_check():
    assert len(STATEMENTS) > 50


async def test_the_claim_reads_little_however_much_waits(connection: asyncpg.Connection):
    await connection.execute(
        "INSERT INTO relaytest.job (address, port, reason, priority, run_at)"
        " SELECT '11.0.0.0'::inet + 256 * n, 25, 'recheck', 2, now() + (n - 4000) * interval '1 s'"
        " FROM generate_series(1, 8000) n"
    )
    await connection.execute("ANALYZE relaytest.job")
    worker = await connection.fetchval(
        "INSERT INTO relaytest.worker (host, pid, vantage, version, slots)"
        " VALUES ('h', 1, 'default', '1', 1) RETURNING id"
    )
    async with connection.transaction():
        claimed = await connection.fetch(
            STATEMENTS["jobs.CLAIM"], worker, 10, timedelta(minutes=1), False
        )
        read = await connection.fetchval(
            "SELECT pg_stat_get_xact_tuples_returned('relaytest.job'::regclass)"
            " + pg_stat_get_xact_tuples_fetched('relaytest.job'::regclass)"
        )
    assert len(claimed) == 10
    assert read < 500


async def test_looking_for_a_trial_to_judge_walks_its_index(connection: asyncpg.Connection):
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " SELECT n, n, '11.0.0.0'::inet + n, 25, 'recheck', 'x' FROM generate_series(1, 5000) n"
    )
    await connection.execute("ANALYZE relaytest.trial")
    plan = await connection.fetch("EXPLAIN " + STATEMENTS["evidence.DUE_TRIAL"])
    assert any("trial_settle" in row[0] for row in plan), plan
