"""What two cores can do: the whole system with its PostgreSQL, from INSERT to the last verdict."""

import asyncio
import contextlib
import json
import os
import pstats
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from relaytest.core.probe import Form
from relaytest.store.cluster import Cluster
from tests.bench.clients import QUICK, forms
from tests.bench.processes import beside, cpu_seconds, pinned_to, program, tree_cpu_seconds
from tests.bench.queueing import until_a_worker_is_there
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.mta.process import fresh_block
from tests.postgres import temporary_cluster

CORES = 2
HOSTS = 4000
NETWORKS = 200  # of them
PORT = 2525
WARM_UP = 200  # targets
GOAL = 1000  # targets a second
TOP = 12  # functions of the profile
DAY = 24 * 60 * 60
OTHERS = ("sink", "publisher")

INSERT = """
    INSERT INTO relaytest.retest (target, port, reason)
    SELECT host, $2, 'nominated' FROM unnest($1::text[]) AS host
"""
LEFT = """
    SELECT (SELECT count(*) FROM relaytest.job)
         + (SELECT count(*) FROM relaytest.trial WHERE settle_at IS NOT NULL)
"""
CLOSED = "SELECT count(*) FROM relaytest.verdict_latest WHERE verdict = 'closed'"


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        extra: Forms sent besides the quick battery.
        workers: Processes.
    """

    name: str
    extra: tuple[Form, ...]
    workers: int


BATTERIES = {"quick": (), "32 forms": forms(32)[len(QUICK) :]}
CASES = [Case(name, extra, workers) for name, extra in BATTERIES.items() for workers in (1, 2)]


@dataclass(slots=True)
class Found:
    """What came of it.

    Attributes:
        cpu: Milliseconds of a target, by who spent them.
        profile: Of a worker.
    """

    rate: float
    cpu: dict[str, float]
    profile: list[str] = field(default_factory=list)


def run() -> Report:
    """Measure each case; then once more with a profile, whose cost would spoil the numbers."""
    with pinned_to(sorted(os.sched_getaffinity(0))[:CORES]):
        found = [_measure(case) for case in CASES]
        profiled = _measure(CASES[-2], profile=True)
    best = max(one.rate for one, case in zip(found, CASES, strict=True) if case.extra)
    return Report(
        f"capacity: the whole system on {CORES} cores; targets that answer at once and refuse",
        (
            *("battery", "forms", "workers", "targets/s", "CPU-ms/target", "worker", "scheduler"),
            *("PostgreSQL", "others", "fake targets", "hosts/day", "without fakes"),
        ),
        [_row(case, one) for case, one in zip(CASES, found, strict=True)],
        (
            f"{HOSTS} targets in {NETWORKS} /24s, after {WARM_UP} to warm up; from their INSERT to "
            "the last verdict, PostgreSQL with fsync off. CPU-ms/target is ours with PostgreSQL's; "
            "the columns after it are its parts, others: sink and publisher. The fake targets "
            "compute on the same cores; the last column is what our CPU time would allow if they, "
            "and whatever else runs here, did not.",
            f"The goal is {GOAL} targets/s of 32 forms; the best here is {best:.0f}.",
            "Profile of the worker with 32 forms, by own time:",
            *profiled.profile,
        ),
    )


def _row(case: Case, found: Found) -> Row:
    cpu = found.cpu
    ours = sum(cpu.values()) - cpu["fakes"]
    return (
        *(case.name, len(QUICK) + len(case.extra), case.workers, found.rate, ours),
        *(cpu[who] for who in ("workers", "scheduler", "PostgreSQL", "others", "fakes")),
        *(_millions(found.rate * DAY), _millions(CORES * 1000 / ours * DAY)),
    )


def _millions(hosts: float) -> str:
    return f"{hosts / 1e6:.1f} M"


def _measure(case: Case, *, profile: bool = False) -> Found:
    block = fresh_block()
    hosts = [f"{block}.{one % NETWORKS}.{one // NETWORKS + 1}" for one in range(1, HOSTS + 1)]
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(temporary_cluster())
        fakes = stack.enter_context(beside("refuse", hosts[0], PORT, *hosts[1:]))
        values = upgraded(_settings(cluster.dsn(), block, case))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        values["RELAYTEST_PUBLISH__DIRECTORY"] = str(folder / "zone")
        noted = folder / "profile"
        front = ("-m", "cProfile", "-o", str(noted)) if profile else ()
        with contextlib.ExitStack() as daemons:
            pids = {
                "workers": [_start(daemons, "worker", values, front) for _ in range(case.workers)],
                "scheduler": [_start(daemons, "scheduler", values)],
                "others": [_start(daemons, name, values) for name in OTHERS],
                "fakes": [fakes.process.pid],
            }
            found = asyncio.run(_drive(cluster, hosts, pids))
        if profile:
            found.profile = _top(noted)
    return found


def _settings(dsn: str, block: str, case: Case) -> dict[str, str]:
    """The default politeness but for its slots, and the further forms as the operator's own."""
    own = [
        {
            "id": f"X-{form.number}",
            "mail_from": form.sender.template,
            "rcpt_to": form.recipient.template,
            "helo": form.helo.value,
        }
        for form in case.extra
    ]
    return settings(
        dsn,
        BATTERY__EXTRA=json.dumps(own),
        SCOPE__ALLOW=json.dumps([f"{block}.0.0/16"]),
        SINK__LISTEN=json.dumps([f"{block}.255.1:2525"]),
    )


