"""Servers whose truth is known, judged by relaytest and by nmap's smtp-open-relay."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from tests.bench import nmap
from tests.bench.clients import Place
from tests.bench.report import Report, Row, missing
from tests.bench.servers import SERVERS, Kind
from tests.mta import packages
from tests.mta.process import ServerError, fresh_address, fresh_port
from tests.subjects import (
    CLOSED,
    OPEN,
    SUBJECTS,
    UNKNOWABLE,
    Found,
    Subject,
    judged,
    lab,
    right,
    sink_of,
)

AT_ONCE = 6

_COLUMNS = ("server", "truth", "relaytest", "", "seconds", "nmap")


def run() -> Report:
    """Judge them all."""
    found = asyncio.run(_all())
    rows: list[Row] = [
        (
            subject.name,
            subject.truth,
            f"{one.ours} ({one.reason})",
            "" if right(subject, one) else "WRONG" if one.ours in {OPEN, CLOSED} else "untold",
            one.seconds,
            theirs,
        )
        for subject, one, theirs in found
    ]
    rows += _real_rows()
    full = [[str(cell) for cell in row] for row in rows if len(row) == len(_COLUMNS)]
    ours = Counter((row[1], row[2].partition(" ")[0]) for row in full)
    nmaps = Counter((row[1], row[5]) for row in full)
    return Report(
        "accuracy: servers whose truth is known",
        _COLUMNS,
        rows,
        (f"relaytest: {_matrix(ours)}.", f"nmap: {_matrix(nmaps)}."),
    )


def _matrix(counts: Counter[tuple[str, str]]) -> str:
    """Say how often each truth was called what."""
    told = {
        truth: [
            f"{said or 'nothing'} {n}" for (of, said), n in sorted(counts.items()) if of == truth
        ]
        for truth in (OPEN, CLOSED, UNKNOWABLE)
    }
    return "; ".join(f"{truth} called {', '.join(those)}" for truth, those in told.items())


async def _all() -> list[tuple[Subject, Found, str]]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(subject: Subject) -> tuple[Subject, Found, str]:
        async with gate:
            return subject, *await _both(subject)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(subject)) for subject in SUBJECTS]
    return [task.result() for task in tasks]


async def _both(subject: Subject) -> tuple[Found, str]:
    config = lab()
    server = subject.make(sink_of(config))
    async with server.serve() as port:
        found = await judged(config, (server.host, port))
    server = subject.make(sink_of(config))
    async with server.serve() as port:
        return found, await asyncio.to_thread(_theirs, (server.host, port))


def _theirs(place: Place) -> str:
    _, said = nmap.ask(place)
    if said.startswith("not available"):
        return "not available"
    if not said.startswith(nmap.FOUND):
        return ""
    return OPEN if "is an open relay" in said else CLOSED


def _real_rows() -> list[Row]:
    rows: list[Row] = []
    for name, kind in SERVERS.items():
        _, why = packages.find(name)
        if why:
            rows.append(missing(name, why))
            continue
        for relay in (True, False):
            try:
                rows.append(_real_row(name, kind, relay=relay))
            except ServerError as error:
                rows.append(missing(name, str(error).splitlines()[0]))
    return rows


def _real_row(name: str, kind: Kind, *, relay: bool) -> Row:
    truth, config, host = OPEN if relay else CLOSED, lab(), fresh_address()
    place = host, fresh_port(host)
    with tempfile.TemporaryDirectory(prefix="relaytest-bench-") as folder:
        Path(folder).chmod(0o755)  # the servers' own accounts pass through
        sink = sink_of(config) if relay else None
        root, own = Path(folder) / name, "mx.bench.example"
        with kind(root, *place, hostname=own, domains=[], sink=sink, relay=relay):
            ours = asyncio.run(judged(config, place))
            theirs = _theirs(place)
    told = "" if ours.ours == truth else "WRONG"
    return (f"{name}, {truth}", truth, f"{ours.ours} ({ours.reason})", told, ours.seconds, theirs)
