"""The notifier: sends outcomes of requests to who asked for them, and notices of listings."""

import asyncio
from datetime import timedelta

import structlog

from relaytest.core.config import Config, split_endpoint
from relaytest.core.mailing import Letter, Outcome, postmaster_of
from relaytest.daemons import metrics
from relaytest.daemons.clock import utcnow
from relaytest.daemons.loop import Stop, forever
from relaytest.daemons.presence import present
from relaytest.net.mailer import MailRefusedError, submit
from relaytest.store import mail
from relaytest.store.database import Bell, Connection, Database
from relaytest.store.mail import Task

_EVERY = timedelta(seconds=5)  # between looks for something to tell
_PATIENCE = timedelta(seconds=60)  # with the smarthost, at each step
_LEASE = timedelta(minutes=10)
_RETRIES = tuple(timedelta(minutes=m) for m in (5, 30, 120, 480, 1440))
_KEPT = timedelta(days=30)  # mailboxes of requesters, and what was sent to them

log = structlog.get_logger("notifier")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Send mail until `stop`; without a smarthost do nothing."""
    async with present("notifier", database, stop), asyncio.TaskGroup() as group:
        if not config.mail.possible or not config.web.url:
            log.info("no mail is sent: mail.smarthost, mail.sender or web.url is not set")
            await stop.wait()
            return
        notifier = Notifier(config, database)
        group.create_task(forever("notifier", notifier.tell, Bell(), stop))
        group.create_task(forever("notifier", notifier.forget, Bell(), stop))


class Notifier:
    """What is done again and again."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._letter = Letter(
            config.mail.sender, config.web.url, config.publish.zone, config.ehlo_name
        )

    async def tell(self) -> timedelta:
        """Make mails of what happened, and send what is due."""
        async with self._database.transaction() as connection:
            await mail.queue(connection, notices=self._config.mail.notices)
        while await self._send_one():
            pass
        return _EVERY

    async def forget(self) -> timedelta:
        """Delete what is old."""
        async with self._database.transaction() as connection:
            await mail.forget(connection, _KEPT)
        return timedelta(hours=1)

    async def _send_one(self) -> bool:
        """Send a mail that is due; return whether there was one."""
        async with self._database.transaction() as connection:
            task = await mail.take(connection, _LEASE)
            message = await self._compose(connection, task) if task else None
        if task is None:
            return False
        fault, retry_in = await self._sent(task, message)
        async with self._database.transaction() as connection:
            if fault:
                await mail.failed(connection, task.id, fault, retry_in)
            else:
                await mail.sent(connection, task.id)
        metrics.MAILS.labels(task.kind, "failed" if fault else "sent").inc()
        log.info("mail", kind=task.kind, address=str(task.address), fault=fault, tries=task.tries)
        return True

    async def _sent(self, task: Task, message: bytes | None) -> tuple[str, timedelta | None]:
        """Return why a mail was not taken ("": it was), and when to try again."""
        if message is None:
            return "there is no verdict to tell of", None
        try:
            await submit(
                split_endpoint(self._config.mail.smarthost),
                message,
                sender=self._config.mail.sender,
                recipient=task.mailbox or postmaster_of(task.address),
                ehlo_name=self._config.ehlo_name,
                longest=_PATIENCE,
            )
        except MailRefusedError as error:
            last = error.for_good or task.tries > len(_RETRIES)
            return str(error), None if last else _RETRIES[task.tries - 1]
        return "", None

    async def _compose(self, connection: Connection, task: Task) -> bytes | None:
        """Return the message; None if there is nothing to tell any more."""
        now = utcnow()
        if task.kind == "confirm":
            return self._letter.confirm(task.id, task.mailbox, task.address, task.code, now)
        verdict = await mail.verdict_of(connection, task.trial)
        if verdict is None:
            return None
        told = Outcome(task.address, task.port, task.trial, *verdict)
        if task.kind == "outcome":
            return self._letter.outcome(task.id, task.mailbox, told, task.code, now)
        return self._letter.notice(task.id, postmaster_of(task.address), told, now)
