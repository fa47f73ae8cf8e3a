"""What is kept by the month, and deleted when it is old enough (sql/0018_partitions.sql)."""

from datetime import timedelta

from relaytest.store.database import Connection

MAKE = "SELECT relaytest.make_partitions()"
EVIDENCE = "SELECT relaytest.forget_evidence($1, 1)"
TRIALS = "SELECT relaytest.forget_trials($1, $2)"

_LONGEST = 300.0  # seconds for a month: the hashes of its messages are put aside


async def make_partitions(connection: Connection) -> int:
    """Begin the month's partition, and make the next one ahead; return how many were made."""
    made: int = await connection.fetchval(MAKE)
    return made


async def forget_evidence(connection: Connection, older: timedelta) -> int | None:
    """Delete transcripts and messages of the oldest month that ended so long ago, if any.

    What is listed, suspected, still tested or judged is kept.

    Returns:
        1, or 0: there is none; None: somebody reads there, as a dump does.
    """
    months: int | None = await connection.fetchval(EVIDENCE, older, timeout=_LONGEST)
    return months


async def forget_trials(connection: Connection, older: timedelta, most: int) -> int | None:
    """Drop a month of verdicts, and delete up to `most` of its trials.

    Returns:
        How many trials; None: somebody reads there.
    """
    count: int | None = await connection.fetchval(TRIALS, older, most)
    return count
