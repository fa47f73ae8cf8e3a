"""Trials, sessions, outcomes, receipts and verdicts (sql/0002_evidence.sql)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from relaytest.core.dialogue import Step
from relaytest.core.evidence import Asked, Evidence, Met, Receipt
from relaytest.core.message import is_ours
from relaytest.core.probe import Form
from relaytest.core.received import hops_of
from relaytest.core.reply import Reply
from relaytest.core.target import Address
from relaytest.core.token import Mailbox
from relaytest.core.transcript import visible
from relaytest.core.verdict import Finding, Verdict
from relaytest.core.visit import SessionRecord
from relaytest.store.database import Connection

SESSION_IDS = """
    SELECT nextval('relaytest.session_id_seq') AS id FROM generate_series(1, $1)
"""
# The ids come first, so that all sessions of a visit go in one trip.
SAVE_SESSION = """
    INSERT INTO relaytest.session
           (id, trial, visit, purpose, started_at, seconds, source, ended, detail, greeting, hello,
            at, ours, octets, tls, certificate)
    OVERRIDING SYSTEM VALUE
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
SAVE_OUTCOMES = """
    INSERT INTO relaytest.outcome (trial, visit, session, form, step, code, reply)
    SELECT $1, $2, *
      FROM unnest($3::bigint[], $4::integer[], $5::text[], $6::smallint[], $7::text[])
"""
SAVE_VISIT = """
    WITH saved AS (
        UPDATE relaytest.trial
           SET visits = $2, forms = $3, probed_at = now(), ended = $4, settle_at = now()
         WHERE id = $1)
    SELECT pg_notify('relaytest_evidence', '')
"""
RING = "SELECT pg_notify('relaytest_evidence', '')"
ADD_RECEIPT = """
    INSERT INTO relaytest.receipt AS r
           (trial, form, mailbox, peer, helo, reverse_path, forward_path, message, size)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT ON CONSTRAINT receipt_once DO UPDATE SET copies = r.copies + 1, last_at = now()
    RETURNING copies
"""
WAKE_TRIAL = """
    UPDATE relaytest.trial SET settle_at = now() WHERE id = $1 RETURNING now() - probed_at
"""
DUE_TRIAL = """
    SELECT id, address, port, forms, probed_at, ended, reason::text, vantage, now() AS read_at
      FROM relaytest.trial
     WHERE settle_at <= now() ORDER BY settle_at LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED    -- rows that name the trial may be written meanwhile
"""
NEXT_SETTLE = """
    SELECT min(settle_at) - now() FROM relaytest.trial WHERE settle_at IS NOT NULL
"""
TRIAL = """
    SELECT id, address, port, forms, probed_at, ended, reason::text, vantage, now() AS read_at
      FROM relaytest.trial WHERE id = $1
"""
OUTCOMES = """
    SELECT o.visit, o.form, o.step, o.code, o.reply, s.tls IS NOT NULL AS tls
      FROM relaytest.outcome AS o JOIN relaytest.session AS s ON s.id = o.session AND s.trial = $1
     WHERE o.trial = $1
"""
SESSIONS = (
    "SELECT visit, ended, detail, greeting, hello, source FROM relaytest.session WHERE trial = $1"
)
RECEIPTS = """
    SELECT form, mailbox, peer, reverse_path, forward_path, received_at, helo,
           substring(message FOR 65536) AS message
      FROM relaytest.receipt WHERE trial = $1
"""
SINK_PROVEN = """
    SELECT count(*) FILTER (WHERE received_at IS NOT NULL)
           >= greatest(1, floor(0.9 * extract(epoch FROM now() - $1::timestamptz)
                                    / extract(epoch FROM $2::interval)) - 1)
       AND NOT coalesce(bool_or(received_at IS NULL AND sent_at > now() - 3 * $2::interval
                                AND sent_at < now() - $2::interval), false)
      FROM relaytest.sink_check WHERE sent_at >= $1::timestamptz
"""
SAVE_VERDICT = """
    INSERT INTO relaytest.verdict
           (trial, address, port, verdict, reason, condition, exit_address, confidence,
            explanation, forms)
    SELECT $1::bigint, $2::inet, $3::integer, $4::text, $5::text, $6::text, $7::inet, $8::text,
           $9::text, $10::text[]
     WHERE NOT EXISTS (
        SELECT FROM (SELECT verdict, reason, condition, exit_address, explanation, forms
                       FROM relaytest.verdict WHERE trial = $1 ORDER BY id DESC LIMIT 1) AS last
         WHERE last IS NOT DISTINCT FROM
               ROW($4::text, $5::text, $6::text, $7::inet, $9::text, $10::text[]))
    RETURNING id
"""
NEWER = """
    SELECT verdict FROM relaytest.verdict
     WHERE address = $1 AND port = $2 AND trial > $3 AND verdict <> 'unknown'
     ORDER BY trial DESC, id DESC LIMIT 1
"""
SETTLED = "UPDATE relaytest.trial SET settle_at = $2 WHERE id = $1"
BEGIN_CHECK = "INSERT INTO relaytest.sink_check DEFAULT VALUES RETURNING id"
END_CHECK = """
    UPDATE relaytest.sink_check SET received_at = now() WHERE id = $1 AND received_at IS NULL
"""
WANT_CHECK = "SELECT pg_notify('relaytest_check', '')"
FORGET_CHECKS = "DELETE FROM relaytest.sink_check WHERE sent_at < now() - interval '60 days'"

