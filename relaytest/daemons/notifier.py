"""The notifier: sends outcomes of requests to who asked for them, and tells of listings.

Of these the postmaster of the server is told, and by a report the abuse contact of its network.
"""

import asyncio
import secrets
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from relaytest.core import arf
from relaytest.core.config import Config, split_endpoint
from relaytest.core.errors import RelaytestError
from relaytest.core.mailing import Letter, Outcome, Slip, postmaster_of
from relaytest.core.target import Address
from relaytest.core.values import parse_host_name
from relaytest.core.zone import query_name
from relaytest.daemons import metrics
from relaytest.daemons.clock import utcnow
from relaytest.daemons.loop import Stop, forever
from relaytest.daemons.presence import present
from relaytest.net.dns import Resolver
from relaytest.net.mailer import MailRefusedError, submit
from relaytest.store import allowances, mail
from relaytest.store.database import Bell, Database
from relaytest.store.mail import Task

_EVERY = timedelta(seconds=5)  # between looks for something to tell
_PATIENCE = timedelta(seconds=60)  # with the smarthost, at each step
_LEASE = timedelta(minutes=10)
_RETRIES = tuple(timedelta(minutes=m) for m in (5, 30, 120, 480, 1440))
_KEPT = timedelta(days=30)  # mailboxes of requesters, and what was sent to them
_A_DAY = timedelta(days=1)
_CONTACT_KEPT = timedelta(days=7)  # if there is none, a day

log = structlog.get_logger("notifier")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Send mail until `stop`; without a smarthost do nothing."""
    async with (
        present("notifier", database, stop),
        Resolver(config.dns.nameservers, config.dns.timeout) as resolver,
        asyncio.TaskGroup() as group,
    ):
        if not config.mail.possible or not config.web.url:
            log.info("no mail is sent: mail.smarthost, mail.sender or web.url is not set")
            await stop.wait()
            return
        notifier = Notifier(config, database, resolver)
        group.create_task(forever("notifier", notifier.tell, Bell(), stop))
        group.create_task(forever("notifier", notifier.forget, Bell(), stop))


class NotSentError(RelaytestError):
    """A mail was not sent.

    Attributes:
        until: When it may be sent without having failed; None: it failed.
        for_good: It would fail later, too.
    """

    def __init__(self, why: str, *, until: datetime | None = None, for_good: bool = False) -> None:
        super().__init__(why)
        self.until = until
        self.for_good = for_good


class Notifier:
    """What is done again and again."""

    def __init__(self, config: Config, database: Database, resolver: Resolver) -> None:
        self._config = config
        self._database = database
        self._resolver = resolver
        self._letter = Letter(
            config.mail.sender, config.web.url, config.publish.zone, config.ehlo_name
        )

    async def tell(self) -> timedelta:
        """Make mails of what happened, and send what is due."""
        wanted = {"notice": self._config.mail.notices, "report": self._config.mail.abuse_contacts}
        async with self._database.transaction() as connection:
            await mail.queue(connection, [kind for kind, is_wanted in wanted.items() if is_wanted])
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
        if task is None:
            return False
        try:
            addressed = task if task.mailbox else await self._addressed(task)
            await self._submit(addressed.mailbox, await self._composed(addressed))
        except NotSentError as error:
            await self._not_sent(task, error)
            return True
        async with self._database.transaction() as connection:
            await mail.sent(connection, task.id)
        _note(task, "sent")
        return True

    async def _not_sent(self, task: Task, error: NotSentError) -> None:
        """Put a mail off, or give it up."""
        async with self._database.transaction() as connection:
            if error.until:
                await mail.postpone(connection, task.id, error.until, str(error))
            else:
                last = error.for_good or task.tries > len(_RETRIES)
                again = None if last else _RETRIES[task.tries - 1]
                await mail.failed(connection, task.id, str(error), again)
        _note(task, "postponed" if error.until else "failed", str(error))

    async def _submit(self, mailbox: str, message: bytes) -> None:
        try:
            await submit(
                split_endpoint(self._config.mail.smarthost),
                message,
                sender=self._config.mail.sender,
                recipient=mailbox,
                ehlo_name=self._config.ehlo_name,
                longest=_PATIENCE,
            )
        except MailRefusedError as error:
            raise NotSentError(str(error), for_good=error.for_good) from None

    async def _addressed(self, task: Task) -> Task:
        """Find out to whom a notice or report goes."""
        if task.kind == "notice":
            mailbox = postmaster_of(task.address)
        else:
            mailbox = await self._contact(task.address)
        code = secrets.token_urlsafe(24)
        async with self._database.transaction() as connection:
            if task.kind == "report":
                most = self._config.mail.reports_per_contact
                key = f"report {mailbox.lower()}"[:200]
                if until := await allowances.use(connection, key, most, _A_DAY):
                    raise NotSentError(f"{mailbox} had {most} reports today", until=until)
            if not await mail.address(connection, task.id, mailbox, code):
                raise NotSentError(f"{mailbox} wants no mail from us", for_good=True)
        return replace(task, mailbox=mailbox, code=code)

    async def _contact(self, address: Address) -> str:
        """Return the abuse contact of the network that an address is in."""
        async with self._database.transaction() as connection:
            mailbox = await mail.contact_of(connection, address)
        if mailbox is None:
            name = query_name(address, self._config.mail.contact_zone)
            texts = await self._resolver.texts(name)
            if texts is None:
                raise NotSentError(f"no answer from DNS for {name}")
            mailbox = arf.contact_of(texts)
            keep = _CONTACT_KEPT if mailbox else _A_DAY
            async with self._database.transaction() as connection:
                await mail.remember_contact(connection, address, mailbox, keep)
        if not mailbox:
            raise NotSentError("its network has no abuse contact", for_good=True)
        return mailbox

    async def _composed(self, task: Task) -> bytes:
        """Return the message."""
        slip = Slip(task.id, task.mailbox, task.code, utcnow())
        if task.kind == "confirm":
            return self._letter.confirm(slip, task.address)
        async with self._database.transaction() as connection:
            verdict = await mail.verdict_of(connection, task.trial)
            returned = await mail.returned_of(connection, task.trial)
        if verdict is None:
            raise NotSentError("there is no verdict to tell of", for_good=True)
        told = Outcome(task.address, task.port, task.trial, *verdict)
        if task.kind == "outcome":
            return self._letter.outcome(slip, told)
        if not told.listed:
            raise NotSentError("it is no longer listed", for_good=True)
        if task.kind == "notice":
            return self._letter.notice(slip, told)
        if returned is None:
            raise NotSentError("there is no message to show", for_good=True)
        return arf.report(self._letter, slip, told, returned, await self._name(task.address))

    async def _name(self, address: Address) -> str:
        """Return the name of an address in the reverse DNS, or ""."""
        try:
            return parse_host_name(await self._resolver.pointer(address) or "")
        except ValueError:
            return ""


def _note(task: Task, result: str, fault: str = "") -> None:
    metrics.MAILS.labels(task.kind, result).inc()
    log.info("mail", kind=task.kind, address=str(task.address), fault=fault, tries=task.tries)
