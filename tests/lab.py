"""All daemons in one process on a lab configuration, and a way to wait for what they do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from relaytest.cli.running import run_daemons, upgrade
from relaytest.core.config import Config, parse_config
from relaytest.core.reception import Delivery, Limits, Session
from relaytest.core.target import Address
from relaytest.daemons import publisher, scheduler, sink, worker
from relaytest.daemons.loop import Stop
from relaytest.net.smtp_listener import Listener, listen
from relaytest.store.database import Database
from tests.mta.process import fresh_address, fresh_port

T = TypeVar("T")
DAEMONS = (worker.run, sink.run, scheduler.run, publisher.run)
SINK_DOMAIN = "sink.example"
# Networks that nobody has, for lists that are only looked at.
NOBODYS = ["10.0.0.0/8", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"]
NOBODYS += ["2001:db8::/32", "fe80::/10"]
_LONGEST = 60.0  # seconds to wait for something that must come


def lab_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """Return a configuration for tests: short delays, everything on the loopback.

    Args:
        folder: For the zone files.
        sections: Put over the lab's own values.
    """
    host = fresh_address()
    values: dict[str, dict[str, Any]] = {
        "identity": {"ehlo_name": "probe.relaytest.example", "contact": "postmaster@example"},
        "scope": {"allow": ["127.66.0.0/16", "::1/128"]},
        "sink": {
            "listen": [f"{host}:{fresh_port(host)}"],
            "domains": [SINK_DOMAIN],
            "check_every": "1s",
        },
        "timing": {
            "connect": "5s",
            "greeting": "10s",
            "command": "10s",
            "pause": "50ms",
            "settle": "100ms",
            "retries": [],
            "patience": "4s",
            "grace": "2s",
        },
        "politeness": {"request_every": []},
        "dns": {"nameservers": ["127.66.0.1:9"], "timeout": "200ms"},
        "publish": {"zone": "relays.example", "directory": str(folder), "debounce": "50ms"},
    }
    for section, keys in sections.items():
        values[section] = values.get(section, {}) | keys
    return parse_config(values)


@dataclass(slots=True)
class Lab:
    """A running system.

    Attributes:
        connection: To look at, and to insert as another tool would.
    """

    config: Config
    database: Database
    connection: asyncpg.Connection
    stop: Stop

    @property
    def sink(self) -> tuple[str, int]:
        """Where target servers send all their outgoing mail."""
        host, _, port = self.config.sink.listen[0].rpartition(":")
        return host, int(port)

    async def insert(self, address: str, port: int, reason: str = "nominated") -> None:
        """Ask for a retest as any other tool does."""
        await self.connection.execute(
            "INSERT INTO relaytest.retest (target, port, reason) VALUES ($1, $2, $3)",
            address,
            port,
            reason,
        )

    async def verdict(self, address: str, *wanted: str, after: int = 0) -> asyncpg.Record:
        """Wait for a verdict that is one of `wanted` (all but pending ones if none is given)."""

        async def look() -> asyncpg.Record | None:
            row = await self.connection.fetchrow(
                "SELECT * FROM relaytest.verdict_latest"
                " WHERE address = $1::text::inet AND trial > $2",
                address,
                after,
            )
            if row is None or (wanted and row["verdict"] not in wanted):
                return None
            return None if not wanted and row["reason"] == "pending" else row

        return await until(look, f"a verdict {wanted} on {address}")

    async def listed(self) -> set[str]:
        """Return the addresses that are published."""
        rows = await self.connection.fetch("SELECT host(address) FROM relaytest.listing_current")
        return {row[0] for row in rows}

    async def idle(self) -> None:
        """Wait until no job is open and no trial waits to be judged."""

        async def look() -> bool | None:
            count = await self.connection.fetchval(
                "SELECT (SELECT count(*) FROM relaytest.job)"
                " + (SELECT count(*) FROM relaytest.trial WHERE settle_at IS NOT NULL)"
            )
            return True if count == 0 else None

        await until(look, "an idle system")


async def until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look again and again until something is to be seen."""
    try:
        async with asyncio.timeout(_LONGEST):
            while (seen := await look()) is None:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} did not come in {_LONGEST} s") from None
    return seen


@contextlib.asynccontextmanager
async def running(
    config: Config, database: Database, dsn: str, daemons=DAEMONS
) -> AsyncIterator[Lab]:
    """Run the daemons while the block runs."""
    stop = Stop()
    await upgrade(database, config)
    bare = await asyncpg.connect(dsn)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_daemons(daemons, config, database, stop))
            try:
                yield Lab(config, database, bare, stop)
            finally:
                stop.set()
    finally:
        await bare.close()


class Acceptor:
    """A mail server that says yes to everything and passes nothing on.

    Attributes:
        messages: What it took, in order.
    """

    def __init__(self, *, store: bool = True) -> None:
        self.messages: list[Delivery[bool]] = []
        self._store = store

    @contextlib.asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Listener[bool]]:
        """Serve while the block runs."""
        async with listen([(host, port)], self._session, self._take) as listener:
            yield listener

    def _session(self, _peer: Address) -> Session[bool]:
        return Session(b"mail.acceptor.example", Limits(), lambda _local, _domain: True)

    async def _take(self, _peer: Address, _port: int, delivery: Delivery[bool]) -> bool:
        self.messages.append(delivery)
        return self._store
