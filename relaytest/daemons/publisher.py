"""The publisher: writes the zone for DNS servers, and looks whether they answer it.

Equal content is not written again, except in time to renew its $TIMESTAMP. What looks like an
accident is not published: the last files stay, until a person says that it is meant.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from relaytest.core.config import Config, Publish
from relaytest.core.zone import (
    PATH,
    Apex,
    apex_of,
    render_apex,
    render_ip4,
    render_ip6,
    render_zone,
    self_test,
    zones_of,
)
from relaytest.daemons.clock import utcnow
from relaytest.daemons.loop import Stop, forever, wait_or_stop
from relaytest.daemons.zone_files import (
    Draft,
    changed_entries,
    count_entries,
    next_serial,
    replace_file,
)
from relaytest.net.dns import listed_as
from relaytest.store import dns_zones, exports, publications
from relaytest.store.database import Bell, Connection, Database

_LONGEST_SLEEP = timedelta(seconds=60)  # between looks at the listings, if no bell rings
_DECLARE = timedelta(minutes=10)
_LOOK = timedelta(minutes=1)  # between looks at what DNS answers
_FEW = 100  # entries that may always change at once
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

log = structlog.get_logger("publisher")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Publish every change until `stop`.

    Raises:
        OSError: publish.directory cannot be made.
    """
    publishers = [Publisher(config.publish, database, apex) for apex in zones_of(config)]
    publishers[0].folder.mkdir(parents=True, exist_ok=True)

    async def declare() -> timedelta:
        """Tell a DNS server on the database what the zones are."""
        zones: list[Apex] = []
        async with database.transaction() as connection:
            for publisher in publishers:
                orders = await publications.orders_of(connection, publisher.apex.zone)
                zones.append(replace(publisher.apex, shut=orders.shut))
            await dns_zones.write_zones(connection, zones)
        return _DECLARE

    async with asyncio.TaskGroup() as group:
        group.create_task(forever("publisher", declare, Bell(), stop))
        for publisher in publishers:
            group.create_task(_keep(publisher, config, database, stop))


async def _keep(publisher: "Publisher", config: Config, database: Database, stop: Stop) -> None:
    """Publish every change of one zone."""
    async with asyncio.TaskGroup() as group:
        ears = group.create_task(database.listen(["relaytest_listing"], publisher.bell))
        async with asyncio.TaskGroup() as loops:
            loops.create_task(forever("publisher", publisher.publish, publisher.bell, stop))
            if config.publish.server:
                loops.create_task(_look(config, publisher, stop))
        ears.cancel()


class _UnlikelyError(Exception):
    """What would be published looks like an accident."""


