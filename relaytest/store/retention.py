"""What is deleted when it is old enough (sql/0010_retention.sql)."""

from datetime import timedelta

from relaytest.store.database import Connection

EVIDENCE = "SELECT relaytest.forget_evidence($1, $2)"
TRIALS = "SELECT relaytest.forget_trials($1, $2)"


async def forget_evidence(connection: Connection, older: timedelta, most: int) -> int:
    """Delete transcripts and messages of up to `most` old trials; return of how many."""
    count: int = await connection.fetchval(EVIDENCE, older, most)
    return count


async def forget_trials(connection: Connection, older: timedelta, most: int) -> int:
    """Delete up to `most` old trials with their verdicts; return how many."""
    count: int = await connection.fetchval(TRIALS, older, most)
    return count
