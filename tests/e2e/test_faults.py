"""Every daemon is killed, or loses the database, at every single step; then all is counted.

A step is one message from the daemon to PostgreSQL. The road to the database sees each of them
pass, and at the one whose turn it is the daemon's process gets a SIGKILL, or its connections are
cut: before the message is handed on (nothing has happened), or after it (it has happened, and
the daemon never learns). Each run begins at the step after the last, until a run needs no more.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from relaytest.core.config import Config
from relaytest.daemons import scheduler, sink, worker
from tests.daemons.peers import Mail, Road, Talk, Target, anybody, send
from tests.lab import SINK_DOMAIN, Lab, lab_config, running, until
from tests.mta.process import fresh_address, fresh_port
from tests.net.hostile import Peer
from tests.postgres import ROOT

MOST_STEPS = 150  # of one daemon for one target; there are some thirty
DAEMONS = {"worker": worker.run, "sink": sink.run, "scheduler": scheduler.run}
# It has everything loaded, so a daemon that is forked from it begins in no time.
MOTHER = """
import os, signal, sys
from datetime import timedelta
from relaytest.cli import app
from relaytest.daemons import worker
worker._BEAT, worker._SILENCE = timedelta(seconds=0.2), timedelta(seconds=1)
worker._AFTER_A_FAULT = timedelta(seconds=0.5)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(0, flush=True)
for line in sys.stdin:
    words = line.split()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.argv = ["relaytest", *words]
        os._exit(app.main())
    print(child, flush=True)
"""


class Step(Road):
    """A road to the database on which something happens at one message.

    Attributes:
        passed: Messages from the daemon so far.
        struck: The fault has come.
    """

    def __init__(self, dsn: str, folder: Path) -> None:
        super().__init__(dsn, folder)
        self.passed = 0
        self.struck = False
        self._turn: int | None = None
        self._strike: Callable[[], Awaitable[None]] | None = None
        self._after = False

    def arm(self, turn: int, strike: Callable[[], Awaitable[None]], *, after: bool) -> None:
        """Let `strike` happen at a message, before it is handed on or after."""
        self.passed, self.struck = 0, False
        self._turn, self._strike, self._after = turn, strike, after

    def disarm(self) -> None:
        """Let nothing happen any more: nobody looks for another victim now."""
        self._strike = None

    async def hand_on(self, octets: bytes, beyond: asyncio.StreamWriter) -> None:
        """Hand a message to the server, and do what is to be done."""
        self.passed += 1
        mine = self.passed == self._turn and not self.struck
        if mine and self._strike is not None and not self._after:
            self.struck = True
            await self._strike()
            return
        await super().hand_on(octets, beyond)
        if mine and self._strike is not None:
            self.struck = True
            await self._strike()


class Mother:
    """Gives birth to daemons."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def bear(self, daemon: str, file: Path) -> int:
        """Start a daemon; return its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{daemon} --config {file}\n".encode())
        return await self.hear()

    async def hear(self) -> int:
        assert self._process.stdout is not None
        return int(await self._process.stdout.readline())


@contextlib.asynccontextmanager
async def mother() -> AsyncIterator[Mother]:
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("RELAYTEST")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MOTHER,
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        born = Mother(process)
        assert await born.hear() == 0
        yield born
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def toml(config: Config, dsn: str, *, source: str = "") -> str:
    """What a daemon of its own process needs of a lab's configuration."""
    return f"""
database.dsn = "{dsn}"
database.timeout = "2s"
identity.sources = {[source] if source else []}
identity.ehlo_name = "{config.identity.ehlo_name}"
scope.allow = ["127.66.0.0/16", "::1/128"]
dns.nameservers = {config.dns.nameservers}
dns.timeout = "200ms"
timing.retries = []
timing.patience = "2s"
timing.grace = "300ms"
politeness.request_every = []
[sink]
listen = {config.sink.listen}
domains = ["{SINK_DOMAIN}"]
check_every = "100ms"
""".replace("'", '"')