_LONGEST_CERTIFICATE = 16384  # octets; OpenSSL takes handshakes of ten times that


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial's row, without its evidence.

    Attributes:
        forms: Their numbers.
        read_at: By the database's clock, as all times that are compared: hosts' own may jump.
    """

    id: int
    address: Address
    port: int
    forms: tuple[int, ...]
    probed_at: datetime | None
    ended: bool
    reason: str
    read_at: datetime
    vantage: str = "default"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as the sink got it, for one of our tokens.

    Attributes:
        size: Octets that came; more than len(message) if it was cut.
    """

    trial: int
    form: int
    mailbox: Mailbox
    peer: Address
    helo: bytes
    reverse_path: bytes
    forward_path: bytes
    message: bytes
    size: int


async def save_visit(
    connection: Connection,
    trial: int,
    visit: int,
    records: Sequence[SessionRecord],
    *,
    forms: Sequence[int],
    ended: bool,
) -> None:
    """Store what a visit found.

    Args:
        connection: Inside the transaction that also finishes the job.
        trial: Its id.
        visit: From 1.
        records: One for each session.
        forms: Numbers of all forms of the trial.
        ended: No further visit will come.
    """
    ids = [row["id"] for row in await connection.fetch(SESSION_IDS, len(records))]
    numbered = list(zip(ids, records, strict=True))
    await connection.executemany(
        SAVE_SESSION, [(number, trial, visit, *_session_row(one)) for number, one in numbered]
    )
    rows = [
        (
            number,
            outcome.form,
            outcome.step.value,
            outcome.reply.code if outcome.reply else None,
            _reply_text(outcome.reply),
        )
        for number, record in numbered
        for outcome in record.answers.outcomes
    ]
    if rows:
        await connection.execute(
            SAVE_OUTCOMES, trial, visit, *(list(column) for column in zip(*rows, strict=True))
        )
    await connection.execute(SAVE_VISIT, trial, visit, list(forms), ended)


def _session_row(record: SessionRecord) -> tuple[object, ...]:
    hello, encryption = record.hello, record.encryption
    exchanges = record.transcript.exchanges
    return (
        record.purpose.value,
        record.started_at,
        record.seconds,
        record.source,
        record.ended,
        visible(record.broken.text.encode()) if record.broken else "",
        _whole(hello.greeting) if hello else None,
        _whole(hello.reply) if hello else None,
        [exchange.after for exchange in exchanges],
        [exchange.sent for exchange in exchanges],
        [exchange.octets for exchange in exchanges],
        f"{encryption.version} {encryption.cipher}" if encryption else None,
        encryption.certificate[:_LONGEST_CERTIFICATE] if encryption else None,
    )


def _reply_text(reply: Reply | None) -> str:
    """The words of a reply; PostgreSQL's text takes neither NUL nor broken UTF-8."""
    return visible(reply.text.encode("utf-8", "surrogateescape")) if reply else ""


def _whole(reply: Reply | None) -> str | None:
    return f"{reply.code} {_reply_text(reply)}" if reply else None


def _parse_whole(text: str | None) -> Reply | None:
    return Reply(int(text[:3]), (text[4:],)) if text else None


async def add_receipt(connection: Connection, arrival: Arrival) -> tuple[int, timedelta | None]:
    """Store a message that reached the sink.

    A relay may deliver a message twice: that is one receipt with a count.

    Returns:
        How often it has come by now; and, of the first, how long after the visit (None: before
        its end).
    """
    copies: int = await connection.fetchval(
        ADD_RECEIPT,
        arrival.trial,
        arrival.form,
        arrival.mailbox.name.lower(),
        arrival.peer,
        arrival.helo,
        arrival.reverse_path,
        arrival.forward_path,
        arrival.message,
        arrival.size,
    )
    if copies > 1:
        return copies, None
    after: timedelta | None = await connection.fetchval(WAKE_TRIAL, arrival.trial)
    await connection.execute(RING)
    return copies, after


