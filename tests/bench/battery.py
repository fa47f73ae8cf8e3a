"""What a visit costs us: processor time for each target, and targets a second."""

import asyncio
import contextlib
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

FORMS = 32
VISITS = 100  # in one turn of a contestant
ROUNDS = 7  # turns of each
AT_ONCE = (1, 50)
LOOPS = ("asyncio", "uvloop")

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
    with beside("refuse", *place, core=theirs), pinned(ours):
        visitors, sessions = _contestants(place)
        turns = _take_turns(visitors)
    rows: list[Row] = []
    for loop in LOOPS:
        if loop_factory(loop) is None:
            rows.append(missing(loop, "it is not installed"))
            continue
        for at_once in AT_ONCE:
            rows += _rows(loop, at_once, {name: turns[name, loop, at_once] for name in visitors})
    return Report(
        f"battery: a visit of {FORMS} forms to a server that answers at once",
        ("loop", "visits at once", "client", "CPU-ms/target", "CPU-ms/probe", "targets/s", "ratio"),
        rows,
        (
            f"{ROUNDS} turns of {VISITS} visits each; a visit is {sessions} sessions, the control "
            "recipient included. ratio: CPU time of aiosmtplib on the same loop to this.",
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


def _contestants(place: Place) -> tuple[dict[str, Visitor], int]:
    """Return the visitors, and how many sessions one visit of either takes."""
    asked = forms(FORMS)

    async def look() -> list[list[bytes]]:
        async with prober() as prepared:
            return said(await prepared.visit(target(place), asked))

    sessions = asyncio.run(look())
    visitors: dict[str, Visitor] = {
        "aiosmtplib": lambda: _plain(place, sessions),
        "relaytest": lambda: _ours(place, asked),
    }
    return visitors, len(sessions)


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


def _take_turns(visitors: dict[str, Visitor]) -> dict[tuple[str, str, int], list[Turn]]:
    turns: dict[tuple[str, str, int], list[Turn]] = {}
    for _ in range(ROUNDS):
        for loop in LOOPS:
            factory = loop_factory(loop)
            if factory is None:
                continue
            for at_once in AT_ONCE:
                for name, visitor in visitors.items():
                    with asyncio.Runner(loop_factory=factory) as runner:
                        turn = runner.run(_turn(visitor, at_once))
                    turns.setdefault((name, loop, at_once), []).append(turn)
    return turns


async def _turn(visitor: Visitor, at_once: int) -> Turn:
    async with visitor() as visit:
        await visit()  # so that caches are warm for both
        cpu, wall = time.process_time(), time.perf_counter()
        await at_most(at_once, [visit] * VISITS)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Turn(1000 * cpu / VISITS, VISITS / wall)


def _rows(loop: str, at_once: int, turns: dict[str, list[Turn]]) -> list[Row]:
    cpu = {name: statistics.median(turn.cpu for turn in its) for name, its in turns.items()}
    return [
        (
            loop,
            at_once,
            name,
            cpu[name],
            cpu[name] / FORMS,
            statistics.median(turn.rate for turn in its),
            cpu["aiosmtplib"] / cpu[name],
        )
        for name, its in turns.items()
    ]
