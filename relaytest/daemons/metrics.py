"""What a daemon counts, for Prometheus: the only place that knows prometheus_client.

Each process has all of them; what a daemon does not do stays at zero, or has no series.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_asgi_app,
)

from relaytest import __version__
from relaytest.core.config import Config, split_endpoint
from relaytest.net.http_server import serve_http

REGISTRY = CollectorRegistry()
Child = Counter  # of one set of labels
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SLOW = (0.01, 0.05, 0.2, 1, 5, 20, 60, 300, 1200, 3600, 14400, 86400, 432000)
# One after the other from the port of metrics.listen on; `all` and `up` are one process.
_ORDER = ("worker", "sink", "scheduler", "publisher", "web", "notifier")


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"relaytest_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"relaytest_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, buckets: tuple[float, ...] = _QUICK) -> Histogram:
    return Histogram(f"relaytest_{name}", text, buckets=buckets, registry=REGISTRY)


# all daemons
DATABASE_AWAY = _counter("database_away_total", "Times that the database went away.", "daemon")
LISTENING = _gauge("listening", "1: NOTIFY is heard; 0: looking every second.", "daemon")
RELOADS = _counter("reloads_total", "Reloads of the configuration, by what came of it.", "result")
_gauge("info", "1: there is a process of this version.", "version").labels(__version__).set(1)
# worker
CLAIM_WAIT = _histogram("claim_wait_seconds", "From when a job was due until its claim.", _SLOW)
CLAIM_SECONDS = _histogram("claim_seconds", "Time of one claim, with its commit.")
JOBS_CLAIMED = _counter("jobs_claimed_total", "Jobs claimed.")
VISITING = _gauge("visits_in_flight", "Targets that are visited now.")
VISITS = _counter("visits_total", "Visits that ended, by how.", "result")
TALKING = _gauge("sessions_in_flight", "Connections to targets now.")
SESSIONS = _counter("sessions_total", "Connections to targets, by how they ended.", "ended")
OUTCOMES = _counter("outcomes_total", "Answers to forms, by step and first digit.", "step", "code")
FORM_OUTCOMES = _counter(
    "form_outcomes_total", "Answers to forms, by the step that each came to.", "form", "step"
)
# sink
SINK_EVENTS = _counter("sink_events_total", "What happened to connections.", "event")
RECEIPTS = _counter("receipts_total", "Messages for our tokens that were stored.", "mailbox")
RETURN_SECONDS = _histogram(
    "return_seconds", "From the end of a visit until its message came back.", _SLOW
)
SINK_CHECKS = _counter("sink_checks_total", "Messages to ourselves, by what came of it.", "result")
# scheduler
VERDICTS = _counter("verdicts_total", "Verdicts.", "verdict", "reason")
MOVES = _counter("listing_moves_total", "Changes of listings.", "old", "new")
JOBS = _gauge("jobs", "Open jobs.", "priority", "state")
OLDEST_DUE = _gauge("oldest_due_seconds", "How long the oldest due job waits.", "priority")
LISTED = _gauge("listed", "Listed targets.", "code")
UNSETTLED = _gauge("unsettled", "Trials that wait for mail or for the judge.", "all")
SINK_PROVEN = _gauge("sink_proven_seconds", "Since our own mail last came back.", "all")
WORKERS = _gauge("workers", "Workers that beat within the last 20 seconds.", "vantage")
DAEMONS = _gauge("daemons", "Other daemons that beat within the last 20 seconds.", "daemon")
RESCUED = _counter("jobs_rescued_total", "Jobs that were freed, for their worker was dead.")
PAUSES = _gauge("pauses", "Pauses of visits, by what is paused.", "of")
MAIL_QUEUE = _gauge("mail_queue", "Mails that wait to be sent.", "state")
MAIL_OLDEST = _gauge("mail_oldest_due_seconds", "How long the oldest due mail waits.", "all")
# publisher
PUBLICATIONS = _counter("publications_total", "Publications, by what came of it.", "zone", "result")
PUBLISHED_AT = _gauge("published_timestamp_seconds", "Last publication.", "zone")
ENTRIES = _gauge("published_entries", "Entries of the last publication.", "zone", "file")
DNS_RIGHT = _gauge("dns_right", "1: the DNS server answers the test entries rightly.", "zone")
# notifier
MAILS = _counter("mails_total", "Mails, by what the smarthost said.", "kind", "result")
# web
REQUESTS = _counter("http_requests_total", "Answers of the web server.", "method", "status")
REQUEST_SECONDS = _histogram("http_request_seconds", "Time until the answer began.")


@dataclass(frozen=True, slots=True)
class Place:
    """A process: what the database knows it as, and where its metrics are.

    Attributes:
        number: From 1, of the workers of one host.
    """

    program: str
    number: int = 1

    def endpoint(self, listen: str) -> tuple[str, int]:
        """Return host and port: one for each daemon, then one for each further worker.

        >>> Place("worker").endpoint("127.0.0.1:9600"), Place("web").endpoint("127.0.0.1:9600")
        (('127.0.0.1', 9600), ('127.0.0.1', 9604))
        >>> Place("worker", 2).endpoint("127.0.0.1:9600")
        ('127.0.0.1', 9606)
        """
        host, port = split_endpoint(listen)
        if self.number > 1:
            return host, port + len(_ORDER) + self.number - 2
        return host, port + (_ORDER.index(self.program) if self.program in _ORDER else 0)


@contextlib.asynccontextmanager
async def served(config: Config, place: Place) -> AsyncIterator[None]:
    """Serve /metrics while the block runs, if metrics.listen is set.

    Args:
        config: The section `metrics` is what counts.
        place: The process, which has a port of its own.

    Raises:
        OSError: The address is taken or not ours.
    """
    if not config.metrics.listen:
        yield
        return
    async with serve_http(*place.endpoint(config.metrics.listen), make_asgi_app(REGISTRY)):
        yield