class Village:
    """Targets that watch for two visits at once, and what came of each.

    Attributes:
        taken: Codes with which the sink answered to each message that a target handed on.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.taken: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def relay(self) -> AsyncIterator[Target]:
        """An open relay that hands on what it took until the sink has it, as all servers do."""

        async def post(target: Target, mail: Mail) -> None:
            for forward in mail.forwards:
                if not forward.endswith(b"@%b>" % SINK_DOMAIN.encode()):
                    continue
                handing.create_task(self._hand_on(target, mail, forward))

        async with asyncio.TaskGroup() as handing:
            target = Target(anybody, post)
            async with target.serve() as port:
                self._port = port
                yield target

    async def _hand_on(self, target: Target, mail: Mail, forward: bytes) -> None:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError, EOFError, IndexError):
                    codes = await send(
                        self.lab.sink, mail.reverse, forward, octets=mail.octets, source=target.host
                    )
                    if codes[-1] == b"250":
                        self.taken[target.host] = self.taken.get(target.host, 0) + 1
                        return
                    if codes[-1][:1] == b"5":
                        return
                await asyncio.sleep(0.05)

    async def ask(self, target: Target) -> None:
        await self.lab.insert(target.host, self._port)

    async def settled(self, target: Target) -> None:
        """Wait until nothing more is to be done for a target, and it is listed."""

        async def look() -> bool | None:
            return (
                await self.lab.connection.fetchval(
                    "SELECT EXISTS (SELECT FROM relaytest.listing_current WHERE address = $1)"
                    " AND NOT EXISTS (SELECT FROM relaytest.job WHERE address = $1)"
                    " AND NOT EXISTS (SELECT FROM relaytest.trial WHERE address = $1"
                    "                    AND settle_at IS NOT NULL)",
                    target.host,
                )
                or None
            )

        await until(look, f"the end of the trial of {target.host}")

    async def count(self, target: Target) -> dict[str, int]:
        """Count what must be there once, and what may be there twice."""
        row = await self.lab.connection.fetchrow(
            """
            WITH t AS (SELECT * FROM relaytest.trial WHERE address = $1)
            SELECT (SELECT count(*) FROM t) AS trials,
                   (SELECT sum(visits) FROM t) AS visits,
                   (SELECT count(*) FROM relaytest.session
                     WHERE trial IN (SELECT id FROM t)) AS sessions,
                   (SELECT sum(copies) FROM relaytest.receipt
                     WHERE trial IN (SELECT id FROM t)) AS copies,
                   (SELECT count(*) FROM relaytest.listing_change WHERE address = $1) AS changes,
                   (SELECT count(*) FROM relaytest.verdict
                     WHERE address = $1 AND verdict = 'closed') AS wrong
            """,
            target.host,
        )
        return dict(row)


@pytest.fixture
async def step(dsn: str, tmp_path) -> AsyncIterator[Step]:
    way = Step(dsn, tmp_path)
    await way.mend()
    yield way
    await way.cut()


@pytest.fixture
def quick_rescue(monkeypatch) -> None:
    """Let who is silent be taken for dead after two seconds, and looked for all the time."""
    duties = scheduler.Scheduler.duties
    monkeypatch.setattr(scheduler, "_SILENCE", timedelta(seconds=2))
    monkeypatch.setattr(worker, "_BEAT", timedelta(seconds=0.2))
    monkeypatch.setattr(
        scheduler.Scheduler,
        "duties",
        lambda self: ((self.rescue, timedelta(seconds=0.1)), *duties(self)[1:]),
    )


def ways() -> Iterator[tuple[str, bool]]:
    """Each step in one of the four ways, the next in the next, over and over."""
    return itertools.cycle([("kill", False), ("cut", True), ("kill", True), ("cut", False)])


@pytest.mark.parametrize("victim", DAEMONS)
async def test_whatever_breaks_at_whatever_step_nothing_is_lost_and_nothing_done_twice(
    victim, database, dsn, step, tmp_path, monkeypatch, quick_rescue
):
    monkeypatch.setattr(sink, "_GAP", 0.02)
    host = fresh_address()
    config = lab_config(
        tmp_path / "zone",
        sink={"listen": [f"{host}:{fresh_port(host)}"], "check_every": "100ms"},
        timing={"patience": "2s", "grace": "300ms"},
    )
    file = tmp_path / "relaytest.toml"
    file.write_text(toml(config, step.dsn))
    others = tuple(run for name, run in DAEMONS.items() if name != victim)
    survived, usual = [], 0
    async with mother() as home, running(config, database, dsn, others) as lab:
        village = Village(lab)
        pid = await home.bear(victim, file)
        try:
            for turn, (action, after) in zip(range(MOST_STEPS), ways(), strict=False):

                async def strike(action=action, pid=pid) -> None:
                    if action == "kill":
                        kill(pid)
                    await step.break_all()

                async with village.relay() as target:
                    await until(lambda: _ready(lab, victim), f"the {victim}")
                    step.arm(turn, strike, after=after)
                    await village.ask(target)
                    if action == "kill":
                        pid = await _replaced(home, victim, file, step, village, target, pid)
                    await village.settled(target)
                    step.disarm()
                found = await village.count(target)
                told = f"{victim}, {action} at step {turn}, {'after' if after else 'before'} it"
                assert found["trials"] == 1, told
                assert found["visits"] == 1, told
                assert 0 < found["sessions"] <= len(target.talks), told
                assert found["changes"] == 1, told
                assert found["wrong"] == 0, told
                assert found["copies"] >= village.taken[target.host] > 0, told
                usual = usual or len(target.tried)  # of the first run, without a fault
                assert len(target.tried) <= 2 * usual, told
                if turn and not step.struck:
                    break
                survived.append(told)
        finally:
            kill(pid)
    assert 5 < len(survived) < MOST_STEPS - 2


async def _ready(lab: Lab, victim: str) -> bool | None:
    """Whether a daemon that just began is at work; only of a worker there is something to see."""
    if victim != "worker":
        return True
    return await lab.connection.fetchval("SELECT true FROM relaytest.worker") or None


async def _gone(pid: int) -> bool | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return None


async def _replaced(
    home: Mother, victim: str, file: Path, step: Step, village: Village, target: Target, pid: int
) -> int:
    """Wait for the death of a daemon, or for the end of its work; after a death start another."""
    done = asyncio.ensure_future(village.settled(target))
    while not step.struck and not done.done():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.005)
    done.cancel()
    await asyncio.wait([done])
    if not step.struck:
        step.disarm()
        return pid
    await until(lambda: _gone(pid), f"the end of {pid}")  # it still has its place to listen
    if victim == "worker":  # as if its last beat were long ago
        await village.lab.connection.execute("DELETE FROM relaytest.worker")
    return await home.bear(victim, file)


class Watched(Target):
    """A target that sees whether two workers visit at once; each has an address of its own.

    Attributes:
        doubled: Lines of a worker that went on though another had come.
        crowd: Most targets of its network that were visited at once.
    """

    def __init__(self, everywhere: dict[str, set[Talk]], *rules, **options) -> None:
        super().__init__(*rules, **options)
        self._everywhere = everywhere
        self.open = everywhere.setdefault(self.host, set())
        self._late: set[Talk] = set()
        self.doubled = self.crowd = 0

    async def _converse(self, peer: Peer, talk: Talk) -> None:
        self.open.add(talk)
        network = self.host.rpartition(".")[0] + "."
        here = [bool(there) for host, there in self._everywhere.items() if host.startswith(network)]
        self.crowd = max(self.crowd, sum(here))
        try:
            await super()._converse(peer, talk)
        finally:
            self.open.discard(talk)

    def _reply(self, talk: Talk, line: bytes) -> bytes:
        if talk.client != self.talks[-1].client:  # another has come since
            # Who was frozen answers what it had heard, as it wakes, but that is all it says.
            self.doubled += talk in self._late
            self._late.add(talk)
        return super()._reply(talk, line)


CAP = 3  # targets of one network at once


@dataclass(frozen=True)
class Storm:
    """What there is to break.

    Attributes:
        pids: Of each worker, by its configuration.
    """

    home: Mother
    pids: dict[Path, int]
    step: Step
    lab: Lab
    targets: list[Watched]

    async def kill_a_worker(self) -> None:
        """One dies, and another takes its place."""
        file = next(iter(self.pids))
        kill(self.pids.pop(file))
        self.pids[file] = await self.home.bear("worker", file)

    async def freeze_a_worker(self) -> None:
        """For so long that it is thought dead; its connections stay, but nobody speaks there."""
        number, pid = next(iter(self.pids.items()))
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.2)
        for target in self.targets:
            target.open -= {talk for talk in target.open if talk.client == source(number)}
        await asyncio.sleep(4.5)
        os.kill(pid, signal.SIGCONT)

    async def kill_backends(self) -> None:
        """All connections to the database end."""
        await self.lab.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    async def freeze_backends(self) -> None:
        """Those of the workers do not answer for a while."""
        rows = await self.lab.connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'relaytest worker'"
        )
        for row in rows:
            os.kill(row[0], signal.SIGSTOP)
        await asyncio.sleep(2.5)
        for row in rows:
            with contextlib.suppress(ProcessLookupError):
                os.kill(row[0], signal.SIGCONT)

    async def cut_the_road(self) -> None:
        """The workers alone cannot reach the database, and the scheduler thinks them dead."""
        await self.step.cut()
        await asyncio.sleep(4.5)
        await self.step.mend()


def source(file: Path) -> str:
    """The address from which a worker visits."""
    return f"127.67.0.{file.stem.removeprefix('worker')}"


async def test_in_a_storm_caps_hold_and_no_target_is_visited_by_two_workers_at_once(
    database, dsn, step, tmp_path, quick_rescue, monkeypatch
):
    """Workers are killed and frozen, backends killed and frozen; each of it counted."""
    monkeypatch.setattr(scheduler, "_SILENCE", timedelta(seconds=3))  # workers: one second
    config = lab_config(tmp_path / "zone", timing={"patience": "2s", "grace": "300ms"})
    talks: dict[str, set[Talk]] = {}
    targets = [Watched(talks, delay=0.02) for _ in range(30)]
    async with (
        mother() as home,
        running(config, database, dsn, (scheduler.run, sink.run)) as lab,
        contextlib.AsyncExitStack() as stack,
    ):
        files = [tmp_path / f"worker{number}" for number in (1, 2, 3)]
        for file in files:
            file.write_text(toml(config, step.dsn, source=source(file)))
        storm = Storm(
            home, {file: await home.bear("worker", file) for file in files}, step, lab, targets
        )
        try:
            await lab.connection.executemany(
                "INSERT INTO relaytest.network_limit (network, at_once, gap, why)"
                " VALUES (network(set_masklen($1::text::inet, 24)), $2, '0', 'a test')"
                " ON CONFLICT DO NOTHING",
                [(target.host, CAP) for target in targets],
            )
            for target in targets:
                await lab.insert(target.host, await stack.enter_async_context(target.serve()))
            for strike in (
                storm.kill_a_worker,
                storm.freeze_a_worker,
                storm.kill_backends,
                storm.freeze_backends,
                storm.cut_the_road,
            ):
                await asyncio.sleep(0.3)
                await strike()
                assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.job"), strike
            await lab.idle()
        finally:
            for pid in storm.pids.values():
                kill(pid)
        rows = await lab.connection.fetch(
            "SELECT verdict, count(*) FROM relaytest.verdict_latest GROUP BY 1"
        )
        assert [tuple(row) for row in rows] == [("closed", len(targets))]
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.trial") == len(targets)
    assert sum(target.doubled for target in targets) == 0
    assert 0 < max(target.crowd for target in targets) <= CAP
