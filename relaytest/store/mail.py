"""Mail that is to be sent, and who wants it (sql/0016_mail.sql, sql/0021_reports.sql).

States of a mail: waiting (send_at in the future), due, taken by a notifier (send_at is a while
ahead, so that another takes it if this one dies), sent or given up (send_at NULL).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from relaytest.core.arf import Returned
from relaytest.core.message import is_ours
from relaytest.core.target import Address
from relaytest.store.database import Connection

# Whoever has said today that he wants outcomes is not asked again.
SUBSCRIBE = """
    INSERT INTO relaytest.subscription (job, mailbox, code, confirmed_at)
    SELECT $1, $2, $3, (SELECT max(confirmed_at) FROM relaytest.subscription
                         WHERE lower(mailbox) = lower($2) AND confirmed_at > now() - interval '1 d')
     WHERE NOT EXISTS (SELECT FROM relaytest.unwanted WHERE mailbox = lower($2::text))
    ON CONFLICT ON CONSTRAINT subscribed_once DO NOTHING RETURNING id, confirmed_at
"""
ASK = """
    INSERT INTO relaytest.mail (kind, mailbox, subscription, address, port)
    VALUES ('confirm', $1, $2, $3, $4)
"""
FIND = """
    SELECT mailbox, true AS asked FROM relaytest.subscription WHERE code = $1
    UNION ALL SELECT mailbox, false FROM relaytest.mail WHERE code = $1
"""
CONFIRM = """
    UPDATE relaytest.subscription AS s SET confirmed_at = coalesce(s.confirmed_at, now())
      FROM relaytest.subscription AS link
     WHERE link.code = $1 AND lower(s.mailbox) = lower(link.mailbox)
       AND s.created_at > link.created_at - interval '1 d'
"""
STOP = """
    INSERT INTO relaytest.unwanted (mailbox)
    SELECT lower(mailbox) FROM relaytest.subscription WHERE code = $1
    UNION SELECT lower(mailbox) FROM relaytest.mail WHERE code = $1
    ON CONFLICT (mailbox) DO NOTHING
"""
# A request is over when its job is gone and nothing more of its trial is waited for.
QUEUE_OUTCOMES = """
    WITH told AS (
        UPDATE relaytest.subscription AS s SET told_at = now()
          FROM (SELECT DISTINCT ON (t.job) t.job, t.id, t.address, t.port, t.settle_at
                  FROM relaytest.trial AS t JOIN relaytest.subscription AS o ON o.job = t.job
                 WHERE o.confirmed_at IS NOT NULL AND o.told_at IS NULL
                 ORDER BY t.job, t.id DESC) AS last
         WHERE s.job = last.job AND s.confirmed_at IS NOT NULL AND s.told_at IS NULL
           AND NOT EXISTS (SELECT FROM relaytest.job AS j WHERE j.id = s.job)
           AND EXISTS (SELECT FROM relaytest.verdict AS v WHERE v.trial = last.id
                          AND (v.verdict = 'open' OR last.settle_at IS NULL))
        RETURNING s.id, s.mailbox, last.address, last.port, last.id AS trial)
    INSERT INTO relaytest.mail (kind, mailbox, subscription, address, port, trial)
    SELECT 'outcome', mailbox, id, address, port, trial FROM told
     WHERE NOT EXISTS (SELECT FROM relaytest.unwanted AS u WHERE u.mailbox = lower(told.mailbox))
    ON CONFLICT ON CONSTRAINT mail_once DO NOTHING
"""
# One notice or report of a listing, and of one server not more than one a week.
QUEUE_NOTICES = """
    INSERT INTO relaytest.mail (kind, mailbox, change, address, port, trial)
    SELECT $1, '', max(c.id), c.address, c.port, max(c.trial)
      FROM relaytest.listing_history AS c
      JOIN relaytest.listing_current AS l ON l.address = c.address AND l.port = c.port
     WHERE c.new = 'listed' AND c.old <> 'listed' AND c.port > 0
       AND c.at > now() - interval '1 day'
       AND NOT EXISTS (SELECT FROM relaytest.mail AS m
                        WHERE m.change IS NOT NULL AND m.kind = $1 AND m.address = c.address
                          AND m.created_at > now() - interval '7 days')
     GROUP BY c.address, c.port
    ON CONFLICT ON CONSTRAINT told_once DO NOTHING
