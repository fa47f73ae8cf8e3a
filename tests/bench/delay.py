"""How long a visit takes on a long line, and how many round trips it waits for."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from relaytest.core.probe import Form
from relaytest.core.visit import SessionRecord
from relaytest.daemons.prober import Prober, Visit
from tests.bench import nmap
from tests.bench.clients import (
    FULL,
    QUICK,
    Place,
    plain_session,
    plain_visit,
    prober,
    said,
    target,
    without_control,
)
from tests.bench.peers import exact_loop
from tests.bench.processes import beside
from tests.bench.report import Report, Row, missing
from tests.mta import packages
from tests.mta.process import fresh_address

TURNS = {0: 5, 20: 3, 100: 1, 200: 1}  # milliseconds of round trip: turns of each contestant
BATTERIES = {"quick": QUICK, "full": FULL}

BASE, AT_ONCE, OURS = "aiosmtplib, one session", "aiosmtplib, same sessions", "relaytest"

Key = tuple[str, int, str]  # battery, number of forms, client
# A contestant does one visit and returns how many round trips it waited for, if it can tell.
Contestant = Callable[[], Awaitable[int | None]]


def run() -> Report:
    """Measure at each delay."""
    server = fresh_address(), 2525
    lines = {delay: (fresh_address(), 2525) for delay in TURNS}
    with contextlib.ExitStack() as peers:
        peers.enter_context(beside("refuse", *server))
        for delay, line in lines.items():
            peers.enter_context(beside("delay", *line, *server, delay))
        with asyncio.Runner(loop_factory=exact_loop) as runner:
            rows = runner.run(_at_all(lines))
    return Report(
        "delay: one visit on a long line",
        (
            *("round trip, ms", "battery", "forms", "client"),
            *("wall, ms", "wall / round trip", "waited for", "ratio"),
        ),
        rows,
        (
            "waited for: round trips counted in the transcripts, along the longest chain of "
            "sessions: the TCP handshake, then each time we had to wait for the other side.",
            "ratio: wall time of aiosmtplib in one session to this. Turns: "
            + ", ".join(f"{count} at {delay} ms" for delay, count in TURNS.items())
            + ". Where there is a delay all run side by side: they wait and hardly compute.",
            "nmap sends its own 16 forms; its start is included (see the wall at 0 ms). The goal "
            "is 10 round trips at most for the quick battery.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be asked.

    Attributes:
        count: Forms that are left for the target at hand.
        sessions: What our prober says in each session.
    """

    name: str
    forms: tuple[Form, ...]
    count: int
    sessions: list[list[bytes]]


async def _at_all(lines: dict[int, Place]) -> list[Row]:
    """Measure without delay first, since that takes the processor; then all the others at once."""
    async with prober() as prepared:
        tasks = [await _task(*one, lines[0], prepared) for one in BATTERIES.items()]
        found = {0: await _at(0, lines[0], tasks, prepared)}

        async def note(delay: int) -> None:
            found[delay] = await _at(delay, lines[delay], tasks, prepared)

        async with asyncio.TaskGroup() as group:
            for delay in lines.keys() - {0}:
                group.create_task(note(delay))
    return [row for delay in lines for row in found[delay]]


async def _task(name: str, forms: tuple[Form, ...], line: Place, prepared: Prober) -> Task:
    """Look at one visit, for the others to do the same."""
    shown = await _visit(forms, line, prepared)
    return Task(name, forms, len(shown.forms), said(shown))


async def _visit(forms: Sequence[Form], line: Place, prepared: Prober) -> Visit:
    found = await prepared.visit(target(line), forms)
    if found.unanswered():
        raise RuntimeError(f"the visit went wrong: {found.records}")
    return found


async def _at(delay: int, line: Place, tasks: Sequence[Task], prepared: Prober) -> list[Row]:
    contestants = {
        key: one for task in tasks for key, one in _contestants(task, line, prepared).items()
    }
    _, why = packages.find("nmap")
    if not why:
        contestants["nmap", nmap.FORMS, "nmap"] = lambda: _nmap(line)
    walls: dict[Key, list[float]] = {key: [] for key in contestants}
    trips: dict[Key, int | None] = {}

    async def take_turns(keys: Sequence[Key]) -> None:
        for _, key in itertools.product(range(TURNS[delay]), keys):
            begun = time.perf_counter()
            trips[key] = await contestants[key]()
            walls[key].append(1000 * (time.perf_counter() - begun))

    async with asyncio.TaskGroup() as group:
        for keys in [[key] for key in contestants] if delay else [list(contestants)]:
            group.create_task(take_turns(keys))
    return _rows(delay, walls, trips) + ([missing("nmap", why)] if why else [])


def _contestants(task: Task, line: Place, prepared: Prober) -> dict[Key, Contestant]:
    """Let aiosmtplib do what our prober does: in one session, and in the prober's sessions."""
    in_one = without_control(task.sessions)

    async def ours() -> int:
        return longest_chain((await _visit(task.forms, line, prepared)).records)

    return {
        (task.name, task.count, BASE): lambda: plain_session(line, in_one),
        (task.name, task.count, AT_ONCE): lambda: plain_visit(line, task.sessions),
        (task.name, task.count, OURS): ours,
    }


async def _nmap(line: Place) -> None:
    """Ask as nmap does; what it says is only looked at for whether it got to the end."""
    _, verdict = await asyncio.to_thread(nmap.ask, line)
    if not verdict.startswith(nmap.FOUND):
        raise RuntimeError(f"nmap went wrong: {verdict}")


def _rows(delay: int, walls: dict[Key, list[float]], trips: dict[Key, int | None]) -> list[Row]:
    wall = {key: statistics.median(its) for key, its in walls.items()}
    return [
        (
            *(delay, *key, wall[key]),
            round(wall[key] / delay, 1) if delay else None,
            trips[key],
            wall[*key[:2], BASE] / wall[key] if key[2] != "nmap" else None,
        )
        for key in wall
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
