"""What a puzzle is signed with, and the time that it is good for (relaytest.daemons.web.puzzle)."""

from datetime import datetime

from relaytest.store.database import Connection

KEY = "SELECT key, now() AS now FROM relaytest.mask_key"


async def key_and_time(connection: Connection) -> tuple[bytes, datetime]:
    """Return a secret that all web processes share, and the database's time."""
    row = await connection.fetchrow(KEY)
    assert row is not None
    return row["key"], row["now"]
