"""Stock Postfix and Exim, as they come and closed, with their limits on errors; nmap beside us."""

import asyncio
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from relaytest.core.probe import CONTROL
from tests.bench.clients import Place, forms, prober, target
from tests.bench.report import Report, Row, missing
from tests.mta import packages
from tests.mta.exim import Exim
from tests.mta.postfix import Postfix
from tests.mta.process import fresh_address, fresh_port

SERVERS: dict[str, type[Postfix | Exim]] = {"postfix": Postfix, "exim": Exim}
COUNTS = (20, 32)
TURNS = 3
NMAP_FORMS = 16
_PATIENCE = 60  # seconds for nmap
_VERDICT = re.compile(r"^\|[_ ]smtp-open-relay: *(.*)$", re.MULTILINE)


def run() -> Report:
    """Visit each server that this machine can run."""
    rows: list[Row] = []
    for name, kind in SERVERS.items():
        _, why = packages.find(name)
        if why:
            rows.append(missing(name, why))
            continue
        with tempfile.TemporaryDirectory(prefix="relaytest-bench-") as folder:
            Path(folder).chmod(0o755)  # the servers' own accounts pass through
            rows += _visits(name, kind, Path(folder))
    return Report(
        "servers: stock mail servers that are closed",
        ("server", "tester", "answered", "sessions", "seconds", "ratio", "verdict"),
        rows,
        (
            f"relaytest: the worst of {TURNS} turns for the answers, the median for the seconds; "
            f"nmap: script smtp-open-relay, {NMAP_FORMS} forms, once, its start included.",
            "ratio: seconds of nmap to this.",
        ),
    )


def _visits(name: str, kind: type[Postfix | Exim], folder: Path) -> list[Row]:
    host = fresh_address()
    place = host, fresh_port(host)
    with kind(
        folder / name, *place, hostname="mx.bench.example", domains=[], sink=None, relay=False
    ):
        theirs = _nmap(name, place)
        seconds = theirs[4] if len(theirs) > 2 else None
        ours = [asyncio.run(_ours(name, place, count, seconds)) for count in COUNTS]
    return [*ours, theirs]


async def _ours(name: str, place: Place, count: int, theirs: object) -> Row:
    answered, sessions, seconds = [], [], []
    async with prober() as prepared:
        for _ in range(TURNS):
            begun = time.perf_counter()
            visit = await prepared.visit(target(place), forms(count))
            seconds.append(time.perf_counter() - begun)
            answered.append(len(visit.answered() - {CONTROL}))
            sessions.append(len(visit.records))
    median = statistics.median(seconds)
    ratio = theirs / median if isinstance(theirs, float) else None
    found = f"{min(answered)} of {len(visit.forms)}"
    return (name, f"relaytest, {count} forms", found, max(sessions), median, ratio, None)


def _nmap(name: str, place: Place) -> Row:
    program, why = packages.find("nmap")
    if program is None:
        return missing("nmap", why)
    begun = time.perf_counter()
    host, port = place
    options = ["-Pn", "-n", "-sT", "-p", str(port), "--script", "+smtp-open-relay", host]
    done = subprocess.run(
        [program.path, *options],
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    seconds = time.perf_counter() - begun
    verdict = _VERDICT.search(done.stdout)
    said = verdict[1] if verdict else "none: the script says nothing"
    return (name, "nmap", None, 1, seconds, 1.0, said)
