"""Samples of spam that came through a server (sql/0005_policy.sql)."""

from relaytest.core.target import Address
from relaytest.store.database import Connection

ADD = """
    INSERT INTO relaytest.nomination (address, sample, truncated, tool)
    VALUES ($1, $2, $3, $4) RETURNING id
"""
ON_FILE = "SELECT EXISTS (SELECT FROM relaytest.nomination WHERE address = $1)"


async def add(
    connection: Connection, address: Address, sample: bytes, *, truncated: bool, tool: str
) -> int:
    """Put a sample on file; return its number."""
    nomination: int = await connection.fetchval(ADD, address, sample, truncated, tool)
    return nomination


async def on_file(connection: Connection, address: Address) -> bool:
    """Whether there is a sample from an address."""
    return bool(await connection.fetchval(ON_FILE, address))
