"""The keys that sign tokens (sql/0002_evidence.sql): the newest settled one signs, all verify."""

from datetime import timedelta

import asyncpg

from relaytest.store.database import Connection

KEYS = "SELECT key FROM relaytest.token_key ORDER BY id DESC"
LIST = """
    SELECT id, created_at, lead(created_at) OVER (ORDER BY id) AS replaced_at
      FROM relaytest.token_key ORDER BY id
"""
ROTATE = """
    INSERT INTO relaytest.token_key (key)
    VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))) RETURNING id
"""
RING = "SELECT pg_notify('relaytest_key', '')"
# A trial that is still visited signs with the key it began with.
RETIRE = """
    DELETE FROM relaytest.token_key AS k
     USING (SELECT id, lead(created_at) OVER (ORDER BY id) AS replaced_at
              FROM relaytest.token_key) AS old
     WHERE old.id = k.id AND old.replaced_at < now() - $1::interval
       AND NOT EXISTS (SELECT FROM relaytest.job AS j JOIN relaytest.trial AS t ON t.id = j.trial
                        WHERE coalesce(t.key, 0) <= k.id)
    RETURNING k.id
"""


async def token_keys(connection: Connection) -> list[bytes]:
    """Return the keys that verify tokens, the newest first."""
    return [row["key"] for row in await connection.fetch(KEYS)]


async def listed(connection: Connection) -> list[asyncpg.Record]:
    """Return id, created_at and replaced_at of each key, the oldest first; never the key."""
    return await connection.fetch(LIST)


async def rotate(connection: Connection) -> int:
    """Make a new key, which signs trials that begin two minutes later; return its number."""
    number: int = await connection.fetchval(ROTATE)
    await connection.execute(RING)
    return number


async def retire(connection: Connection, after: timedelta) -> int:
    """Forget keys that were replaced longer ago than `after`; return how many."""
    return len(await connection.fetch(RETIRE, after))