def _start(
    stack: contextlib.ExitStack, command: str, values: dict[str, str], front: Sequence[str] = ()
) -> int:
    return stack.enter_context(program(command, values, front)).pid


async def _drive(cluster: Cluster, hosts: Sequence[str], pids: dict[str, list[int]]) -> Found:
    """Insert all targets and wait for their verdicts."""
    connection = await asyncpg.connect(cluster.dsn())
    postmaster = int((cluster.data / "postmaster.pid").read_text().partition("\n")[0])
    await until_a_worker_is_there(connection)
    await _visit_all(connection, hosts[:WARM_UP])
    before, begun = _spent(pids, postmaster), time.perf_counter()
    await _visit_all(connection, hosts)
    seconds = time.perf_counter() - begun
    after = _spent(pids, postmaster)
    closed = await connection.fetchval(CLOSED)
    await connection.close()
    if closed != HOSTS:
        raise RuntimeError(f"{closed} of {HOSTS} targets were found closed")
    cpu = {who: 1000 * (after[who] - before[who]) / HOSTS for who in after}
    return Found(HOSTS / seconds, cpu)


async def _visit_all(connection: asyncpg.Connection, hosts: Sequence[str]) -> None:
    await connection.execute(INSERT, hosts, PORT)
    while await connection.fetchval(LEFT):  # noqa: ASYNC110 - in other processes
        await asyncio.sleep(0.2)


def _spent(pids: dict[str, list[int]], postmaster: int) -> dict[str, float]:
    """Processor time by who spent it; what our own INSERTs and looks cost is PostgreSQL's."""
    spent = {who: sum(map(cpu_seconds, its)) for who, its in pids.items()}
    return spent | {"PostgreSQL": tree_cpu_seconds(postmaster)}


def _top(file: Path) -> list[str]:
    stats = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]  # typeshed has it not
    whole = sum(own for _, _, own, _, _ in stats.values())
    ranked = sorted(stats.items(), key=lambda one: -one[1][2])[:TOP]
    return [
        f"{own / whole:6.1%}  {calls:>8} calls  {_name(function)}"
        for function, (_, calls, own, _, _) in ranked
    ]


def _name(function: tuple[str, int, str]) -> str:
    file, line, name = function
    place = "/".join(Path(file).parts[-2:])
    return name if file == "~" else f"{place}:{line} {name}"
