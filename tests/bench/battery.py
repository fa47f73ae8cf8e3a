"""What a visit costs us: processor time for each target, and targets a second on one core."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from relaytest.cli.running import raise_file_limit, tune_collector
from relaytest.core.probe import Form
from tests.bench.clients import (
    FULL,
    QUICK,
    Place,
    at_most,
    forms,
    plain_visit,
    prober,
    said,
    target,
)
from tests.bench.peers import fast_loop
from tests.bench.processes import beside, cores, pinned
from tests.bench.report import Report, Row
from tests.mta.process import fresh_address

AT_ONCE = 1000  # visits
PORT = 2525
HOSTS = 16  # targets share them; more connections than one address has ports for us are open
GOAL = 0.6  # CPU-ms for a target of 32 forms


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        turns: Of each contestant; in each of them AT_ONCE visits.
    """

    name: str
    forms: tuple[Form, ...]
    turns: int


CASES = (Case("quick", QUICK, 3), Case("32 forms", forms(32), 3), Case("full", FULL, 1))
THEIRS, OURS = "aiosmtplib", "relaytest"

Visitor = Callable[[], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement.

    Attributes:
        cpu: Milliseconds of our process for a target, user and system.
        rate: Targets a second.
    """

    cpu: float
    rate: float


def run() -> Report:
    """Measure both clients."""
    raise_file_limit()
    tune_collector()  # as our programs do; aiosmtplib profits as well
    hosts = [fresh_address() for _ in range(HOSTS)]
    ours, theirs = cores()
    rows: list[Row] = []
    with beside("refuse", hosts[0], PORT, *hosts[1:], core=theirs), pinned(ours):
        for case in CASES:
            rows += _case(case, [(host, PORT) for host in hosts])
    with contextlib.closing(fast_loop()) as loop:
        kind = type(loop).__module__.partition(".")[0]
    return Report(
        f"battery: {AT_ONCE} visits at once to servers that answer at once and refuse",
        (
            *("battery", "forms", "sessions", "client"),
            *("CPU-ms/target", "CPU-ms/form", "targets/s", "ratio"),
        ),
        rows,
        (
            f"Both on {kind} and one core, the servers on another; turns of {AT_ONCE} visits: "
            + ", ".join(f"{case.turns} of {case.name}" for case in CASES)
            + ". ratio: CPU time of aiosmtplib, in as many sessions with the same lines, to this.",
            "aiosmtplib says ready-made lines; relaytest also makes tokens, plan and transcripts.",
            _distance(rows),
        ),
    )


def _distance(rows: Sequence[Row]) -> str:
    now = next(row[4] for row in rows if row[0] == CASES[1].name and row[3] == OURS)
    assert isinstance(now, float)
    return (
        f"The goal is {GOAL} CPU-ms for a target of 32 forms; this is {now / GOAL:.1f} times that."
    )


def _case(case: Case, places: Sequence[Place]) -> list[Row]:
    """Let the two take turns."""

    async def look() -> tuple[int, list[list[bytes]]]:
        async with prober() as prepared:
            shown = await prepared.visit(target(places[0]), case.forms)
            return len(shown.forms), said(shown)

    count, sessions = asyncio.run(look())
    where = itertools.cycle(places)
    visitors: dict[str, Visitor] = {
        THEIRS: lambda: _plain(where, sessions),
        OURS: lambda: _ours(where, case.forms),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in visitors}
    for _, (name, visitor) in itertools.product(range(case.turns), visitors.items()):
        with asyncio.Runner(loop_factory=fast_loop) as runner:
            turns[name].append(runner.run(_turn(visitor)))
    return [(case.name, count, len(sessions), *row) for row in _rows(count, turns)]


@contextlib.asynccontextmanager
async def _ours(
    where: Iterator[Place], asked: Sequence[Form]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with prober() as prepared:

        async def visit() -> None:
            found = await prepared.visit(target(next(where)), asked)
            if found.unanswered():
                raise RuntimeError(f"the visit went wrong: {found.records}")

        yield visit


@contextlib.asynccontextmanager
async def _plain(
    where: Iterator[Place], sessions: Sequence[Sequence[bytes]]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The same lines in the same sessions: the first alone, then the others."""

    async def visit() -> None:
        await plain_visit(next(where), sessions)

    yield visit


async def _turn(visitor: Visitor) -> Turn:
    async with visitor() as visit:
        await visit()  # so that caches are warm for both
        cpu, wall = time.process_time(), time.perf_counter()
        await at_most(AT_ONCE, [visit] * AT_ONCE)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Turn(1000 * cpu / AT_ONCE, AT_ONCE / wall)


def _rows(count: int, turns: dict[str, list[Turn]]) -> list[Row]:
    cpu = {name: statistics.median(turn.cpu for turn in its) for name, its in turns.items()}
    rate = {name: statistics.median(turn.rate for turn in its) for name, its in turns.items()}
    return [
        (name, cpu[name], cpu[name] / count, rate[name], cpu[THEIRS] / cpu[name]) for name in turns
    ]