class Publisher:
    """Writes ZONE.ip4, ZONE.ip6 (its entries), ZONE.apex (what it says of itself) for rbldnsd.

    And ZONE.zone, all of it as a master file, if publish.zone_file says so.

    Attributes:
        apex: The zone.
    """

    def __init__(self, publish: Publish, database: Database, apex: Apex | None = None) -> None:
        self.folder = Path(publish.directory)
        self.bell = Bell()  # rings when listings change
        self.published = Bell()  # rings when files were replaced
        self._publish = publish
        self.apex = apex or apex_of(publish)
        self._database = database
        self._digests: dict[str, str] = {}
        self._stamped_at = _NEVER
        self._orders = publications.Orders(0, shut=False)

    async def publish(self) -> timedelta:
        """Write what changed; return how long to sleep."""
        await asyncio.sleep(self._publish.debounce.total_seconds())
        try:
            await self._publish_drafts()
        except OSError as error:  # a full disk, say
            log.error("zone not written; the last one stays", error=str(error))
        except _UnlikelyError as error:
            log.error(
                "zone not published; the last one stays",
                zone=self.apex.zone,
                why=str(error),
                advice="if it is meant: relaytest publish --force --why TEXT",
            )
        return _LONGEST_SLEEP

    async def _publish_drafts(self) -> None:
        """Publish.

        Raises:
            OSError: The disk does not take it.
            _UnlikelyError: It looks like an accident, and nobody ordered it.
        """
        async with self._database.transaction() as connection:
            self._orders = await publications.orders_of(connection, self.apex.zone)
            self.apex = replace(self.apex, shut=self._orders.shut)
            if not self.apex.shut and (
                why := await publications.obstacle(connection, self.apex.code)
            ):
                raise _UnlikelyError(why)
            await dns_zones.write_zone(connection, self.apex)
        await self._write()
        if self._orders.pending:
            async with self._database.transaction() as connection:
                await publications.carried_out(connection, self.apex.zone, self._orders.pending)

    async def _write(self) -> None:
        now, expire_after = utcnow(), self._publish.expire_after
        with contextlib.ExitStack() as drafts:

            def begin(suffix: str, head: str) -> Draft:
                draft = Draft(self.folder, suffix, head)
                drafts.callback(draft.discard)
                return draft

            four = begin("ip4", render_ip4(self.apex, stamped_at=now, expire_after=expire_after))
            six = begin("ip6", render_ip6(self.apex, stamped_at=now, expire_after=expire_after))
            apex = begin("apex", render_apex(self.apex))
            apex.stamped = False
            changing = [four, six, apex]
            if self._publish.zone_file:
                serial = await asyncio.to_thread(next_serial, self._file("zone"), now)
                changing.append(begin("zone", render_zone(self.apex, serial)))
                changing[-1].stamped = False
            if not self.apex.shut:
                async with self._database.transaction() as connection:
                    await self._export(connection, changing)
            await asyncio.to_thread(self._replace_changed, changing, now)

    async def _export(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """Fill the drafts with what is listed."""
        code = self.apex.code
        four, six, apex, *master = drafts
        four.entries = await exports.addresses(connection, 4, four.write, code)
        six.entries = await exports.addresses(connection, 6, six.write, code)
        for version in (4, 6):
            await exports.names_above(connection, version, apex.write, code, PATH)
        for draft in master:
            for version in (4, 6):
                draft.entries += await exports.records(
                    connection, version, draft.write, code, self.apex.text
                )

    def _refuse_the_unlikely(self, drafts: Sequence[Draft]) -> None:
        """Compare with what is published, unless a person ordered it."""
        if self._orders.pending:
            return
        for draft in drafts:
            file = self._file(draft.suffix)
            there = count_entries(file) if draft.suffix in {"ip4", "ip6"} else 0
            if not there:
                continue
            most = max(_FEW, int(there * self._publish.largest_change))
            if self._publish.largest_change < 1 and changed_entries(file, draft.path, most) > most:
                raise _UnlikelyError(
                    f"more than {most} of {there} entries of {file.name} would change at once "
                    "(publish.largest_change)"
                )

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.apex.zone}.{suffix}"

    def _replace_changed(self, drafts: Sequence[Draft], now: datetime) -> None:
        """Publish drafts that differ from what stands, or all if the stamps grow old."""
        ordered = bool(self._orders.pending)  # the heads may differ, too
        restamp = ordered or now - self._stamped_at > self._publish.expire_after / 4
        changed = [
            one
            for one in drafts
            if ordered or self._digests.get(one.suffix) != one.digest or (restamp and one.stamped)
        ]
        for draft in changed:
            draft.finish()
        self._refuse_the_unlikely(changed)
        for draft in changed:
            replace_file(draft.path, self._file(draft.suffix))
            self._digests[draft.suffix] = draft.digest
        if restamp:
            self._stamped_at = now
        if changed:
            self._reload()
            counts = {draft.suffix: draft.entries for draft in drafts if draft.stamped}
            log.info("published", zone=self.apex.zone, **counts)
            self.published.ring()

    def _reload(self) -> None:
        """Tell rbldnsd to look at its files now; it looks by itself once a minute."""
        if not self._publish.pidfile:
            return
        try:
            pid = int(Path(self._publish.pidfile).read_text(encoding="ascii"))
            if pid < 2:  # kill(2) takes 0 and less for groups of processes
                raise ValueError(f"{pid} is no process of a DNS server")
            os.kill(pid, signal.SIGHUP)
        except (OSError, ValueError, OverflowError) as error:
            log.warning("rbldnsd not signalled", pidfile=self._publish.pidfile, error=str(error))


async def _look(config: Config, publisher: Publisher, stop: Stop) -> None:
    """Ask the DNS server for the test entries of RFC 5782 section 5; log when that changes."""
    healthy: bool | None = None

    async def look() -> timedelta:
        nonlocal healthy
        wrong = await failing_tests(config, publisher.apex)
        if (not wrong) is not healthy:
            healthy = not wrong
            tell: Callable[..., object] = log.info if healthy else log.error
            zone = publisher.apex.zone
            tell("dns self-test", zone=zone, server=config.publish.server, wrong=wrong)
        return _LOOK

    published = publisher.published
    await wait_or_stop(published.wait(_LOOK), stop)  # a server that starts with us is not up yet
    await forever("publisher", look, published, stop)


async def failing_tests(config: Config, apex: Apex | None = None) -> list[str]:
    """Return what the DNS server answers wrongly, a line for each test entry of a zone."""
    wrong = []
    apex = apex or apex_of(config.publish)
    for name, expected in self_test(apex.zone, apex.codes):
        got = await listed_as(config.publish.server, name, config.dns.timeout)
        if got != ([expected] if expected else []):
            said = "no answer" if got is None else ", ".join(got) or "not listed"
            wrong.append(f"{name}: {said}, not {expected or 'not listed'}")
    return wrong
