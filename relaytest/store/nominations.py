"""Samples of spam that came through a server (sql/0005_policy.sql, sql/0014_samples.sql)."""

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import Address
from relaytest.store.database import Connection

ADD = """
    INSERT INTO relaytest.nomination (address, sample, truncated, tool)
    VALUES ($1, $2, $3, $4) RETURNING id
"""
SUBMIT = """
    INSERT INTO relaytest.submission (sample, truncated, address, port, tool)
    VALUES ($1, $2, $3, $4, $5) RETURNING id
"""
TAKE = """
    SELECT id, sample, truncated, address, port, tool FROM relaytest.submission
     WHERE done_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""
DONE = """
    UPDATE relaytest.submission SET done_at = now(), sample = NULL, outcome = $2 WHERE id = $1
"""
OUTCOME = "SELECT received_at, done_at, outcome FROM relaytest.submission WHERE id = $1"
FORGET = "DELETE FROM relaytest.submission WHERE done_at < now() - $1::interval"
OF_ADDRESS = """
    SELECT id, received_at, tool, octet_length(sample) AS octets FROM relaytest.nomination
     WHERE address = $1 ORDER BY id DESC LIMIT 10
"""
SAMPLE = """
    SELECT n.id, n.address, n.received_at, n.tool, n.sample, n.truncated, k.key,
           EXISTS (SELECT FROM relaytest.listing AS l
                    WHERE l.address = n.address AND l.state <> 'unlisted') AS public
      FROM relaytest.nomination AS n CROSS JOIN relaytest.mask_key AS k WHERE n.id = $1
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


@dataclass(frozen=True, slots=True)
class Submission:
    """A sample that came to us.

    Attributes:
        truncated: The message was longer.
        address: Who is nominated; None: whoever sent it to us, by the Received lines.
        port: To be tested.
        tool: Who or what it comes from.
    """

    sample: bytes
    truncated: bool
    address: Address | None
    port: int
    tool: str
    id: int = 0


async def submit(connection: Connection, submission: Submission) -> int:
    """Let the scheduler have a sample; return its number.

    Raises:
        RefusedRequestError: Too many wait already.
    """
    try:
        number: int = await connection.fetchval(
            SUBMIT,
            submission.sample,
            submission.truncated,
            submission.address,
            submission.port,
            submission.tool,
        )
    except asyncpg.ProgramLimitExceededError as error:
        raise RefusedRequestError(error.message or str(error), error.hint or "") from None
    return number


async def take(connection: Connection) -> Submission | None:
    """Return a sample that nobody has read, locked until the transaction ends; None: none."""
    row = await connection.fetchrow(TAKE)
    return Submission(**row) if row else None


async def done(connection: Connection, submission: int, outcome: str) -> None:
    """Note what became of a sample."""
    await connection.execute(DONE, submission, outcome)


async def outcome_of(connection: Connection, submission: int) -> asyncpg.Record | None:
    """Return received_at, done_at and outcome; None if there is no such submission."""
    return await connection.fetchrow(OUTCOME, submission)


async def forget(connection: Connection, older: timedelta) -> None:
    """Delete what is done for so long."""
    await connection.execute(FORGET, older)


async def of_address(connection: Connection, address: Address) -> list[asyncpg.Record]:
    """Return id, received_at, tool and octets of the newest samples from an address."""
    return await connection.fetch(OF_ADDRESS, address)


async def sample(connection: Connection, nomination: int) -> asyncpg.Record | None:
    """Return a sample's row with the key that masks it, and whether it is public at present."""
    return await connection.fetchrow(SAMPLE, nomination)
