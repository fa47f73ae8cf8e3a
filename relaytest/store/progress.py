"""How far a requested test is: reading only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import asyncpg

from relaytest.core.message import is_ours
from relaytest.core.target import Address
from relaytest.store import pages, vantages
from relaytest.store.database import Connection

JOB = """
    SELECT address, port, reason::text, run_at, run_at > now() AS early, leased, trial
      FROM relaytest.job WHERE id = $1
"""
AHEAD = """
    SELECT count(*) FROM (
        SELECT FROM relaytest.job AS j
         CROSS JOIN generate_series(0, j.priority) AS p CROSS JOIN generate_series(0, 15) AS l
         CROSS JOIN LATERAL (
                SELECT FROM relaytest.job AS o       -- by the index that claims walk
                 WHERE NOT o.leased AND o.vantage = j.vantage AND o.priority = p AND o.lane = l
                   AND o.run_at <= CASE WHEN p < j.priority THEN now()
                                        ELSE least(now(), j.run_at) END
                   AND o.id <> j.id
                 LIMIT 1000) AS earlier
         WHERE j.id = $1 LIMIT 1000) AS before
"""
TRIALS = """
    SELECT id, address, port, reason::text, started_at, visits, probed_at, ended, settle_at,
           cardinality(forms) AS forms
      FROM relaytest.trial WHERE job = $1 ORDER BY id DESC LIMIT 1
"""
ANSWERS = """
    SELECT count(DISTINCT form) FILTER (WHERE form <> 0) AS answered,
           count(DISTINCT form) FILTER (WHERE step = 'end-of-data' AND code < 300) AS accepted
      FROM relaytest.outcome WHERE trial = $1
"""
RETURNED = """
    SELECT form, substr(message, 1, 16384) AS header FROM relaytest.receipt
     WHERE trial = $1 AND mailbox = 'forward' ORDER BY id LIMIT 100
"""
STANDS = """
    SELECT EXISTS (SELECT FROM relaytest.listing_current WHERE address = $1 AND port = $2)
"""

REQUEST_AT = """
    SELECT nullif(greatest(relaytest.next_request_at($1, $2), now()), now())
"""

Stage = Literal["queued", "testing", "later", "waiting", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One request.

    Attributes:
        stage: queued; testing (a visit is going on); later (the next visit is not yet due);
            waiting (for mail to come back, or for the judge); done.
        ahead: Jobs that come before it, of at most a thousand that are counted.
        due_at: Of the next visit, if there will be one.
        early: That is yet to come.
        trial: Its number, once it began.
        forms: That are asked; known after the first visit, and so are the following.
        answered: Forms to which the server answered.
        accepted: Messages that the server took.
        returned: Of them, those that came back through it.
        verdict: The last one, with reason, explanation and decided_at.
        listed: Whether the target is on the list at this moment.
        request_at: Before then no other removal can be requested; None: at once.
        sources: From where it is tested, as far as that is known.
    """

    job: int
    address: Address
    port: int
    reason: str
    stage: Stage
    ahead: int
    due_at: datetime | None
    early: bool
    trial: int | None
    visits: int
    forms: int
    answered: int
    accepted: int
    returned: int
    verdict: asyncpg.Record | None
    listed: bool
    request_at: datetime | None
    sources: list[str]


async def _returned(connection: Connection, trial: int) -> int:
    """Count the forms of which a copy came back; a notice about one is none."""
    rows = await connection.fetch(RETURNED, trial)
    ours = {row["form"] for row in rows if is_ours(row["header"], trial=trial, form=row["form"])}
    return len(ours)


async def progress_of(connection: Connection, job: int) -> Progress | None:
    """Return how far a job is, also one that has ended; None if there never was such a one."""
    row = await connection.fetchrow(JOB, job)
    trials = await connection.fetch(TRIALS, job)
    trial = trials[0] if trials and _is_of(trials[0], row) else None
    if row is None and trial is None:
        return None
    target = row or trial
    assert target is not None
    answers, returned, verdict = None, 0, None
    if trial is not None:
        answers = await connection.fetchrow(ANSWERS, trial["id"])
        returned = await _returned(connection, trial["id"])
        verdict = await pages.last_verdict(connection, trial["id"])
    stage = _stage(row, trial, verdict)
    return Progress(
        job,
        target["address"],
        target["port"],
        target["reason"],
        stage,
        ahead=await connection.fetchval(AHEAD, job) if stage == "queued" else 0,
        due_at=row["run_at"] if row is not None and not row["leased"] else None,
        early=row is not None and not row["leased"] and row["early"],
        trial=trial["id"] if trial else None,
        visits=trial["visits"] if trial else 0,
        forms=trial["forms"] if trial else 0,
        answered=answers["answered"] if answers else 0,
        accepted=answers["accepted"] if answers else 0,
        returned=returned,
        verdict=verdict,
        listed=await connection.fetchval(STANDS, target["address"], target["port"]),
        request_at=await connection.fetchval(REQUEST_AT, target["address"], target["port"]),
        sources=await _sources(connection, target["address"]),
    )


async def _sources(connection: Connection, address: Address) -> list[str]:
    views = await vantages.views_of(connection, address)
    return sorted({source for view in views for source in view["sources"]})


def _is_of(trial: asyncpg.Record, job: asyncpg.Record | None) -> bool:
    """Whether a job's last trial is the one that it goes on with; asked for again, it is not."""
    return job is None or trial["id"] == job["trial"]


def _stage(
    job: asyncpg.Record | None, trial: asyncpg.Record | None, verdict: asyncpg.Record | None
) -> Stage:
    if job is not None:
        if job["leased"]:
            return "testing"
        return "queued" if trial is None else "later"
    assert trial is not None
    settled = verdict is not None and trial["settle_at"] is None
    return "done" if settled or (verdict and verdict["verdict"] == "open") else "waiting"
