"""What there is in the database, counted for metrics; the scheduler's duty."""

import math

from relaytest.core.config import Config
from relaytest.daemons import metrics
from relaytest.store import gauges
from relaytest.store.database import Connection, Database


async def measure(config: Config, database: Database) -> None:
    """Count, if anybody wants to know."""
    if not config.metrics.listen:
        return
    for gauge in (metrics.JOBS, metrics.OLDEST_DUE, metrics.LISTED, metrics.WORKERS):
        gauge.clear()  # what there is none of any more
    metrics.DAEMONS.clear()
    async with database.transaction() as connection:
        await _measure_queue(connection)
        for row in await gauges.listed(connection):
            metrics.LISTED.labels(row["code"]).set(row["listed"])
        for row in await gauges.workers(connection):
            metrics.WORKERS.labels(row["vantage"]).set(row["workers"])
        for row in await gauges.daemons(connection):
            metrics.DAEMONS.labels(row["name"]).set(row["daemons"])
        for of, count in (await gauges.pauses(connection)).items():
            metrics.PAUSES.labels(of).set(count)
        rest = await gauges.rest(connection)
    metrics.UNSETTLED.labels("").set(rest["unsettled"])
    metrics.SINK_PROVEN.labels("").set(
        math.inf if rest["sink_proven"] is None else rest["sink_proven"]
    )


async def _measure_queue(connection: Connection) -> None:
    """Count jobs and mails that wait."""
    for row in await gauges.jobs(connection):
        for state in ("due", "later", "leased"):
            metrics.JOBS.labels(row["priority"], state).set(row[state])
        metrics.OLDEST_DUE.labels(row["priority"]).set(row["oldest_due"])
    mail = await gauges.mail(connection)
    for state in ("due", "later"):
        metrics.MAIL_QUEUE.labels(state).set(mail[state])
    metrics.MAIL_OLDEST.labels("").set(mail["oldest_due"])
