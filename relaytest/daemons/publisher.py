"""The publisher: writes the zone for DNS servers, and looks whether they answer it.

Equal content is not written again, except in time to renew its $TIMESTAMP. What looks like an
accident is not published: the last files stay, until a person says that it is meant.
"""

import asyncio
import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from relaytest.core.config import Config
from relaytest.core.errors import ConfigError, DatabaseAwayError
from relaytest.core.minisign import Signer
from relaytest.core.publishing import Publish
from relaytest.core.zone import (
    PATH,
    Apex,
    apex_of,
    render_apex,
    render_ip4,
    render_ip6,
    render_zone,
    zones_of,
)
from relaytest.daemons import metrics
from relaytest.daemons.clock import utcnow
from relaytest.daemons.dns_watch import DnsWatch
from relaytest.daemons.loop import Stop, forever, wait_or_stop
from relaytest.daemons.presence import present
from relaytest.daemons.zone_files import (
    Draft,
    changed_entries,
    checksum,
    count_entries,
    next_serial,
    put_back,
    replace_file,
    write_file,
)
from relaytest.store import dns_zones, exports, publications
from relaytest.store.database import Bell, Connection, Database

_LONGEST_SLEEP = timedelta(seconds=60)  # between looks at the listings, if no bell rings
_DECLARE = timedelta(minutes=10)
_PROOF = 300.0  # seconds; what DNS answers wrongly after that is not due to the publication
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

    async with present("publisher", database, stop), asyncio.TaskGroup() as group:
        group.create_task(forever("publisher", declare, Bell(), stop))
        for publisher in publishers:
            group.create_task(_keep(publisher, config, database, stop))