async def due_trial(connection: Connection) -> Trial | None:
    """Return a trial that should be judged now, locked until the transaction ends."""
    row = await connection.fetchrow(DUE_TRIAL)
    return _trial(row) if row else None


async def next_settle(connection: Connection) -> timedelta | None:
    """Return how long until the next trial should be judged, or None."""
    pause: timedelta | None = await connection.fetchval(NEXT_SETTLE)
    return pause


async def trial_of(connection: Connection, trial: int) -> Trial | None:
    """Return one trial."""
    row = await connection.fetchrow(TRIAL, trial)
    return _trial(row) if row else None


def _trial(row: asyncpg.Record) -> Trial:
    return Trial(**{**row, "forms": tuple(row["forms"])})


async def evidence_of(
    connection: Connection,
    trial: Trial,
    battery: Mapping[int, Form],
    check_every: timedelta,
    near: tuple[int, int] = (24, 64),
) -> Evidence:
    """Gather all that is known of a trial.

    Args:
        connection: Any.
        trial: Which one.
        battery: Every form by number; forms that the program no longer knows are left out.
        check_every: How often the sink is checked, to tell whether it was all the time.
        near: Prefix lengths within which addresses are one system.
    """
    asked = tuple(_asked(row) for row in await connection.fetch(OUTCOMES, trial.id))
    # Only who was given a message can be waited for.
    proven = any(one.step is Step.END_OF_DATA for one in asked) and await connection.fetchval(
        SINK_PROVEN, trial.probed_at, check_every
    )
    return Evidence(
        address=trial.address,
        battery=battery,
        forms=tuple(battery[number] for number in trial.forms if number in battery),
        asked=asked,
        met=tuple(_met(row) for row in await connection.fetch(SESSIONS, trial.id)),
        receipts=tuple(
            _receipt(row, trial.id) for row in await connection.fetch(RECEIPTS, trial.id)
        ),
        probed_at=trial.probed_at,
        ended=trial.ended,
        sink_proven=bool(proven),
        near=near,
        port=trial.port,
    )


def _asked(row: asyncpg.Record) -> Asked:
    reply = None if row["code"] is None else Reply(row["code"], (row["reply"],))
    return Asked(row["form"], Step(row["step"]), reply, row["visit"], row["tls"])


def _met(row: asyncpg.Record) -> Met:
    greeting, hello = _parse_whole(row["greeting"]), _parse_whole(row["hello"])
    return Met(row["visit"], row["ended"], row["detail"], greeting, hello, row["source"])


def _receipt(row: asyncpg.Record, trial: int) -> Receipt:
    columns = {**row, "mailbox": Mailbox[row["mailbox"].upper()]}
    message = columns.pop("message")
    ours = is_ours(message, trial=trial, form=row["form"])
    return Receipt(**columns, hops=hops_of(message), ours=ours)


async def save_verdict(connection: Connection, trial: Trial, verdict: Verdict) -> bool:
    """Store a verdict unless the trial's last one says the same; return whether it is news."""
    saved = await connection.fetchval(
        SAVE_VERDICT,
        trial.id,
        trial.address,
        trial.port,
        verdict.finding.value,
        verdict.reason.value,
        verdict.condition,
        verdict.exit_address,
        verdict.confidence,
        verdict.explanation,
        list(verdict.forms),
    )
    return saved is not None


async def newer_finding(connection: Connection, trial: Trial) -> Finding | None:
    """Return what later trials found of the same target, if they found anything."""
    found = await connection.fetchval(NEWER, trial.address, trial.port, trial.id)
    return None if found is None else Finding(found)


async def settled(connection: Connection, trial: int, judge_at: datetime | None) -> None:
    """Leave the trial alone until something new comes, or until `judge_at`."""
    await connection.execute(SETTLED, trial, judge_at)


async def want_sink_check(connection: Connection) -> None:
    """Ask the sink to prove soon that it works; trials wait for mail to come back to it."""
    await connection.execute(WANT_CHECK)


async def begin_sink_check(connection: Connection) -> int:
    """Note that a message goes to our own sink; return the number for its token."""
    await connection.execute(FORGET_CHECKS)
    check: int = await connection.fetchval(BEGIN_CHECK)
    return check


async def end_sink_check(connection: Connection, check: int) -> None:
    """Note that the message of a check arrived."""
    await connection.execute(END_CHECK, check)
