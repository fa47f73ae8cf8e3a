"""How often somebody may ask for something (sql/0013_public.sql)."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from relaytest.store.database import Connection

USE = "SELECT relaytest.use_allowance($1, $2, $3)"
USED = "SELECT key, used FROM relaytest.allowance WHERE key = ANY ($1::text[]) AND ends_at > now()"
FORGET = "DELETE FROM relaytest.allowance WHERE ends_at < now()"


async def use(connection: Connection, key: str, most: int, window: timedelta) -> datetime | None:
    """Count one use.

    Args:
        connection: Inside a transaction; if it is rolled back, nothing was used.
        key: Of whom and what, at most 200 characters.
        most: So many in one window.
        window: Begins with the first use.

    Returns:
        None if it is within the allowance, else when there will be a new one.
    """
    until: datetime | None = await connection.fetchval(USE, key, most, window)
    return until


async def used(connection: Connection, keys: Sequence[str]) -> dict[str, int]:
    """Return how much of each was used in its window; those of which nothing was are missing."""
    return {row["key"]: row["used"] for row in await connection.fetch(USED, keys)}


async def forget(connection: Connection) -> None:
    """Drop the windows that are over."""
    await connection.execute(FORGET)
