"""How the whole system is: once, or as a page that stays on the terminal."""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from relaytest.cli import show
from relaytest.cli.common import AsJson, ConfigFile, DataFolder, database, end
from relaytest.cli.running import require_schema, stopping_on_signals
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError
from relaytest.daemons.loop import Stop, wait_or_stop
from relaytest.store import daemons, jobs, pages, pauses, publications
from relaytest.store.database import Database

_SILENT = timedelta(seconds=20)  # without a beat; then the scheduler takes a worker for dead too

Row = Any  # asyncpg.Record, which only store knows by name
Found = Mapping[str, Any]


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay on the terminal; Ctrl-C ends it.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds, for --watch.")] = 2.0,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Tell how the queue, the daemons of all hosts, the sink and the list are."""
    if watch and (as_json or not sys.stdout.isatty()):
        raise typer.BadParameter("--watch is for a terminal, without --json")
    settings = load(config)
    end(_watch(settings, data, every) if watch else _once(settings, data, as_json=as_json))


async def _once(settings: Config, data: Path | None, *, as_json: bool) -> int:
    async with database(settings, data, "status") as opened:
        await require_schema(opened)
        found = await _gather(opened)
    print(show.as_json(found)) if as_json else Console().print(_page(found))
    return 0


async def _watch(settings: Config, data: Path | None, every: float) -> int:
    """Show it again and again; a database that is away is told of, and waited for."""
    async with stopping_on_signals() as stop, database(settings, data, "status") as opened:
        await require_schema(opened)
        with Live(screen=True, auto_refresh=False) as live:
            await _keep_showing(live, opened, stop, every)
    return 0


async def _keep_showing(live: Live, opened: Database, stop: Stop, every: float) -> None:
    page: RenderableType = ""
    while not stop.wished:
        notice = ""
        try:
            page = _page(await _gather(opened))
        except DatabaseAwayError as error:
            notice = f"The database is away ({error}); this is how it was."
        live.update(Group(Text(notice, "bold red"), page), refresh=True)
        await wait_or_stop(asyncio.sleep(every), stop)


async def _gather(opened: Database) -> Found:
    async with opened.transaction() as connection:
        return {
            **await pages.moment(connection),
            "counts": await pages.counts(connection),
            "queue": await jobs.queue_status(connection),
            "workers": await pages.workers(connection),
            "daemons": await daemons.current(connection),
            "publications": await publications.last(connection),
            "pauses": await pauses.current(connection),
        }


def _page(found: Found) -> Group:
    now = found["read_at"]
    return Group(
        *map(_pause, found["pauses"]),
        *_counts(found),
        _queue(found["queue"], now),
        Text(),
        _workers(found["workers"], now),
        Text(),
        _daemons(found["daemons"], now),
        Text(),
        _publications(found["publications"], now),
    )


def _pause(row: Row) -> Text:
    of = f"from {row['vantage']}" if row["vantage"] else "at all"
    of = f"to {row['network']}" if row["network"] else of
    by = f"{row['actor']}, {show.time(row['since'])}"
    return Text.assemble(("Paused", "bold red"), f": no visits {of} ({by}): {row['why']}")


def _counts(found: Found) -> Iterable[Text]:
    counts = found["counts"]
    yield Text(
        f"{counts['listed']} addresses listed, {counts['jobs']} open jobs, {counts['unsettled']} "
        f"trials waiting for mail or a verdict, {found['verdicts_per_minute']} verdicts in the "
        "last minute."
    )
    proven = counts["sink_proven_at"]
    said = f"{show.time(proven)}, {_age(proven, found['read_at'])} ago" if proven else "not yet"
    yield Text(f"Our own mail last reached the sink: {said}.")


def _queue(rows: Iterable[Row], now: datetime) -> Table:
    table = show.table_of("priority", "due", "later", "running", "oldest due")
    for row in rows:
        cells = (str(row[key]) for key in ("priority", "due", "later", "leased"))
        table.add_row(*cells, f"{_age(row['oldest_due'], now)} ago" if row["oldest_due"] else "")
    return table


def _workers(rows: Iterable[Row], now: datetime) -> Table:
    table = show.table_of("worker", "vantage", "version", "busy", "slots", "last beat")
    for row in rows:
        cells = (row["vantage"], row["version"], str(row["in_flight"]), str(row["slots"]))
        table.add_row(f"{row['host']}:{row['pid']}", *cells, _beat(row, now))
    return table


def _daemons(rows: Iterable[Row], now: datetime) -> Table:
    table = show.table_of("daemon", "process", "version", "since", "last beat")
    for row in rows:
        cells = (f"{row['host']}:{row['pid']}", row["version"], show.time(row["started_at"]))
        table.add_row(row["name"], *cells, _beat(row, now))
    return table


def _publications(rows: Iterable[Row], now: datetime) -> Table:
    table = show.table_of("zone", "publisher on", "last publication", "result", "entries")
    for row in rows:
        when = f"{show.time(row['at'])}, {_age(row['at'], now)} ago"
        result = Text(row["result"], "" if row["result"] == "done" else "bold red")
        table.add_row(row["zone"], row["host"], when, result, str(row["entries"]))
    return table


def _beat(row: Row, now: datetime) -> Text:
    said = f"{_age(row['beat_at'], now)} ago"
    if now - row["beat_at"] > _SILENT:
        return Text(f"{said}: silent", "bold red")
    return Text(said)


def _age(moment: datetime, now: datetime) -> str:
    """Return how long ago something was, in the largest unit that says something."""
    seconds = max(0, round((now - moment).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
