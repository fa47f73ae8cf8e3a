"""The soak: a town of servers is tested while everything breaks, then another in peace."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import asyncpg

from relaytest.core.config import split_endpoint
from relaytest.core.zone import query_name
from relaytest.net.dns import listed_as
from relaytest.store.binaries import find_binaries
from relaytest.store.cluster import Cluster
from tests.bench.system import settings, upgraded
from tests.lab import SINK_DOMAIN, Acceptor
from tests.mta.exim import Exim
from tests.mta.packages import find
from tests.mta.postfix import Postfix
from tests.mta.process import Server, fresh_address, fresh_port
from tests.mta.rbldnsd import Rbldnsd
from tests.net.hostile import CERTIFICATE
from tests.postgres import ROOT
from tests.soak import floods
from tests.soak.house import DAEMONS, House, Sample
from tests.subjects import CLOSED, OPEN, UNKNOWABLE

ZONE = "relays.example"
CAP = 4  # targets of one /24 at once
_LONGEST = 600.0  # seconds for anything that must come
_SECOND = timedelta(seconds=1)
Say = Callable[[str], None]
# What a target may be told while things break; it is asked again in peace.
_OUR_FAULT = {"sink-down", "unreachable", "incomplete", "deferred", "blocked", "desync", "not-smtp"}


@dataclass(frozen=True)
class Citizen:
    """A server and the truth about it.

    Attributes:
        truth: As in tests.subjects.
        reason: What an unknowable one is told.
    """

    address: str
    port: int
    name: str
    truth: str
    reason: str = ""


@dataclass
class Ledger:
    """What is counted.

    Attributes:
        faults: Each, with the seconds until a verdict came again.
        checks: What was found, and whether it is as it must be.
    """

    faults: list[tuple[str, float]] = field(default_factory=list)
    checks: list[tuple[str, object, bool]] = field(default_factory=list)

    def check(self, what: str, found: object, *, right: bool) -> None:
        """Note a count."""
        self.checks.append((what, found, right))

    @property
    def right(self) -> bool:
        """Whether all is as it must be."""
        return all(right for _, _, right in self.checks)


class Town:
    """The process of tests.soak.town."""

    def __init__(self, process: asyncio.subprocess.Process, citizens: list[Citizen]) -> None:
        self._process = process
        self.citizens = citizens

    async def close(self) -> Mapping[str, int]:
        """End it; return what it saw."""
        said, _ = await self._process.communicate(b"")
        found: Mapping[str, int] = json.loads(said)
        return found


@contextlib.asynccontextmanager
async def town(count: int, sink: str) -> AsyncIterator[Town]:
    """Servers in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak.town", str(count), sink),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        assert process.stdout is not None
        there = json.loads(await process.stdout.readline())
        yield Town(process, [Citizen(**one) for one in there])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Soak:
    """One run."""

    def __init__(self, folder: Path, cluster: Cluster, say: Say) -> None:
        self._cluster = cluster
        self._say = say
        hosts = [fresh_address() for _ in range(4)]
        self.sink, self.web, self.dns, self.smarthost = (f"{h}:{fresh_port(h)}" for h in hosts)
        self.zones = folder / "zone"
        self.zones.mkdir()
        self.house = House(folder, self._toml())
        self.ledger = Ledger()
        self._crowd = 0  # most targets of a network that workers had at once
        self._connection: asyncpg.Connection | None = None

    def _toml(self) -> str:
        return f"""
[database]
dsn = "{self._cluster.dsn()}"
[identity]
ehlo_name = "probe.relaytest.example"
[scope]
allow = ["127.66.0.0/16"]
[dns]
nameservers = ["127.66.0.1:9"]
timeout = "200ms"
[timing]
connect = "5s"
greeting = "10s"
command = "5s"
end_of_data = "12s"
session = "25s"
visit = "40s"
pause = "50ms"
settle = "200ms"
retries = ["1s", "2s", "4s"]
patience = "10s"
grace = "3s"
[politeness]
slots = 100
[sink]
listen = ["{self.sink}"]
domains = ["{SINK_DOMAIN}"]
check_every = "1s"
certificate = "{CERTIFICATE}"
[publish]
zone = "{ZONE}"
directory = "{self.zones}"
server = "{self.dns}"
largest_change = 1.0
debounce = "200ms"
[web]
listen = "{self.web}"
url = "https://relays.example"
[mail]
smarthost = "{self.smarthost}"
sender = "list@relays.example"
notices = true
[log]
format = "json"
"""

    async def sql(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database, whatever happens to it."""
        for _ in range(100):
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._cluster.dsn())
                return await self._connection.fetch(query, *arguments)
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                self._connection = None
            except (asyncpg.CannotConnectNowError, asyncpg.CrashShutdownError):
                self._connection = None
            await asyncio.sleep(0.2)
        raise TimeoutError("the database did not come back")

    async def number(self, query: str, *arguments: object) -> int:
        """Return a count."""
        return int((await self.sql(query, *arguments))[0][0] or 0)

    # --- Asking and waiting

    async def limit(self, citizens: list[Citizen]) -> None:
        """Let only so many of each /24 be visited at once, though a lab has no limit."""
        await self.sql(
            "INSERT INTO relaytest.network_limit (network, at_once, gap, why)"
            " SELECT DISTINCT network(set_masklen(a::inet, 24)), $2::integer, interval '0', 'soak'"
            " FROM unnest($1::text[]) AS a ON CONFLICT DO NOTHING",
            [one.address for one in citizens],
            CAP,
        )

    async def ask(self, citizens: list[Citizen], reason: str) -> None:
        """Insert jobs as another tool does, in the order that makes no deadlock."""
        ordered = sorted(citizens, key=lambda one: (int(ip_address(one.address)), one.port))
        await self.sql(
            "INSERT INTO relaytest.retest (target, port, reason)"
            " SELECT * , $3 FROM unnest($1::text[], $2::integer[])",
            [one.address for one in ordered],
            [one.port for one in ordered],
            reason,
        )

    async def idle(self) -> None:
        """Wait until all have their verdict; one that is due to our own fault may change later."""
        open_ = """
            SELECT (SELECT count(*) FROM relaytest.job)
                   + (SELECT count(*) FROM relaytest.trial AS t
                       WHERE t.settle_at IS NOT NULL
                         AND coalesce((SELECT v.reason FROM relaytest.verdict AS v
                                        WHERE v.trial = t.id ORDER BY v.id DESC LIMIT 1),
                                      'pending') = 'pending')
        """
        await self.until(lambda: self.number(open_), "an idle system", wanted=lambda n: n == 0)

    async def watch_networks(self) -> None:
        """See how many targets of a network the workers have, whenever the database is there."""
        crowd = "SELECT count(*) FROM relaytest.job WHERE leased GROUP BY network ORDER BY 1 DESC"
        while True:
            try:
                eye = await asyncpg.connect(self._cluster.dsn())
                while True:
                    self._crowd = max(self._crowd, await eye.fetchval(crowd) or 0)
                    await asyncio.sleep(0.1)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.5)

    async def until(
        self, look: Callable[[], Awaitable[int]], what: str, wanted: Callable[[int], bool]
    ) -> None:
        """Look again and again; say how it goes."""
        begun = said = time.monotonic()
        while not wanted(found := await look()):
            now = time.monotonic()
            if now - begun > _LONGEST:
                raise TimeoutError(f"{what} did not come: {found}")
            if now - said > 15:
                self._say(f"waiting for {what}: {found}")
                said = now
            await asyncio.sleep(0.3)

    # --- Faults

    def faults(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Yield all that is done to the system, in order."""
        for name in DAEMONS:
            yield f"SIGKILL of {name}", partial(self._killed, name)
        yield "PostgreSQL killed and started again", self._database_restarted
        yield "sink away for 5 s", partial(self._away, "sink")
        yield "DNS server away for 5 s", self._dns_away
        yield "disk of the zone full for 5 s", self._disk_full
        yield "flood at the sink for 5 s", partial(floods.at_the_sink, split_endpoint(self.sink), 5)
        yield (
            "flood at the pages for 5 s",
            partial(floods.at_the_pages, split_endpoint(self.web), 5),
        )
        yield "PostgreSQL killed and started again", self._database_restarted

    async def _killed(self, name: str) -> None:
        self.house.kill(name)
        await asyncio.sleep(1)  # a service manager waits, too
        self.house.bear(name)

    async def _away(self, name: str) -> None:
        self.house.kill(name)
        await asyncio.sleep(5)
        self.house.bear(name)

    async def _database_restarted(self) -> None:
        pid = int((self._cluster.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)  # an immediate shutdown; recovery at the next start
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - another process
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        await self._cluster.start()

    async def _dns_away(self) -> None:
        self._rbldnsd.stop()
        await asyncio.sleep(5)
        self._rbldnsd.start()

    async def _disk_full(self) -> None:
        self.house.fill_disk("publisher", 4096)
        await asyncio.sleep(5)
        self.house.fill_disk("publisher")

    async def break_all(self, citizens: list[Citizen], pause: float) -> None:
        """Do all of it, one after the other; ask for some tests with each, and see one end."""
        faults = [*self.faults()]
        size = -(-len(citizens) // len(faults))
        for number, (what, strike) in enumerate(faults):
            wave = citizens[number * size : (number + 1) * size]
            self._say(f"{what}, with {len(wave)} more targets")
            await self.ask(wave, "nominated")
            await strike()
            begun = time.monotonic()
            await self.until(partial(self._told, wave), f"a verdict after: {what}", bool)
            self.ledger.faults.append((what, time.monotonic() - begun))
            await asyncio.sleep(pause)

    async def _told(self, citizens: list[Citizen]) -> int:
        """Return how many have their verdict."""
        return await self.number(
            "SELECT count(*) FROM relaytest.verdict_latest"
            " WHERE host(address) = ANY ($1) AND reason <> 'pending'",
            [one.address for one in citizens],
        )

    # --- The run

    @contextlib.contextmanager
    def dns_server(self) -> Iterator[None]:
        """A real rbldnsd on what is published."""
        host, port = split_endpoint(self.dns)
        files = [("ip4set", "ip4"), ("ip6trie", "ip6"), ("generic", "apex")]
        zones = [f"{ZONE}:{kind}:{self.zones / ZONE}.{suffix}" for kind, suffix in files]
        self._rbldnsd = Rbldnsd(self.house.folder / "rbldnsd", zones, host, port, check=1)
        with self._rbldnsd:
            yield

    async def run(self, count: int, pause: float) -> None:
        """Test one town amid faults, another in peace; count."""
        for name in DAEMONS:
            self.house.bear(name)
        files = self.zones / f"{ZONE}.apex"

        async def there() -> int:
            return files.exists()

        await self.until(there, "the first zone", bool)
        watching = asyncio.ensure_future(self.watch_networks())
        async with Acceptor(store=True).serve(*split_endpoint(self.smarthost)):
            with self.dns_server():
                await self._amid_faults(count, pause)
                await self._in_peace(count)
                await self._compare_with_dns()
        watching.cancel()
        most = f"most of a /24 at once (cap {CAP})"
        self.ledger.check(most, self._crowd, right=0 < self._crowd <= CAP)
        self._read_logs()
        ended = self.house.ended()
        told = [
            f"{name}: {status}, {self.house.last_words(name)}" for name, status in ended.items()
        ]
        self.ledger.check("daemons that ended by themselves", told or 0, right=not ended)
        statuses = set(self.house.end().values())
        self.ledger.check("exit statuses at the end", sorted(statuses), right=statuses == {0})

    async def _amid_faults(self, count: int, pause: float) -> None:
        async with town(count, self.sink) as there:
            with self._real_servers() as real:
                citizens = [*there.citizens, *real]
                await self.limit(citizens)
                random.Random(1).shuffle(citizens)
                await self.break_all(citizens, pause)
                await self.idle()
                await self._count(citizens, "amid faults")
                again = await self._untold(citizens)
                self.ledger.check("told our own faults, asked again", len(again), right=True)
                await self.ask(again, "operator")
                await self.idle()
                await self._compare(citizens)
            await self._heard(await there.close())

    async def _in_peace(self, count: int) -> None:
        async with town(count, self.sink) as there:
            await self.limit(there.citizens)
            half = len(there.citizens) // 2
            before = await self._cost_of(there.citizens[:half])
            after = await self._cost_of(there.citizens[half:])
            for name in DAEMONS:
                grown = (after[name].rss - before[name].rss) * 1000 / max(1, count - half)
                files = after[name].files - before[name].files
                self.ledger.check(
                    f"{name}: MiB, KiB more per 1000 jobs, files more",
                    f"{after[name].rss / 1024:.0f}, {grown:.0f}, {files}",
                    right=grown < 16_384 and files < 10,
                )
            await self._count(there.citizens, "in peace")
            await self._compare(there.citizens)
            await self._heard(await there.close())

    async def _cost_of(self, citizens: list[Citizen]) -> dict[str, Sample]:
        """Have some tested; return what the daemons have when it is done."""
        await self.ask(citizens, "nominated")
        await self.idle()
        await asyncio.sleep(2)
        return self.house.sample()

    @contextlib.contextmanager
    def _real_servers(self) -> Iterator[list[Citizen]]:
        """Postfix and Exim, open and closed, where they are."""
        with contextlib.ExitStack() as stack:
            found = []
            for name, kind in (("postfix", Postfix), ("exim", Exim)):
                if find(name)[0] is None:
                    self._say(f"without {name}: make servers")
                    continue
                for truth in (OPEN, CLOSED):
                    host = fresh_address()
                    server: Server = kind(
                        self.house.folder / f"{name}-{truth}",
                        host,
                        fresh_port(host),
                        hostname="mail.lab.example",
                        domains=["lab.example", "mail.lab.example"],
                        sink=split_endpoint(self.sink),
                        relay=truth == OPEN,
                    )
                    stack.enter_context(server)
                    found.append(Citizen(server.address, server.port, f"{name}, {truth}", truth))
            yield found

    # --- Counting

    async def _count(self, citizens: list[Citizen], when: str) -> None:
        verdicts = await self._told(citizens)
        left = await self.number("SELECT count(*) FROM relaytest.job")
        self.ledger.check(
            f"{when}: jobs in = verdicts + open jobs",
            f"{len(citizens)} = {verdicts} + {left}",
            right=len(citizens) == verdicts + left,
        )

    async def _verdicts(self, citizens: list[Citizen]) -> dict[tuple[str, int], tuple[str, str]]:
        rows = await self.sql(
            "SELECT host(address), port, verdict, reason FROM relaytest.verdict_latest"
            " WHERE host(address) = ANY ($1)",
            [one.address for one in citizens],
        )
        return {(row[0], row[1]): (row[2], row[3]) for row in rows}

    async def _untold(self, citizens: list[Citizen]) -> list[Citizen]:
        """Return those who were told of a fault of ours."""
        found = await self._verdicts(citizens)
        return [
            one
            for one in citizens
            if found[one.address, one.port][0] == "unknown"
            and found[one.address, one.port][1] in _OUR_FAULT - {one.reason}
        ]

    async def _compare(self, citizens: list[Citizen]) -> None:
        """Hold every verdict that was ever given, and the last ones, against the truth."""
        rows = await self.sql(
            "SELECT DISTINCT host(address), verdict FROM relaytest.verdict"
            " WHERE host(address) = ANY ($1) AND verdict <> 'unknown'",
            [one.address for one in citizens],
        )
        truth = {one.address: one for one in citizens}
        wrong = sorted(
            f"{truth[address].name}: {verdict}"
            for address, verdict in rows
            if truth[address].truth != verdict
        )
        self.ledger.check("wrong verdicts", wrong or 0, right=not wrong)
        last = await self._verdicts(citizens)
        untold = sorted(
            f"{one.name}: {last[one.address, one.port]}"
            for one in citizens
            if one.truth != UNKNOWABLE and last[one.address, one.port][0] != one.truth
        )
        self.ledger.check("not told in the end", untold or 0, right=not untold)

    async def _heard(self, seen: Mapping[str, int]) -> None:
        self.ledger.check(
            "lines of two workers at once", seen["doubled"], right=not seen["doubled"]
        )
        copies = await self.number("SELECT sum(copies) FROM relaytest.receipt")
        self._stored = getattr(self, "_stored", 0) + seen["stored"]
        self.ledger.check(
            "messages the sink took, and has",
            f"{self._stored}, {copies}",
            right=0 < self._stored <= copies,
        )

    async def _compare_with_dns(self) -> None:
        """Ask the DNS server for all that was ever tested."""
        rows = await self.sql(
            "SELECT DISTINCT host(v.address), l.address IS NOT NULL FROM relaytest.verdict AS v"
            " LEFT JOIN relaytest.listing_current AS l USING (address)"
        )
        await asyncio.sleep(4)  # debounce, and rbldnsd's look at its files
        gate, wrong = asyncio.Semaphore(50), []

        async def compare(address: str, listed: bool) -> None:
            async with gate:
                name = query_name(ip_address(address), ZONE)
                if bool(await listed_as(self.dns, name, _SECOND)) is not listed:
                    wrong.append(address)

        async with asyncio.TaskGroup() as group:
            for address, listed in rows:
                group.create_task(compare(address, listed))
        listed = sum(row[1] for row in rows)
        self.ledger.check(
            "listed, and answered otherwise", f"{listed}, {len(wrong)}", right=not wrong
        )

    def _read_logs(self) -> None:
        text = "".join(self.house.output(name).read_text(errors="replace") for name in DAEMONS)
        bugs = text.count("Traceback") + text.count("it is tried again")
        self.ledger.check("bugs in the logs", bugs, right=not bugs)


async def soak(folder: Path, targets: int, minutes: float, say: Say) -> Ledger:
    """Run everything; return the counts.

    Args:
        folder: Empty; other users may look into it.
        targets: In each of the two towns.
        minutes: About so long do the faults take.
        say: Told how it goes.
    """
    cluster = Cluster(folder / "pg", binaries=find_binaries())
    await cluster.start()
    try:
        await asyncio.to_thread(upgraded, settings(cluster.dsn()))
        run = Soak(folder, cluster, say)
        try:
            await run.run(targets, minutes * 60 / (len(DAEMONS) + 7))
        finally:
            run.house.end()
        return run.ledger
    finally:
        await cluster.stop()