async def _keep(publisher: "Publisher", config: Config, database: Database, stop: Stop) -> None:
    """Publish every change of one zone."""
    watch = DnsWatch(config, publisher)
    async with asyncio.TaskGroup() as group:
        ears = group.create_task(database.listen(["relaytest_listing"], publisher.bell))
        if config.publish.server:
            await wait_or_stop(watch.begin(), stop)
        async with asyncio.TaskGroup() as loops:
            loops.create_task(forever("publisher", publisher.publish, publisher.bell, stop))
            if config.publish.server:
                loops.create_task(watch.keep(stop))
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
        self._writing = asyncio.Lock()
        self._signer = _signer(publish)
        self._attested = False
        self._undo: dict[str, str] = {}  # files of the last publication: the former's digest
        self._published_at = -math.inf
        self._withdrawn: dict[str, str] | None = None  # digests of what was rolled back
        self._orders = publications.Orders(0, shut=False)

    async def publish(self) -> timedelta:
        """Write what changed; return how long to sleep."""
        await asyncio.sleep(self._publish.debounce.total_seconds())
        try:
            async with self._writing:
                await self._publish_drafts()
        except OSError as error:  # a full disk, say
            await self._note("failed")
            log.error("zone not written; the last one stays", error=str(error))
        except _UnlikelyError as error:
            await self._note("refused")
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
                why := await publications.obstacle(connection, [*self.apex.texts])
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
            entries = await asyncio.to_thread(self._replace_changed, changing, now)
        if entries is not None:
            await self._note("done", entries)

    async def _note(self, result: str, entries: int | None = None) -> None:
        """Count and write down what became of a publication; None: the entries are as before."""
        metrics.PUBLICATIONS.labels(self.apex.zone, result).inc()
        with contextlib.suppress(DatabaseAwayError):
            async with self._database.transaction() as connection:
                host = socket.gethostname()
                await publications.note(connection, self.apex.zone, host, result, entries)

    async def _export(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """Fill the drafts with what is listed."""
        texts = self.apex.texts
        four, six, apex, *master = drafts
        for version in self.apex.versions:
            draft = four if version == 4 else six
            draft.entries = await exports.addresses(connection, version, draft.write, texts)
            await exports.names_above(connection, version, apex.write, texts, PATH)
        for draft in master:
            for version in self.apex.versions:
                draft.entries += await exports.records(connection, version, draft.write, texts)

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

    def _replace_changed(self, drafts: Sequence[Draft], now: datetime) -> int | None:
        """Publish drafts that differ from what stands, or all if the stamps grow old.

        Returns:
            How many entries the zone has by now; None: nothing was published.
        """
        ordered = bool(self._orders.pending)  # the heads may differ, too
        digests = {draft.suffix: draft.digest for draft in drafts}
        if digests == self._withdrawn and not ordered:
            return None
        restamp = ordered or now - self._stamped_at > self._publish.expire_after / 4
        changed = [
            one
            for one in drafts
            if ordered or self._digests.get(one.suffix) != one.digest or (restamp and one.stamped)
        ]
        for draft in changed:
            draft.finish()
        self._refuse_the_unlikely(changed)
        if changed:
            self._undo, self._withdrawn = {}, None
        for draft in changed:
            if replace_file(draft.path, self._file(draft.suffix)):
                self._undo[draft.suffix] = self._digests.get(draft.suffix, "")
            self._digests[draft.suffix] = draft.digest
        if restamp:
            self._stamped_at = now
        if changed:
            self._published_at = time.monotonic()
            self._reload()
            self._attested = False
            counts = {draft.suffix: draft.entries for draft in drafts if draft.stamped}
            _count(self.apex.zone, counts, now)
            log.info("published", zone=self.apex.zone, **counts)
            self.published.ring()
        self._attest(now)
        return sum(draft.entries for draft in drafts if draft.stamped) if changed else None

    def _attest(self, now: datetime) -> None:
        """Write the checksums of all files, for mirrors, unless they are right."""
        if self._attested:
            return
        try:
            self._write_checksums(now)
        except OSError as error:
            log.error("checksums not written", zone=self.apex.zone, error=str(error))
        else:
            self._attested = True

    def _write_checksums(self, now: datetime) -> None:
        suffixes = ("ip4", "ip6", "apex", *(("zone",) if self._publish.zone_file else ()))
        files = [self._file(suffix) for suffix in suffixes]
        sums = "".join(f"{checksum(file)}  {file.name}\n" for file in files)
        write_file(self._file("sha256"), sums)
        signature, key = self._file("sha256.minisig"), self._file("pub")
        if self._signer is None:
            signature.unlink(missing_ok=True)
            return
        comment = f"{self.apex.zone} at {now.isoformat(timespec='seconds')}"
        write_file(signature, self._signer.sign(sums.encode(), comment))
        write_file(key, self._signer.public_key)

    @property
    def can_roll_back(self) -> bool:
        """Whether the last publication was a short time ago, and there was one before it."""
        return bool(self._undo) and time.monotonic() - self._published_at < _PROOF

    async def roll_back(self) -> None:
        """Put the files before the last publication back; the same is not published again.

        It is when it changes, or a person orders it.

        Raises:
            OSError: The disk cannot.
        """
        async with self._writing:
            self._withdrawn = dict(self._digests)
            await asyncio.to_thread(self._put_back)
        await self._note("rolled-back")

    def _put_back(self) -> None:
        now = utcnow()
        for suffix, digest in self._undo.items():
            file = self._file(suffix)
            put_back(file, next_serial(self._file("zone"), now))
            self._digests[suffix] = digest
        self._reload()
        self._attested = False
        self._attest(now)
        self._undo = {}

    def publish_again(self) -> None:
        """Publish what was rolled back: the fault was not in it."""
        self._withdrawn = None
        self.bell.ring()

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


def _count(zone: str, entries: dict[str, int], now: datetime) -> None:
    metrics.PUBLISHED_AT.labels(zone).set(now.timestamp())
    for file, count in entries.items():
        metrics.ENTRIES.labels(zone, file).set(count)


def _signer(publish: Publish) -> Signer | None:
    """Read the key.

    Raises:
        ConfigError: There is none in the file.
    """
    if not publish.signing_key:
        return None
    try:
        return Signer(Path(publish.signing_key).read_bytes())
    except (OSError, ConfigError) as error:
        raise ConfigError(
            f"publish.signing_key is {publish.signing_key!r}: {error}; "
            "make one with: openssl genpkey -algorithm ed25519 -out FILE"
        ) from None
