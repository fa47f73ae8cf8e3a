"""What the pages and the command line show: reading only."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from relaytest.core.target import Address
from relaytest.core.transcript import Exchange, Transcript
from relaytest.store import exclusions, vantages
from relaytest.store.database import Connection

VERDICTS = """
    SELECT port, verdict, reason, condition, exit_address, confidence, explanation, forms, trial,
           decided_at
      FROM relaytest.verdict_latest WHERE address = $1 ORDER BY port
"""
LISTINGS = """
    SELECT port, code, listed_at, expires_at, recheck_at, trial,
           (SELECT nullif(greatest(relaytest.next_request_at(address, port), now()), now())
           ) AS request_at
      FROM relaytest.listing_current WHERE address = $1 ORDER BY port
"""
SUSPICIONS = """
    SELECT port, changed_at, expires_at, recheck_at, trial FROM relaytest.listing
     WHERE address = $1 AND state = 'suspected' AND expires_at > now() ORDER BY port
"""
NOMINATIONS = """
    SELECT count(*) AS samples, max(received_at) AS last_at FROM relaytest.nomination
     WHERE address = $1 HAVING count(*) > 0
"""
JOBS = """
    SELECT id, port, reason::text, priority, run_at, leased, requests
      FROM relaytest.job WHERE address = $1 ORDER BY port
"""
HISTORY = """
    SELECT port, at, event, old, new, why, trial, actor, id FROM relaytest.listing_history
     WHERE address = $1 AND id < $2 ORDER BY id DESC LIMIT 200
"""
MOST_HISTORY = 200
TRIAL = "SELECT id, address, port, started_at, visits FROM relaytest.trial WHERE id = $1"
SESSIONS = """
    SELECT id, purpose, started_at, seconds, host(source) AS source, ended, detail, tls,
           at, ours, octets
      FROM relaytest.session WHERE trial = $1 ORDER BY id LIMIT 200
"""
TRIAL_VERDICT = """
    SELECT verdict, reason, explanation, decided_at FROM relaytest.verdict
     WHERE trial = $1 ORDER BY id DESC LIMIT 1
"""
SAID = "SELECT ours, octets FROM relaytest.session WHERE trial = $1 ORDER BY id LIMIT 8"
RECEIPTS = """
    SELECT id, form, mailbox, peer, helo, reverse_path, forward_path, received_at, copies, size,
           substr(message, 1, 65536) AS message
      FROM relaytest.receipt WHERE trial = $1 ORDER BY id LIMIT 50
"""
LISTED = """
    SELECT DISTINCT address FROM relaytest.listing_current WHERE address = ANY ($1::inet[])
"""
LISTED_PORTS = """
    SELECT port FROM relaytest.listing_current WHERE address = $1 AND port > 0 ORDER BY port
"""
COUNTS = """
    SELECT (SELECT count(DISTINCT address) FROM relaytest.listing_current) AS listed,
           (SELECT count(*) FROM relaytest.job) AS jobs,
           (SELECT count(*) FROM relaytest.trial WHERE settle_at IS NOT NULL) AS unsettled,
           (SELECT max(received_at) FROM relaytest.sink_check) AS sink_proven_at
"""
WORKERS = """
    SELECT w.host, w.pid, w.vantage, w.version, w.slots, w.started_at, w.beat_at,
           coalesce(held.jobs, 0) AS in_flight
      FROM relaytest.worker AS w
      LEFT JOIN (SELECT worker, count(*) AS jobs FROM relaytest.job WHERE leased GROUP BY worker)
        AS held ON held.worker = w.id
     ORDER BY w.host, w.id
"""
MOMENT = """
    SELECT now() AS read_at,
           (SELECT count(*) FROM relaytest.verdict
             WHERE decided_at > now() - interval '1 min') AS verdicts_per_minute
