"""Names as targets: one job for each address of the hosts that take mail for a name."""

import asyncio
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
            asked = [group.create_task(self._addresses(request.name)) for request in requests]
        for request, task in zip(requests, asked, strict=True):
            found, why = task.result()
            if found is not None or request.tries >= _TRIES:
                await self._note(request, found or [], why)
        return timedelta(0) if len(requests) == _AT_ONCE else _LONGEST_SLEEP

    async def _note(self, request: NameRequest, found: list[Address], why: str) -> None:
        async with self._database.transaction() as connection:
            outcome = await _ask(connection, request, found) if found else why
            await name_requests.done(connection, request.id, outcome)
        log.info("name looked up", name=request.name, outcome=outcome)

    async def _addresses(self, name: str) -> tuple[list[Address] | None, str]:
        """Return the addresses of all hosts that take mail for a name, or why there are none.

        None: no answer came, and it is worth asking again.
        """
        try:
            hosts = await self._resolver.mail_hosts(name)
        except NullMxError:
            return [], "it has a null MX (RFC 7505): no host takes mail for it"
        if hosts is None or any(host.addresses is None for host in hosts):
            return None, "the DNS gives no answer"
        found = [address for host in hosts for address in host.addresses or ()]
        return list(dict.fromkeys(found))[:_MOST], "it has no address"


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
