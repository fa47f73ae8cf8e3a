"""What happened on each of the last days: reading only, for the plots."""

from dataclasses import dataclass
from datetime import date

from relaytest.store.database import Connection

VERDICTS = """
    SELECT day::date AS day, coalesce(opened, 0) AS opened, coalesce(closed, 0) AS closed,
           coalesce(unknown, 0) AS unknown
      FROM generate_series(date_trunc('day', now()) - ($1 - 1) * interval '1 day',
                           date_trunc('day', now()), interval '1 day') AS day
      LEFT JOIN (SELECT date_trunc('day', decided_at) AS day,
                        count(*) FILTER (WHERE verdict = 'open') AS opened,
                        count(*) FILTER (WHERE verdict = 'closed') AS closed,
                        count(*) FILTER (WHERE verdict = 'unknown') AS unknown
                   FROM relaytest.verdict
                  WHERE decided_at >= date_trunc('day', now()) - ($1 - 1) * interval '1 day'
                  GROUP BY 1) AS counted USING (day)
     ORDER BY day
"""
LISTED = """
    SELECT (SELECT count(*) FROM relaytest.listing_current)
           - coalesce(sum(moved) OVER (ORDER BY day ROWS BETWEEN 1 FOLLOWING
                                                            AND UNBOUNDED FOLLOWING), 0) AS listed
      FROM generate_series(date_trunc('day', now()) - ($1 - 1) * interval '1 day',
                           date_trunc('day', now()), interval '1 day') AS day
      LEFT JOIN (SELECT date_trunc('day', at) AS day,
                        count(*) FILTER (WHERE new = 'listed')
                        - count(*) FILTER (WHERE old = 'listed') AS moved
                   FROM relaytest.listing_history
                  WHERE at >= date_trunc('day', now()) - ($1 - 1) * interval '1 day'
                  GROUP BY 1) AS counted USING (day)
     ORDER BY day
"""


@dataclass(frozen=True, slots=True)
class Days:
    """A value for each day, the last one is today, by the database's clock.

    Attributes:
        listed: Targets on the list at its end.
    """

    day: list[date]
    opened: list[int]
    closed: list[int]
    unknown: list[int]
    listed: list[int]


async def last_days(connection: Connection, days: int) -> Days:
    """Return what happened on each of the last days."""
    verdicts = await connection.fetch(VERDICTS, days)
    listed = await connection.fetch(LISTED, days)
    return Days(
        day=[row["day"] for row in verdicts],
        opened=[row["opened"] for row in verdicts],
        closed=[row["closed"] for row in verdicts],
        unknown=[row["unknown"] for row in verdicts],
        listed=[max(0, int(row["listed"])) for row in listed],
    )
