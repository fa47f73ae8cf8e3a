"""How long a visit takes on a long line, and how many round trips it waits for."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from relaytest.core.probe import Form
from relaytest.core.visit import SessionRecord
from relaytest.daemons.prober import Visit
from tests.bench.clients import (
    Place,
    forms,
    plain_session,
    plain_sessions,
    prober,
    said,
    target,
    without_control,
)
from tests.bench.peers import exact_loop
from tests.bench.processes import beside
from tests.bench.report import Report, Row
from tests.mta.process import fresh_address

TURNS = {0: 7, 20: 3, 100: 1}  # milliseconds of round trip: turns of each contestant
MANY, DEFAULT = 32, 20
BASE = f"aiosmtplib, 1 session of {MANY}"

# A contestant does one visit and returns how many round trips it had to wait for.
Contestant = Callable[[], Awaitable[int]]


def run() -> Report:
    """Measure at each delay."""
    server, line = (fresh_address(), 2525), (fresh_address(), 2525)
    rows: list[Row] = []
    with beside("refuse", *server):
        for delay in TURNS:
            with (
                beside("delay", *line, *server, delay),
                asyncio.Runner(loop_factory=exact_loop) as runner,
            ):
                rows += runner.run(_at(delay, line))
    return Report(
        "delay: one visit on a long line",
        ("round trip, ms", "client", "wall, ms", "wall / round trip", "waited for", "ratio"),
        rows,
        (
            "waited for: round trips counted in the transcripts, along the longest chain of "
            "sessions: the TCP handshake, then each time we had to wait for the other side.",
            f"ratio: wall time of {BASE} to this. Turns: "
            + ", ".join(f"{count} at {delay} ms" for delay, count in TURNS.items())
            + ". The goal is 10 round trips at most.",
        ),
    )


async def _at(delay: int, line: Place) -> list[Row]:
    async with prober() as prepared:

        async def visit(asked: Sequence[Form]) -> Visit:
            found = await prepared.visit(target(line), asked)
            if found.unanswered():
                raise RuntimeError(f"the visit went wrong: {found.records}")
            return found

        async def ours(count: int) -> int:
            return longest_chain((await visit(forms(count))).records)

        lines = without_control(said(await visit(forms(MANY))))
        quarter = len(lines) // 4
        quarters = [lines[place : place + quarter] for place in range(0, len(lines), quarter)]
        contestants: dict[str, Contestant] = {
            BASE: lambda: plain_session(line, lines),
            "aiosmtplib, 4 sessions of 8 at once": lambda: plain_sessions(line, quarters),
            f"relaytest, {MANY} forms": lambda: ours(MANY),
            f"relaytest, {DEFAULT} forms (default)": lambda: ours(DEFAULT),
        }
        return await _compare(delay, contestants)


async def _compare(delay: int, contestants: dict[str, Contestant]) -> list[Row]:
    walls: dict[str, list[float]] = {name: [] for name in contestants}
    trips: dict[str, int] = {}
    for _, (name, contestant) in itertools.product(range(TURNS[delay]), contestants.items()):
        begun = time.perf_counter()
        trips[name] = await contestant()
        walls[name].append(1000 * (time.perf_counter() - begun))
    wall = {name: statistics.median(its) for name, its in walls.items()}
    return [
        (
            delay,
            name,
            wall[name],
            round(wall[name] / delay, 1) if delay else None,
            trips[name],
            wall[BASE] / wall[name],
        )
        for name in contestants
    ]


def longest_chain(records: Sequence[SessionRecord]) -> int:
    """Return the round trips of the sessions that had to follow each other."""
    ends: list[tuple[float, int]] = []  # of each session: when, and the trips up to then
    for record in sorted(records, key=lambda one: one.started_at):
        begun = record.started_at.timestamp()
        before = max((trips for end, trips in ends if end <= begun), default=0)
        ends.append((begun + record.seconds, before + _trips(record)))
    return max(trips for _, trips in ends)


def _trips(record: SessionRecord) -> int:
    """The handshake, and each time that the server's words followed ours or began the talk."""
    directions = (exchange.sent for exchange in record.transcript.exchanges)
    return 1 + sum(not sent for sent, _ in itertools.groupby(directions))
