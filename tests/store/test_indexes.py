"""Every index serves a statement; one that serves none would cost each write for nothing."""

import re

import asyncpg

from tests.store.test_statements import IN_PARTS, STATEMENTS

# Those behind constraints, and the partitions' own, which follow their parent's, need no reason.
INDEXES = """
    SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
     WHERE c.relnamespace = 'relaytest'::regnamespace AND NOT i.indisunique AND NOT c.relispartition
"""
PARENTS = "SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits"
# What SQL functions do is in no plan.
IN_FUNCTIONS = {
    "job_network6": "retest_insert",  # open jobs of one /48
    "trial_requested": "next_request_at",
    "listing_trial": "needed_trials",
    "listing_change_trial": "forget_trials",
    "nomination_received": "forget_trials",
}


async def plan_of(connection: asyncpg.Connection, statement: str) -> str:
    """Explain a statement for numbers that are 1 and all else that is null."""
    prepared = await connection.prepare(statement)
    numbers = {"int2", "int4", "int8"}
    values = ["1" if one.name in numbers else "NULL" for one in prepared.get_parameters()]
    given = f"({', '.join(values)})" if values else ""
    await connection.execute(f"PREPARE asked AS {statement}")
    rows = await connection.fetch(f"EXPLAIN EXECUTE asked{given}")
    await connection.execute("DEALLOCATE asked")
    return "\n".join(row[0] for row in rows)


async def test_every_index_serves_a_statement(connection):
    await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    used: set[str] = set()
    for name in STATEMENTS.keys() - IN_PARTS:
        if not STATEMENTS[name].startswith("LOCK"):
            used |= set(
                re.findall(r"(?:using|on) (\w+)", await plan_of(connection, STATEMENTS[name]))
            )
    parents = {
        child.removeprefix("relaytest."): parent.removeprefix("relaytest.")
        for child, parent in await connection.fetch(PARENTS)
    }
    used |= {parents[index] for index in used & parents.keys()}
    every = {row[0] for row in await connection.fetch(INDEXES)}
    assert every - used == IN_FUNCTIONS.keys()
    there = "SELECT count(*) FROM pg_proc WHERE oid = ('relaytest.' || $1)::regproc"
    for function in IN_FUNCTIONS.values():
        assert await connection.fetchval(there, function) == 1
