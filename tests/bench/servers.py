"""Stock mail servers, as they come and closed, with their limits on strangers; nmap beside us."""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relaytest.core.probe import CONTROL
from relaytest.daemons import shipped
from relaytest.daemons.prober import Visit
from tests.bench import nmap
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
            f"nmap: script smtp-open-relay, {nmap.FORMS} forms, once, its start included.",
            "A new server for each turn: sendmail counts a stranger's connections for 10 minutes.",
            "ratio: seconds of nmap to this, where nmap came to a verdict.",
        ),
    )


def _visits(name: str, kind: Kind, folder: Path) -> list[Row]:
    ours = [(depth, *_ours(kind, folder, tiers)) for depth, tiers in DEPTHS.items()]
    with _server(kind, folder) as place:
        seconds, said = nmap.ask(place)
    rows: list[Row] = []
    reached = seconds if said.startswith(nmap.FOUND) else None
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
