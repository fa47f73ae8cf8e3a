"""Requests for names, which the scheduler turns into jobs (sql/0008_requests.sql)."""

from dataclasses import dataclass
from datetime import datetime

from relaytest.store.database import Connection

# Taken for a minute, so that no transaction is open while we wait for the DNS.
TAKE = """
    UPDATE relaytest.name_request SET look_at = now() + interval '1 min', tries = tries + 1
     WHERE id IN (SELECT id FROM relaytest.name_request
                   WHERE look_at <= now() ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, name, port, reason::text, priority, run_at, requester, note, vantage, tries
"""
DONE = "UPDATE relaytest.name_request SET look_at = NULL, outcome = $2 WHERE id = $1"
FORGET = """
    DELETE FROM relaytest.name_request
     WHERE look_at IS NULL AND created_at < now() - interval '7 days'
"""


@dataclass(frozen=True, slots=True)
class NameRequest:
    """A name that somebody asked to have tested.

    Attributes:
        tries: Look-ups so far, this one included.
    """

    id: int
    name: str
    port: int
    reason: str
    priority: int
    run_at: datetime
    requester: str
    note: str | None
    vantage: str | None
    tries: int


async def take(connection: Connection, most: int) -> list[NameRequest]:
    """Return names to look up now; who does not say `done` meets them again in a minute."""
    return [NameRequest(**row) for row in await connection.fetch(TAKE, most)]


async def done(connection: Connection, request: int, outcome: str) -> None:
    """Note what a look-up led to; the row is kept for a week for whoever asked."""
    await connection.execute(DONE, request, outcome)
    await connection.execute(FORGET)
