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
from tests.mta.process import ServerError, fresh_address, fresh_port

SERVERS: dict[str, type[Postfix | Exim]] = {"postfix": Postfix, "exim": Exim}
COUNTS = (20, 32)
TURNS = 3
NMAP_FORMS = 16
FOUND = "Server "  # so its verdicts begin; what begins otherwise is an error
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
            try:
                rows += _visits(name, kind, Path(folder))
            except ServerError as error:
                rows.append(missing(name, str(error).splitlines()[0]))
    return Report(
        "servers: stock mail servers that are closed",
        ("server", "tester", "answered", "sessions", "seconds", "ratio", "verdict"),
        rows,
        (
            f"relaytest: the worst of {TURNS} turns for the answers, the median for the seconds; "
            f"nmap: script smtp-open-relay, {NMAP_FORMS} forms, once, its start included.",
            "ratio: seconds of nmap to this, where nmap came to a verdict.",
        ),
    )


def _visits(name: str, kind: type[Postfix | Exim], folder: Path) -> list[Row]:
    host = fresh_address()
    place = host, fresh_port(host)
    with kind(
        folder / name, *place, hostname="mx.bench.example", domains=[], sink=None, relay=False
    ):
        ours = [asyncio.run(_ours(place, count)) for count in COUNTS]
        seconds, said = _nmap(place)
    rows: list[Row] = []
    reached = seconds if said.startswith(FOUND) else None
    for count, (answered, sessions, mine) in zip(COUNTS, ours, strict=True):
        ratio = reached / mine if reached else None
        rows.append((name, f"relaytest, {count} forms", answered, sessions, mine, ratio))
    return [*rows, (name, "nmap", None, None, seconds, 1.0 if reached else None, said)]


async def _ours(place: Place, count: int) -> tuple[str, int, float]:
    """Return the forms answered of those asked, the sessions, and the seconds."""
    answered, sessions, seconds = [], [], []
    async with prober() as prepared:
        for _ in range(TURNS):
            begun = time.perf_counter()
            visit = await prepared.visit(target(place), forms(count))
            seconds.append(time.perf_counter() - begun)
            answered.append(len(visit.answered() - {CONTROL}))
            sessions.append(len(visit.records))
    return f"{min(answered)} of {len(visit.forms)}", max(sessions), statistics.median(seconds)


def _nmap(place: Place) -> tuple[float | None, str]:
    """Return the seconds that nmap took, and what it says."""
    program, why = packages.find("nmap")
    if program is None:
        return None, f"not available: {why}"
    options = ["-Pn", "-n", "-sT", "-p", str(place[1]), "--script", "+smtp-open-relay", place[0]]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [program.path, *options],
            env=program.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no end within {_PATIENCE} s"
    seconds = time.perf_counter() - begun
    verdict = _VERDICT.search(done.stdout)
    return seconds, verdict[1] if verdict else "none: the script says nothing"
