"""Names as targets: one job for each address of the hosts that take mail for a name."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import structlog

from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import Address
from relaytest.net.dns import NullMxError, Resolver
from relaytest.store import jobs, name_requests
from relaytest.store.database import Bell, Connection, Database
from relaytest.store.name_requests import NameRequest

_AT_ONCE = 20  # names in one round
_MOST = 16  # addresses of one name
_TRIES = 5  # look-ups, a minute apart, until a DNS that is silent counts as no answer
_LONGEST_SLEEP = timedelta(seconds=30)

log = structlog.get_logger("scheduler")


class NameDesk:
    """Looks names up and asks for their addresses."""

    def __init__(self, database: Database, resolver: Resolver) -> None:
        self._database = database
        self._resolver = resolver
        self.bell = Bell()  # rings when a name came

    async def look_up(self) -> timedelta:
        """Do one round; return how long to sleep."""
        async with self._database.transaction() as connection:
            requests = await name_requests.take(connection, _AT_ONCE)
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(mail_addresses(self._resolver, request.name))
                for request in requests
            ]
        for request, task in zip(requests, asked, strict=True):
            answer = task.result()
            if not answer.silent or request.tries >= _TRIES:
                await self._note(request, list(answer.found), answer.why)
        return timedelta(0) if len(requests) == _AT_ONCE else _LONGEST_SLEEP

    async def _note(self, request: NameRequest, found: list[Address], why: str) -> None:
        async with self._database.transaction() as connection:
            outcome = await _ask(connection, request, found) if found else why
            await name_requests.done(connection, request.id, outcome)
        log.info("name looked up", name=request.name, outcome=outcome)


@dataclass(frozen=True, slots=True)
class MailAddresses:
    """Where mail for a name goes.

    Attributes:
        found: The hosts' addresses, the preferred first, each with its host's name.
        why: Why there are none, or "".
        silent: The DNS gave no answer, and it is worth asking again.
    """

    found: dict[Address, str]
    why: str = ""
    silent: bool = False


async def mail_addresses(resolver: Resolver, name: str) -> MailAddresses:
    """Look up the addresses of all hosts that take mail for a name; 16 at most."""
    try:
        hosts = await resolver.mail_hosts(name)
    except NullMxError:
        return MailAddresses({}, "it has a null MX (RFC 7505): no host takes mail for it")
    if hosts is None or any(host.addresses is None for host in hosts):
        return MailAddresses({}, "the DNS gives no answer", silent=True)
    pairs = [(address, host.name) for host in hosts for address in host.addresses or ()]
    first = dict(reversed(pairs))  # a host is named by the best that leads to it
    found = {address: first[address] for address, _ in pairs}
    return MailAddresses(dict(list(found.items())[:_MOST]), "" if found else "it has no address")


async def _ask(connection: Connection, request: NameRequest, addresses: list[Address]) -> str:
    """Ask for a test of each address; return what became of each, in words."""
    outcomes = []
    for address in addresses:
        wanted = jobs.Request(
            target=str(address),
            reason=request.reason,
            port=request.port,
            priority=request.priority,
            run_at=request.run_at,
            requester=request.requester,
            note=request.note,
            vantage=request.vantage,
        )
        try:
            async with connection.transaction():  # a refusal must not spoil the outer one
                job = await jobs.enqueue(connection, wanted)
        except RefusedRequestError as error:
            outcomes.append(str(error))
        else:
            outcomes.append(f"{address}: job {job}")
    return "; ".join(outcomes)