"""
TAKE = """
    UPDATE relaytest.mail AS m SET send_at = now() + $1::interval, tries = tries + 1
     WHERE m.id = (SELECT id FROM relaytest.mail WHERE send_at <= now()
                    ORDER BY send_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING m.id, m.kind, m.mailbox, m.address, m.port, m.tries, coalesce(m.trial, 0) AS trial,
              coalesce(m.code, (SELECT s.code FROM relaytest.subscription AS s
                                 WHERE s.id = m.subscription), '') AS code
"""
ADDRESS = """
    UPDATE relaytest.mail SET mailbox = $2, code = $3
     WHERE id = $1 AND NOT EXISTS (SELECT FROM relaytest.unwanted WHERE mailbox = lower($2))
    RETURNING id
"""
RETURNED = """
    SELECT form, peer, received_at, reverse_path, forward_path,
           substr(message, 1, 65536) AS message, size, copies
      FROM relaytest.receipt WHERE trial = $1 AND mailbox = 'forward' ORDER BY id
"""
VERDICT = """
    SELECT v.verdict, v.explanation,
           EXISTS (SELECT FROM relaytest.listing_current AS l
                    WHERE l.address = v.address AND l.port = v.port) AS listed
      FROM relaytest.verdict AS v WHERE v.trial = $1 ORDER BY v.id DESC LIMIT 1
"""
SENT = "UPDATE relaytest.mail SET send_at = NULL, sent_at = now(), fault = '' WHERE id = $1"
FAILED = """
    UPDATE relaytest.mail SET send_at = now() + $3::interval, fault = left($2, 500) WHERE id = $1
"""
POSTPONE = """
    UPDATE relaytest.mail
       SET send_at = CASE WHEN created_at > now() - interval '7 days' THEN $2::timestamptz END,
           tries = tries - 1, fault = left($3, 500)
     WHERE id = $1
"""
CONTACT = "SELECT mailbox FROM relaytest.abuse_contact WHERE address = $1 AND until > now()"
REMEMBER = """
    INSERT INTO relaytest.abuse_contact (address, mailbox, until)
    VALUES ($1, $2, now() + $3::interval)
    ON CONFLICT (address) DO UPDATE SET mailbox = excluded.mailbox, until = excluded.until
"""
FORGET_CONTACTS = "DELETE FROM relaytest.abuse_contact WHERE until < now()"
FORGET_SUBSCRIPTIONS = """
    DELETE FROM relaytest.subscription WHERE created_at < now() - $1::interval
"""
FORGET = "DELETE FROM relaytest.mail WHERE created_at < now() - $1::interval"


@dataclass(frozen=True, slots=True)
class Task:
    """A mail that is to be sent now.

    Attributes:
        mailbox: "" for a notice or report that nobody has addressed yet.
        tries: With this one.
        trial: 0 if there is none.
        code: In the links; "" for a notice or report that nobody has addressed yet.
    """

    id: int
    kind: str
    mailbox: str
    address: Address
    port: int
    tries: int
    trial: int
    code: str


async def subscribe(connection: Connection, job: int, mailbox: str, code: str) -> int | None:
    """Note that a mailbox may want the outcome of a request.

    Returns:
        The subscription if the mailbox has to be asked; None if it said so today, is noted
        already, or wants no mail of ours.
    """
    row = await connection.fetchrow(SUBSCRIBE, job, mailbox, code)
    return row["id"] if row and row["confirmed_at"] is None else None


async def ask(
    connection: Connection, subscription: int, mailbox: str, target: tuple[Address, int]
) -> None:
    """Ask a mailbox whether it wants outcomes."""
    await connection.execute(ASK, mailbox, subscription, *target)


async def mailbox_of(connection: Connection, code: str) -> tuple[str, bool] | None:
    """Return the mailbox of a link, and whether it was given for an outcome; None: no such link."""
    row = await connection.fetchrow(FIND, code)
    return (row["mailbox"], row["asked"]) if row else None


async def confirm(connection: Connection, code: str) -> None:
    """Note that the mailbox of a link wants the outcomes of that day."""
    await connection.execute(CONFIRM, code)


async def stop(connection: Connection, code: str) -> None:
    """Never write to the mailbox of a link again."""
    await connection.execute(STOP, code)


async def queue(connection: Connection, kinds: Iterable[str]) -> None:
    """Make mails of what happened.

    Args:
        connection: To use.
        kinds: Of mails that a listing makes: "notice" for the postmaster of the server, "report"
            for the abuse contact of its network.
    """
    await connection.execute(QUEUE_OUTCOMES)
    for kind in kinds:
        await connection.execute(QUEUE_NOTICES, kind)


async def take(connection: Connection, lease: timedelta) -> Task | None:
    """Take a mail that is due; another notifier takes it after `lease` if this one dies."""
    row = await connection.fetchrow(TAKE, lease)
    return Task(**row) if row else None


async def verdict_of(connection: Connection, trial: int) -> tuple[str, str, bool] | None:
    """Return verdict, explanation, and whether the target is listed now."""
    row = await connection.fetchrow(VERDICT, trial)
    return (row["verdict"], row["explanation"], row["listed"]) if row else None


async def address(connection: Connection, number: int, mailbox: str, code: str) -> bool:
    """Say to whom a notice or report goes; return False if he wants no mail from us."""
    return await connection.fetchval(ADDRESS, number, mailbox, code) is not None


async def returned_of(connection: Connection, trial: int) -> Returned | None:
    """Return the first copy that came back in a trial; a notice about one is none."""
    async for row in connection.cursor(RETURNED, trial, prefetch=1):
        columns = dict(row)
        if is_ours(row["message"], trial=trial, form=columns.pop("form")):
            return Returned(**columns)
    return None


async def contact_of(connection: Connection, address: Address) -> str | None:
    """Return the abuse contact that was found of late, "" if there was none; None: ask DNS."""
    mailbox: str | None = await connection.fetchval(CONTACT, address)
    return mailbox


async def remember_contact(
    connection: Connection, address: Address, mailbox: str, keep: timedelta
) -> None:
    """Keep what DNS said of an address for a while."""
    await connection.execute(REMEMBER, address, mailbox, keep)


async def sent(connection: Connection, number: int) -> None:
    """Note that the smarthost took a mail."""
    await connection.execute(SENT, number)


async def failed(
    connection: Connection, number: int, fault: str, retry_in: timedelta | None
) -> None:
    """Note why a mail was not taken, and when to try again; None: never."""
    await connection.execute(FAILED, number, fault, retry_in)


async def postpone(connection: Connection, number: int, until: datetime, why: str) -> None:
    """Send a mail later, without counting this as a try; not at all once it is a week old."""
    await connection.execute(POSTPONE, number, until, why)


async def forget(connection: Connection, older: timedelta) -> None:
    """Delete old mails, the mailboxes of old requests, and what DNS said long ago."""
    await connection.execute(FORGET, older)
    await connection.execute(FORGET_SUBSCRIPTIONS, older)
    await connection.execute(FORGET_CONTACTS)
