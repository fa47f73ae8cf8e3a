"""The public pages and the API at a million listings, asked by wrk on another core."""

import asyncio
import os
import re
import shutil
import subprocess
import time

import asyncpg

from tests.bench.exporting import ENTRIES, FILL
from tests.bench.processes import cores, cpu_seconds, program
from tests.bench.report import Report, Row, missing
from tests.bench.system import settings, upgraded
from tests.mta.process import fresh_address, fresh_port
from tests.postgres import temporary_cluster

LISTED = "11.0.0.211"
PATHS = {
    "API look-up, listed": f"/api/v1/lookup/{LISTED}",
    "API look-up, not listed": "/api/v1/lookup/11.0.0.212",
    "page of a listed address": f"/lookup/{LISTED}",
    "home": "/",
    "style sheet": "/static/style.css",
}
SECONDS = 8
_PER_SECOND = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)", re.MULTILINE)
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # to ms


def run() -> Report:
    """Ask each page for a while, and again at half of what it can do."""
    columns = ("what", "requests/s", "of one core", "p50 ms", "p99 ms", "p99 ms at half", "octets")
    notes = (
        f"{ENTRIES:,} listings. wrk with 16 connections, then with as many as give about half the "
        "rate. The web server has one core, PostgreSQL and wrk the other.",
        "of one core: requests/s for each core that the web server's process used.",
    )
    if shutil.which("wrk") is None:
        return Report("web", columns, [missing("wrk", "apt-get install wrk")], notes)
    host = fresh_address()
    place = f"{host}:{fresh_port(host)}"
    with temporary_cluster() as cluster:
        values = upgraded(settings(cluster.dsn(), WEB__LISTEN=place))
        asyncio.run(_fill(cluster.dsn()))
        with program("web", values) as web:
            core, other = cores()
            if core is not None:
                os.sched_setaffinity(web.pid, {core})
            _await(place)
            rows = [
                _asked(name, f"http://{place}{path}", web.pid, other)
                for name, path in PATHS.items()
            ]
    return Report("web: the pages and the API", columns, rows, notes)


async def _fill(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=60)
    await connection.execute("ALTER TABLE relaytest.listing DISABLE TRIGGER USER")
    await connection.execute(FILL.format(entries=ENTRIES))
    await connection.execute("VACUUM ANALYZE relaytest.listing")
    await connection.close()


def _await(place: str) -> None:
    """Wait until it answers, and let it warm up."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if "Requests/sec" in _wrk(f"http://{place}/", 2, 1, None) and _rate(
            _wrk(f"http://{place}/", 2, 1, None)
        ):
            return
        time.sleep(0.2)


def _asked(name: str, url: str, pid: int, core: int | None) -> Row:
    before, begun = cpu_seconds(pid), time.monotonic()
    full = _wrk(url, 16, SECONDS, core)
    used = (cpu_seconds(pid) - before) / (time.monotonic() - begun)
    half = _wrk(url, 2, SECONDS, core)
    octets = len(subprocess.run(["curl", "-s", url], capture_output=True, check=True).stdout)
    rate, times = _rate(full), _times(full)
    return (
        name,
        round(rate),
        round(rate / max(used, 0.01)),
        times.get("50"),
        times.get("99"),
        _times(half).get("99"),
        octets,
    )


def _wrk(url: str, connections: int, seconds: int, core: int | None) -> str:
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    if core is not None:
        words = ["taskset", "-c", str(core), *words]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def _rate(said: str) -> float:
    found = _PER_SECOND.search(said)
    return float(found[1]) if found else 0.0


def _times(said: str) -> dict[str, float]:
    return {which: float(value) * _UNITS[unit] for which, value, unit in _PERCENTILE.findall(said)}
