"""What a target costs in memory that greets us and then says nothing; and ten thousand of them.

The measured process is a fresh one: `python -m tests.bench.sessions LOOP COUNT PORT TLS HOST ...`.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from relaytest.cli.running import raise_file_limit, tune_collector
from relaytest.daemons.prober import Visit
from tests.bench.clients import QUICK, prober, target
from tests.bench.peers import fast_loop
from tests.bench.processes import ROOT, beside
from tests.bench.report import Cell, Report, Row
from tests.mta.process import fresh_address

CLEAR, SECURE = 2525, 4650  # ports
HOSTS = 4  # as many addresses share the targets, for each has no more ports for us than 28 000
WAVE = 50  # visits are begun so many at a time, as a worker claims them
WARM_UP = 50  # sessions that are open already when the counting begins
LONGEST = 60  # seconds for all sessions to stand
GOALS = {False: 20, True: 50}  # KiB in clear, and inside TLS

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]]
LOOPS = {"uvloop": fast_loop, "asyncio": asyncio.new_event_loop}
# Loop, sessions, inside TLS.
CASES = (
    ("uvloop", 2000, False),
    ("uvloop", 10_000, False),
    ("uvloop", 2000, True),
    ("asyncio", 2000, False),
    ("asyncio", 500, True),
)


def run() -> Report:
    """Measure each case in a process of its own."""
    hosts = [fresh_address() for _ in range(HOSTS)]
    with beside("stall", CLEAR, SECURE, *hosts):
        rows = [_case(loop, count, hosts, tls=tls) for loop, count, tls in CASES]
    return Report(
        "sessions: memory of a session that is stalled after EHLO",
        (
            *("loop", "channel", "sessions", "stand after, s"),
            *("KiB/session", "goal", "RSS, MiB", "CPU-ms/session"),
        ),
        rows,
        (
            f"The growth of the prober's process from {WARM_UP} sessions on, divided by their "
            "number: a whole visit with its forms and tokens, and the first group of commands "
            "sent. What the kernel keeps for a socket is not in it.",
            f"Visits begin {WAVE} at a time. More TLS handshakes at once leave more behind, since "
            "what they need for a moment is given back in pieces.",
        ),
    )


def _case(loop: str, count: int, hosts: Sequence[str], *, tls: bool) -> Row:
    port = SECURE if tls else CLEAR
    done = subprocess.run(
        [sys.executable, "-m", __name__, loop, str(count), str(port), str(int(tls)), *hosts],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=2 * LONGEST,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    cells: tuple[Cell, ...] = (found["seconds"], found["kib"], GOALS[tls], found["rss"] / 1024)
    return (loop, "TLS" if tls else "clear", count, *cells, found["cpu"])


async def measure(count: int, port: int, hosts: Sequence[str], *, tls: bool) -> dict[str, float]:
    """Begin so many visits, wait until all are stalled, and break them off."""
    visits: list[Visit] = []
    wanted = WARM_UP
    where = itertools.cycle(hosts)
    ports = {"starttls": "also", "tls_ports": [port] if tls else []}
    async with prober(battery=ports) as prepared, asyncio.TaskGroup() as group:

        def begin() -> asyncio.Task[Visit]:
            one = target((next(where), port))
            return group.create_task(prepared.visit(one, QUICK, begun=visits.append))

        tasks = [begin() for _ in range(WARM_UP)]
        await _until_stalled(visits, wanted)
        await asyncio.sleep(0.2)
        memory, cpu, begun = _resident(), time.process_time(), time.monotonic()
        while wanted < WARM_UP + count:
            tasks += [begin() for _ in range(WAVE)]
            wanted += WAVE
            await _until_stalled(visits, wanted)
        seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
        now = _resident()
        for task in tasks:
            task.cancel()
    kib = (now - memory) / count
    return {"seconds": seconds, "kib": kib, "rss": now, "cpu": 1000 * cpu / count}


async def _until_stalled(visits: Sequence[Visit], count: int) -> None:
    """Wait until each visit knows the target's names: then its first commands are out."""
    async with asyncio.timeout(LONGEST):
        while sum(visit.names is not None for visit in visits) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def _resident() -> int:
    """Return the memory of this process, in KiB (proc(5))."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main(loop: str, count: str, port: str, tls: str, *hosts: str) -> None:
    """Measure one case and write it as JSON."""
    raise_file_limit()
    tune_collector()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        work = measure(int(count), int(port), hosts, tls=bool(int(tls)))
        json.dump(runner.run(work), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
