"""Stock mail servers, as they come and closed, with their limits on strangers; nmap beside us."""

import asyncio
import contextlib
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relaytest.core.probe import CONTROL
from relaytest.daemons import shipped
from relaytest.daemons.prober import Visit
from tests.bench.clients import Place, prober, target
from tests.bench.report import Report, Row, missing
from tests.mta import packages
from tests.mta.exim import Exim
from tests.mta.opensmtpd import OpenSmtpd
from tests.mta.postfix import Postfix
from tests.mta.process import ServerError, fresh_address, fresh_port
from tests.mta.sendmail import Sendmail

Kind = type[Postfix | Exim | OpenSmtpd | Sendmail]
SERVERS: dict[str, Kind] = {
    "postfix": Postfix,
    "exim": Exim,
    "opensmtpd": OpenSmtpd,
    "sendmail": Sendmail,
}
DEPTHS = {"quick": 2, "full": 4}  # and the tiers they take, as battery.depth has them
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
            "A new server for each turn: sendmail counts a stranger's connections for 10 minutes.",
            "ratio: seconds of nmap to this, where nmap came to a verdict.",
        ),
    )


def _visits(name: str, kind: Kind, folder: Path) -> list[Row]:
    ours = [(depth, *_ours(kind, folder, tiers)) for depth, tiers in DEPTHS.items()]
    with _server(kind, folder) as place:
        seconds, said = _nmap(place)
    rows: list[Row] = []
    reached = seconds if said.startswith(FOUND) else None
    for depth, answered, sessions, mine in ours:
        ratio = reached / mine if reached else None
        rows.append((name, f"relaytest, {depth}", answered, sessions, mine, ratio))
    return [*rows, (name, "nmap", None, None, seconds, 1.0 if reached else None, said)]


@contextlib.contextmanager
def _server(kind: Kind, folder: Path) -> Iterator[Place]:
    """Run a new server."""
    host = fresh_address()
    place = host, fresh_port(host)
    with kind(
        folder / host,
        *place,
        hostname="mx.bench.example",
        domains=["bench.example"],
        sink=None,
        relay=False,
    ):
        yield place


def _ours(kind: Kind, folder: Path, tiers: int) -> tuple[str, int, float]:
    """Return the forms answered of those asked, the sessions, and the seconds."""
    answered, sessions, seconds = [], [], []
    for _ in range(TURNS):
        with _server(kind, folder) as place:
            visit, took = asyncio.run(_visit(place, tiers))
        seconds.append(took)
        answered.append(len(visit.answered() - {CONTROL}))
        sessions.append(len(visit.records))
    return f"{min(answered)} of {len(visit.forms)}", max(sessions), statistics.median(seconds)


async def _visit(place: Place, tiers: int) -> tuple[Visit, float]:
    async with prober() as prepared:
        begun = time.perf_counter()
        visit = await prepared.visit(target(place), shipped.battery().up_to(tiers))
        return visit, time.perf_counter() - begun


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