"""


Row = asyncpg.Record  # by this name also for those who do not know asyncpg
LAST = (1 << 63) - 1  # no id is greater
_MOST_SAID = 20_000  # octets that are looked through for the product's name


@dataclass(frozen=True, slots=True)
class Standing:
    """All that there is to say about one address; the rows of the statements above."""

    verdicts: list[asyncpg.Record]
    listings: list[asyncpg.Record]
    jobs: list[asyncpg.Record]
    history: list[asyncpg.Record]
    suspicions: list[asyncpg.Record]
    exclusions: list[asyncpg.Record]
    nominations: list[asyncpg.Record]
    vantages: list[asyncpg.Record]

    def why(self, port: int) -> str:
        """Return why a port is listed, in words."""
        open_now = [row for row in self.verdicts if row["verdict"] == "open"]
        texts = [row["explanation"] for row in open_now if row["port"] == port]
        listed = [row["why"] for row in self.history if row["new"] == "listed"]
        return next(iter([*texts, *listed]), "")

    def explains(self, verdict: asyncpg.Record) -> bool:
        """Whether a verdict is why its port is listed."""
        listed = verdict["port"] in {row["port"] for row in self.listings}
        return listed and verdict["verdict"] == "open"

    @property
    def decisive(self) -> asyncpg.Record | None:
        """The verdict that tells most of how the address relays."""
        by_weight = sorted(self.verdicts, key=lambda row: row["verdict"] != "open")
        return next(iter(by_weight), None)


@dataclass(frozen=True, slots=True)
class TrialEvidence:
    """What is on file of one trial.

    Attributes:
        verdict: The last one.
        sessions: Each with its transcript.
        receipts: What came back.
    """

    trial: asyncpg.Record
    verdict: asyncpg.Record | None
    sessions: list[tuple[asyncpg.Record, Transcript]]
    receipts: list[asyncpg.Record]


async def standing_of(connection: Connection, address: Address) -> Standing:
    """Gather what is known of an address."""
    return Standing(
        await connection.fetch(VERDICTS, address),
        await connection.fetch(LISTINGS, address),
        await connection.fetch(JOBS, address),
        await history_of(connection, address),
        await connection.fetch(SUSPICIONS, address),
        await exclusions.covering(connection, address),
        await connection.fetch(NOMINATIONS, address),
        await vantages.views_of(connection, address),
    )


async def history_of(
    connection: Connection, address: Address, before: int = LAST
) -> list[asyncpg.Record]:
    """Return the newest changes of an address's listings, 200 at most.

    Args:
        connection: To use.
        address: Of which.
        before: Id of a change; only older ones.
    """
    return await connection.fetch(HISTORY, address, before)


async def trial_evidence(connection: Connection, trial: int) -> TrialEvidence | None:
    """Gather the evidence of one trial; None if there is no such trial."""
    row = await connection.fetchrow(TRIAL, trial)
    if row is None:
        return None
    sessions = await connection.fetch(SESSIONS, trial)
    return TrialEvidence(
        row,
        await last_verdict(connection, trial),
        [(session, _transcript(session)) for session in sessions],
        await connection.fetch(RECEIPTS, trial),
    )


async def last_verdict(connection: Connection, trial: int) -> Row | None:
    """Return verdict, reason, explanation and decided_at of a trial; None: not judged yet."""
    return await connection.fetchrow(TRIAL_VERDICT, trial)


async def said_in(connection: Connection, trial: int) -> str:
    """Return what the server said in the first sessions of a trial, bounded."""
    parts = [
        octets
        for row in await connection.fetch(SAID, trial)
        for ours, octets in zip(row["ours"][:40], row["octets"], strict=False)
        if not ours
    ]
    return b"".join(parts)[:_MOST_SAID].decode("latin-1")


def _transcript(session: asyncpg.Record) -> Transcript:
    transcript = Transcript()
    for exchange in zip(session["at"], session["ours"], session["octets"], strict=True):
        transcript.add(Exchange(*exchange))
    return transcript


async def listed(connection: Connection, addresses: Sequence[Address]) -> set[Address]:
    """Return those of the addresses that are listed now."""
    return {row["address"] for row in await connection.fetch(LISTED, addresses)}


async def listed_ports(connection: Connection, address: Address) -> list[int]:
    """Return the ports of an address that are listed now; the exit of a relay has none."""
    return [row["port"] for row in await connection.fetch(LISTED_PORTS, address)]


async def counts(connection: Connection) -> asyncpg.Record:
    """Return listed, jobs, unsettled and sink_proven_at."""
    return (await connection.fetch(COUNTS))[0]


async def moment(connection: Connection) -> asyncpg.Record:
    """Return read_at, by the clock of the beats, and verdicts_per_minute."""
    return (await connection.fetch(MOMENT))[0]


async def workers(connection: Connection) -> list[asyncpg.Record]:
    """Return a row for each worker."""
    return await connection.fetch(WORKERS)
