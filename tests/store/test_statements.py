"""Every SQL statement in relaytest.store is valid against the schema of sql/."""

import importlib
import pkgutil

import asyncpg
import pytest

import relaytest.store

_IN_PARTS = {"listings.EXPORT", "migrations.BOOTSTRAP"}  # a template; two statements in one

STATEMENTS = {
    f"{module.name.rpartition('.')[2]}.{name}": value
    for module in pkgutil.iter_modules(relaytest.store.__path__, "relaytest.store.")
    for name, value in vars(importlib.import_module(module.name)).items()
    if name.isupper() and not name.startswith("_") and isinstance(value, str)
}


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - _IN_PARTS))
async def test_statement_prepares(connection: asyncpg.Connection, name: str):
    await connection.prepare(STATEMENTS[name])


def test_there_are_statements_to_check():
    assert len(STATEMENTS) > 50


async def test_the_claim_walks_the_index_of_ready_jobs(connection: asyncpg.Connection):
    await connection.execute(
        "INSERT INTO relaytest.job (address, port, reason, priority, run_at)"
        " SELECT '11.0.0.0'::inet + n, 25, 'recheck', 2, now() - n * interval '1 s'"
        " FROM generate_series(1, 5000) n"
    )
    await connection.execute("ANALYZE relaytest.job")
    query = STATEMENTS["jobs.CLAIM"].replace("$1", "1::bigint").replace("$2", "10::bigint")
    plan = await connection.fetch("EXPLAIN " + query.replace("$3", "interval '1 min'"))
    lines = "\n".join(row[0] for row in plan)
    assert "job_ready" in lines
    assert "Seq Scan on job" not in lines


async def test_looking_for_a_trial_to_judge_walks_its_index(connection: asyncpg.Connection):
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " SELECT n, n, '11.0.0.0'::inet + n, 25, 'recheck', 'x' FROM generate_series(1, 5000) n"
    )
    await connection.execute("ANALYZE relaytest.trial")
    plan = await connection.fetch("EXPLAIN " + STATEMENTS["evidence.DUE_TRIAL"])
    assert any("trial_settle" in row[0] for row in plan), plan
