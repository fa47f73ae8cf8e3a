"""The publisher: writes the zone for rbldnsd, and looks whether DNS answers it.

A file is written beside the old one, synced, and renamed over it, so that a reader never sees
half a zone and a crash leaves the last good one. Equal content is not written again, except in
time to renew its $TIMESTAMP.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from relaytest.core.config import Config, Publish
from relaytest.core.zone import (
    Apex,
    apex_of,
    render_apex,
    render_ip4,
    render_ip6,
    render_zone,
    self_test,
    serial_of,
    zones_of,
)
from relaytest.daemons.clock import utcnow
from relaytest.daemons.loop import Stop, forever, wait_or_stop
from relaytest.net.dns import listed_as
from relaytest.store import dns_zones, listings
from relaytest.store.database import Bell, Database

_LONGEST_SLEEP = timedelta(seconds=60)  # between looks at the listings, if no bell rings
_DECLARE = timedelta(minutes=10)
_LOOK = timedelta(minutes=1)  # between looks at what DNS answers
_HEAD = 4096  # characters of a zone file, in which its SOA must be
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

log = structlog.get_logger("publisher")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Publish every change until `stop`.

    Raises:
        OSError: publish.directory cannot be made.
    """
    zones = zones_of(config)
    publishers = [Publisher(config.publish, database, apex) for apex in zones]
    publishers[0].folder.mkdir(parents=True, exist_ok=True)

    async def declare() -> timedelta:
        """Tell a DNS server on the database what the zones are."""
        async with database.transaction() as connection:
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
                loops.create_task(_look(config, publisher.apex, publisher.published, stop))
        ears.cancel()


class _Draft:
    """A file that is being written beside the published one.

    Attributes:
        suffix: Of the file it is to replace.
        stamped: It has a time in it that grows old.
        entries: How many it has.
    """

    def __init__(self, folder: Path, suffix: str, head: str) -> None:
        self.suffix = suffix
        self.stamped = True
        self.entries = 0
        self._digest = hashlib.sha256()
        self._failure: OSError | None = None
        self._file = tempfile.NamedTemporaryFile(dir=folder, prefix=".draft-", delete=False)  # noqa: SIM115 - closed by `close`
        self.path = Path(self._file.name)
        self._file.write(head.encode())

    def write(self, entries: bytes) -> None:
        """Append entries; what goes wrong comes out at `finish`.

        An error in the midst of a COPY would break the connection to the database, too.
        """
        self._digest.update(entries)
        if self._failure is None:
            try:
                self._file.write(entries)
            except OSError as error:
                self._failure = error

    @property
    def digest(self) -> str:
        """Of the entries, without the head, which changes with time."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Let the system have all octets.

        Raises:
            OSError: The disk did not take them, now or earlier.
        """
        if self._failure is not None:
            raise self._failure
        self._file.close()

    def discard(self) -> None:
        """Remove what was not published."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


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

    async def publish(self) -> timedelta:
        """Write what changed; return how long to sleep."""
        await asyncio.sleep(self._publish.debounce.total_seconds())
        try:
            await self._publish_drafts()
        except OSError as error:  # a full disk, say
            log.error("zone not written; the last one stays", error=str(error))
        return _LONGEST_SLEEP

    async def _publish_drafts(self) -> None:
        now, expire_after = utcnow(), self._publish.expire_after
        with contextlib.ExitStack() as drafts:

            def begin(suffix: str, head: str) -> _Draft:
                draft = _Draft(self.folder, suffix, head)
                drafts.callback(draft.discard)
                return draft

            four = begin("ip4", render_ip4(self.apex, stamped_at=now, expire_after=expire_after))
            six = begin("ip6", render_ip6(self.apex, stamped_at=now, expire_after=expire_after))
            apex = begin("apex", render_apex(self.apex))
            changing = [four, six]
            async with self._database.transaction() as connection:
                code = self.apex.code
                four.entries = await listings.export(connection, 4, four.write, code)
                six.entries = await listings.export(connection, 6, six.write, code)
                if self._publish.zone_file:
                    serial = await asyncio.to_thread(self._next_serial, now)
                    whole = begin("zone", render_zone(self.apex, serial))
                    whole.stamped = False
                    for version in (4, 6):
                        whole.entries += await listings.export_records(
                            connection, version, whole.write, code, self.apex.text
                        )
                    changing.append(whole)
            await asyncio.to_thread(self._replace_changed, changing, apex, now)

    def _next_serial(self, now: datetime) -> int:
        """Return a serial above that of the published file, whatever the clock says."""
        file = self.folder / f"{self.apex.zone}.zone"
        last = 0
        with contextlib.suppress(FileNotFoundError), file.open(encoding="ascii") as published:
            last = serial_of(published.read(_HEAD))
        return max(last + 1, int(now.timestamp()))

    def _replace_changed(self, drafts: Sequence[_Draft], apex: _Draft, now: datetime) -> None:
        """Publish drafts that differ from what stands, or all if the stamps grow old."""
        restamp = now - self._stamped_at > self._publish.expire_after / 4
        changed = [
            one
            for one in drafts
            if self._digests.get(one.suffix) != one.digest or (restamp and one.stamped)
        ]
        if restamp:
            changed.append(apex)
        for draft in changed:
            draft.finish()
        for draft in changed:
            self._replace(draft.path, draft.suffix)
            self._digests[draft.suffix] = draft.digest
        if restamp:
            self._stamped_at = now
        if changed:
            self._reload()
            counts = {draft.suffix: draft.entries for draft in drafts if draft.stamped}
            log.info("published", zone=self.apex.zone, **counts)
            self.published.ring()

    def _replace(self, draft: Path, suffix: str) -> None:
        """Rename a draft over the published file, so that it survives a power cut."""
        file = self.folder / f"{self.apex.zone}.{suffix}"
        with draft.open("rb") as content:
            os.fchmod(content.fileno(), 0o644)  # the DNS server runs as another user
            os.fsync(content.fileno())
        if file.exists():
            # rbldnsd sees a change by size and whole seconds only
            second = max(int(draft.stat().st_mtime), int(file.stat().st_mtime) + 1)
            os.utime(draft, (second, second))
        draft.rename(file)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

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


async def _look(config: Config, apex: Apex, published: Bell, stop: Stop) -> None:
    """Ask the DNS server for the test entries of RFC 5782 section 5; log when that changes."""
    healthy: bool | None = None

    async def look() -> timedelta:
        nonlocal healthy
        wrong = await failing_tests(config, apex)
        if (not wrong) is not healthy:
            healthy = not wrong
            tell: Callable[..., object] = log.info if healthy else log.error
            tell("dns self-test", zone=apex.zone, server=config.publish.server, wrong=wrong)
        return _LOOK

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
