"""What a message costs the sink: processor time, and messages a second."""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from ipaddress import ip_address

import asyncpg

from relaytest.core.dialogue import Offer, greet, hold
from relaytest.core.probe import Envelope
from relaytest.core.token import Mailbox, Token, issue
from relaytest.net.smtp_client import Timeouts, connect
from relaytest.store.keys import token_keys
from tests.bench.clients import Place, at_most, forms
from tests.bench.processes import beside, cpu_seconds, program
from tests.bench.report import Report, Row
from tests.bench.system import SINK_DOMAIN, settings, upgraded
from tests.mta.process import fresh_address, greets
from tests.postgres import temporary_cluster

TURNS = 5
MESSAGES = 600  # in one turn
CLIENTS = 20
OURS, THEIRS = "relaytest sink", "aiosmtpd, one INSERT"
MESSAGE = b"From: <a@sender.example>\r\nSubject: bench\r\n\r\n" + 30 * (b"x" * 62 + b"\r\n")
SECONDS = timedelta(seconds=20)

TRIALS = """
    INSERT INTO relaytest.trial (id, job, address, port, reason, requester)
    SELECT n, n, '127.66.0.1', 25, 'operator', 'bench' FROM generate_series(1, $1) AS n
"""


def run() -> Report:
    """Send to both, turn by turn; they share one PostgreSQL."""
    turns: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    with temporary_cluster() as cluster, _receivers(cluster.dsn()) as receivers:
        tokens = iter(asyncio.run(_tokens(cluster.dsn(), MESSAGES * TURNS * len(receivers))))
        for _ in range(TURNS):
            for name, (place, pid) in receivers.items():
                envelopes = [_envelope(next(tokens)) for _ in range(MESSAGES)]
                turns[name].append(_turn(place, pid, envelopes))
        stored = asyncio.run(_stored(cluster.dsn()))
    return Report(
        "sink: taking messages and storing them in PostgreSQL",
        ("receiver", "messages", "stored", "messages/s", "CPU-ms/message", "ratio"),
        _rows(turns, stored),
        (
            f"{CLIENTS} clients, a connection for each message of {len(MESSAGE)} octets; "
            f"{TURNS} turns of {MESSAGES}. CPU time of the receiver's process alone.",
            "PostgreSQL (fsync off) and the clients share the cores, so messages/s is what this "
            "machine does as a whole. ratio: CPU time of aiosmtpd to this.",
        ),
    )


@contextlib.contextmanager
def _receivers(dsn: str) -> Iterator[dict[str, tuple[Place, int]]]:
    """Run both; give their places and process ids."""
    sink, keeper = (fresh_address(), 2525), (fresh_address(), 2525)
    values = settings(dsn, SINK__LISTEN=json.dumps([f"{sink[0]}:{sink[1]}"]))
    with program("sink", upgraded(values)) as ours, beside("keep", *keeper, dsn) as theirs:
        deadline = time.monotonic() + 20
        while not greets(*sink) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield {OURS: (sink, ours.pid), THEIRS: (keeper, theirs.process.pid)}


async def _tokens(dsn: str, count: int) -> list[str]:
    """Make trials, and a token for each."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(TRIALS, count)
    key = (await token_keys(connection))[0]
    await connection.close()
    form = forms(1)[0].number
    return [issue(key, Token(Mailbox.FORWARD, form, trial)) for trial in range(1, count + 1)]


async def _stored(dsn: str) -> dict[str, int]:
    connection = await asyncpg.connect(dsn)
    found = {
        OURS: await connection.fetchval("SELECT count(*) FROM relaytest.receipt"),
        THEIRS: await connection.fetchval("SELECT count(*) FROM bench_kept"),
    }
    await connection.close()
    return found


def _envelope(token: str) -> Envelope:
    return Envelope(b"<a@sender.example>", f"<{token}@{SINK_DOMAIN}>".encode())


def _turn(place: Place, pid: int, envelopes: Sequence[Envelope]) -> tuple[float, float]:
    """Return messages a second, and CPU-ms of the receiver for each."""
    work: list[Callable[[], Awaitable[None]]]
    work = [partial(_deliver, place, envelope) for envelope in envelopes]
    cpu, wall = cpu_seconds(pid), time.perf_counter()
    asyncio.run(at_most(CLIENTS, work))
    cpu, wall = cpu_seconds(pid) - cpu, time.perf_counter() - wall
    return len(work) / wall, 1000 * cpu / len(work)


async def _deliver(place: Place, envelope: Envelope) -> None:
    """Deliver one message, pipelining where that is announced, as mail servers do."""
    connection = await connect(
        ip_address(place[0]),
        place[1],
        Timeouts(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
        local_hostname="relay.example",
    )
    async with connection:
        hello = await connection.drive(greet(b"relay.example"))
        offer = Offer(1, envelope, MESSAGE)
        answers = await connection.drive(hold([offer], pipelining=hello.pipelining))
    replies = [one.reply for one in answers.outcomes if one.message_sent]
    if len(replies) != 1 or replies[0] is None or not replies[0].positive:
        raise RuntimeError(f"the message was not taken: {answers}")


def _rows(turns: dict[str, list[tuple[float, float]]], stored: dict[str, int]) -> list[Row]:
    rate = {name: statistics.median(rate for rate, _ in its) for name, its in turns.items()}
    cpu = {name: statistics.median(cpu for _, cpu in its) for name, its in turns.items()}
    return [
        (name, MESSAGES * TURNS, stored[name], rate[name], cpu[name], cpu[THEIRS] / cpu[name])
        for name in turns
    ]
