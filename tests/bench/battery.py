"""What a visit costs us: processor time for each target, and targets a second."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from relaytest.core.probe import Form
from tests.bench.clients import (
    Place,
    at_most,
    forms,
    plain_session,
    plain_sessions,
    prober,
    said,
    target,
)
from tests.bench.processes import beside, cores, pinned
from tests.bench.report import Report, Row, missing
from tests.mta.process import fresh_address, fresh_port

VISITS = 100  # in one turn of a contestant
ROUNDS = 5  # turns of each
LOOPS = ("asyncio", "uvloop")
CASES = ((32, 1), (32, 50), (20, 50))  # forms of a visit, and visits at once; 20 is the default

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
    """Measure both clients on both loops."""
    host = fresh_address()
    place = host, fresh_port(host)
    ours, theirs = cores()
    rows: list[Row] = []
    with beside("refuse", *place, core=theirs), pinned(ours):
        for loop in LOOPS:
            factory = loop_factory(loop)
            if factory is None:
                rows.append(missing(loop, "it is not installed"))
                continue
            for count, at_once in CASES:
                rows += [(loop, *row) for row in _case(place, factory, count, at_once)]
    return Report(
        "battery: a visit to a server that answers at once and refuses every recipient",
        (
            *("loop", "forms", "sessions", "visits at once", "client"),
            *("CPU-ms/target", "CPU-ms/probe", "targets/s", "ratio"),
        ),
        rows,
        (
            f"{ROUNDS} turns of {VISITS} visits each. ratio: CPU time of aiosmtplib on the same "
            "loop, in as many sessions with the same lines, to this.",
            "aiosmtplib says ready-made lines; relaytest also makes tokens, plan and transcripts.",
        ),
    )


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop of that name; None if it is not installed."""
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop


def _case(
    place: Place, factory: Callable[[], asyncio.AbstractEventLoop], count: int, at_once: int
) -> list[Row]:
    """Let the two take turns."""
    asked = forms(count)

    async def look() -> list[list[bytes]]:
        async with prober() as prepared:
            return said(await prepared.visit(target(place), asked))

    sessions = asyncio.run(look())
    visitors: dict[str, Visitor] = {
        "aiosmtplib": lambda: _plain(place, sessions),
        "relaytest": lambda: _ours(place, asked),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in visitors}
    for _, (name, visitor) in itertools.product(range(ROUNDS), visitors.items()):
        with asyncio.Runner(loop_factory=factory) as runner:
            turns[name].append(runner.run(_turn(visitor, at_once)))
    return [(count, len(sessions), at_once, *row) for row in _rows(count, turns)]


@contextlib.asynccontextmanager
async def _ours(
    place: Place, asked: Sequence[Form]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with prober() as prepared:

        async def visit() -> None:
            found = await prepared.visit(target(place), asked)
            if found.unanswered():
                raise RuntimeError(f"the visit went wrong: {found.records}")

        yield visit


@contextlib.asynccontextmanager
async def _plain(
    place: Place, sessions: Sequence[Sequence[bytes]]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The same lines in the same sessions: the first alone, then the others."""

    async def visit() -> None:
        await plain_session(place, sessions[0])
        await plain_sessions(place, sessions[1:])

    yield visit


async def _turn(visitor: Visitor, at_once: int) -> Turn:
    async with visitor() as visit:
        await visit()  # so that caches are warm for both
        cpu, wall = time.process_time(), time.perf_counter()
        await at_most(at_once, [visit] * VISITS)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Turn(1000 * cpu / VISITS, VISITS / wall)


def _rows(count: int, turns: dict[str, list[Turn]]) -> list[Row]:
    cpu = {name: statistics.median(turn.cpu for turn in its) for name, its in turns.items()}
    rate = {name: statistics.median(turn.rate for turn in its) for name, its in turns.items()}
    return [
        (name, cpu[name], cpu[name] / count, rate[name], cpu["aiosmtplib"] / cpu[name])
        for name in turns
    ]
