"""The commands."""

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from relaytest import __version__
from relaytest.cli import (
    admin,
    advice,
    check,
    dns_check,
    evidence,
    pauses,
    requeue,
    service,
    show,
    status,
    tokens,
    zones,
)
from relaytest.cli.common import AsJson, ConfigFile, DataFolder
from relaytest.cli.common import database as _database
from relaytest.cli.common import end as _end
from relaytest.cli.common import transaction as _transaction
from relaytest.cli.running import Daemon, upgrade
from relaytest.cli.settings import data_folder, load
from relaytest.cli.up import up as run_everything
from relaytest.core.config import Config, shown
from relaytest.core.dns_check import Question, in_words
from relaytest.core.errors import (
    ClusterError,
    ConfigError,
    DatabaseAwayError,
    RefusedRequestError,
    RelaytestError,
    SchemaError,
)
from relaytest.core.probe import Battery, Form
from relaytest.core.target import parse_address
from relaytest.core.zone import query_name
from relaytest.daemons import metrics, notifier, publisher, scheduler, shipped, sink, web
from relaytest.daemons import worker as worker_daemon
from relaytest.net.dns_query import ask
from relaytest.store import jobs, migrations, pages
from relaytest.store.database import Connection

EX_USAGE, EX_DATAERR, EX_UNAVAILABLE, EX_TEMPFAIL, EX_CONFIG = 64, 65, 69, 75, 78  # sysexits(3)
_STATUS: dict[type[RelaytestError], int] = {
    ConfigError: EX_CONFIG,
    SchemaError: EX_CONFIG,
    ClusterError: EX_UNAVAILABLE,
    DatabaseAwayError: EX_TEMPFAIL,
    RefusedRequestError: EX_DATAERR,
}
_DAEMONS: dict[str, Daemon] = {
    "worker": worker_daemon.run,
    "sink": sink.run,
    "scheduler": scheduler.run,
    "publisher": publisher.run,
    "web": web.run,
    "notifier": notifier.run,
}

app = typer.Typer(
    name="relaytest",
    help="Tests mail servers for third-party relay and runs the DNS blocklist that follows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The database's schema.", no_args_is_help=True)
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(config_app, name="config")


def main() -> int:
    """Run the command line; return the exit status (sysexits(3))."""
    try:
        app()
    except check.Ended as end:
        return end.status
    except SystemExit as end:
        return EX_USAGE if end.code == 2 else int(end.code or 0)
    except RelaytestError as error:
        return _complain(error)
    except OSError as error:
        sys.stderr.write(f"relaytest: {error}\n")
        return EX_UNAVAILABLE
    except (KeyboardInterrupt, asyncio.CancelledError):  # the second Ctrl-C
        return 130
    return 0


def _complain(error: RelaytestError) -> int:
    for line in str(error).splitlines():
        sys.stderr.write(f"relaytest: {line}\n")
    if isinstance(error, RefusedRequestError) and error.hint:
        sys.stderr.write(f"relaytest: {error.hint}\n")
    return _STATUS.get(type(error), 1)


@app.command()
def up(
    config: ConfigFile = None,
    data: DataFolder = None,
    demo: Annotated[bool, typer.Option("--demo", help="Show the main job on two servers.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when the demo is over.")] = False,
) -> None:
    """Start everything on this machine, with a PostgreSQL of its own if none is configured."""
    if once and not demo:
        raise typer.BadParameter("--once is for --demo")
    _end(run_everything(load(config), data_folder(data), show_demo=demo, once=once))


app.command("check")(check.command)
app.command("dns-check")(dns_check.command)
app.command("advice")(advice.command)
app.command("publish")(zones.publish)
app.command("shutdown-zone")(zones.shutdown_zone)
admin.register(app)
tokens.register(app)
pauses.register(app)
app.command()(evidence.evidence)
app.command()(requeue.requeue)
app.command()(status.status)


@app.command()
def worker(
    number: Annotated[
        int, typer.Option(min=1, max=99, help="Which one of this host: each has its own metrics.")
    ] = 1,
    config: ConfigFile = None,
    data: DataFolder = None,
) -> None:
    """Run a worker; any number of them may run."""
    place = metrics.Place("worker", number)
    _end(service.serve({"worker": _DAEMONS["worker"]}, config, data, place))


def _daemon(name: str) -> None:
    def command(config: ConfigFile = None, data: DataFolder = None) -> None:
        _end(service.serve({name: _DAEMONS[name]}, config, data, metrics.Place(name)))

    command.__doc__ = f"Run the {name}."
    app.command(name)(command)


for _name in list(_DAEMONS)[1:]:  # all but the worker
    _daemon(_name)


@app.command("all")
def all_daemons(config: ConfigFile = None, data: DataFolder = None) -> None:
    """Run worker, sink, scheduler, publisher, web and notifier in one process."""
    _end(service.serve(_DAEMONS, config, data, metrics.Place("all")))


@db.command("upgrade")
def db_upgrade(config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Apply the migrations that the database lacks."""

    async def work(settings: Config) -> int:
        async with _database(settings, data, "db") as database:
            applied = await upgrade(database, settings)
        known = len(migrations.shipped())
        if as_json:
            print(json.dumps({"version": known, "applied": applied}))
        else:
            print(*(f"applied {name}" for name in applied), f"schema {known}: up to date", sep="\n")
        return 0

    _end(work(load(config)))


@db.command("status")
def db_status(config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Tell the schema's version; exit 1 if migrations are pending."""

    async def work(settings: Config) -> int:
        async with (
            _database(settings, data, "db") as database,
            database.transaction() as connection,
        ):
            status = await migrations.status(connection, migrations.shipped())
        if as_json:
            print(json.dumps({"version": status.version, "pending": status.pending}))
        else:
            pending = (
                f"; pending: {', '.join(status.pending)}" if status.pending else "; up to date"
            )
            print(f"schema {status.version}{pending}")
        return 1 if status.pending else 0

    _end(work(load(config)))


@app.command()
def enqueue(
    targets: Annotated[list[str] | None, typer.Argument(help="Addresses or host names.")] = None,
    reason: Annotated[str, typer.Option(help="Why; see docs/sql.md.")] = "operator",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 25,
    vantage: Annotated[str, typer.Option(help="Test from this place only.")] = "",
    from_file: Annotated[
        Path | None, typer.Option("--from", help="File with an address a line; - is stdin.")
    ] = None,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Ask for retests, as an INSERT into relaytest.retest does."""
    wanted = list(targets or [])
    if from_file is not None:
        wanted += [line.strip() for line in _read(from_file).splitlines() if line.strip()]
    if not wanted:
        raise typer.BadParameter("no target given")

    async def work(settings: Config) -> int:
        requests = [
            jobs.Request(target, reason, port, vantage=vantage or None) for target in wanted
        ]
        async with _transaction(settings, data, "enqueue") as connection:
            ids = await _enqueue(connection, requests)
        rows = [{"target": target, "job": job} for target, job in zip(wanted, ids, strict=True)]
        if as_json:
            print(json.dumps(rows))
        else:
            for row in rows:
                job = f"job {row['job']}" if row["job"] else "its addresses are looked up"
                print(f"{row['target']}: {job}")
        return 0

    _end(work(load(config)))


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--from {file} cannot be read: {error}") from None


async def _enqueue(connection: Connection, requests: list[jobs.Request]) -> list[int | None]:
    """Ask for all, with a progress bar for many on a terminal."""
    hidden = len(requests) < 1000 or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), disable=hidden) as progress:
        tracked = progress.track(requests, description="enqueue")
        return [await jobs.enqueue(connection, request) for request in tracked]


@app.command()
def lookup(
    address: str, config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False
) -> None:
    """Tell all that is known of one address."""
    try:
        parsed = parse_address(address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def work(settings: Config) -> int:
        async with _transaction(settings, data, "lookup") as connection:
            standing = await pages.standing_of(connection, parsed)
        dns = None
        if settings.publish.server:
            question = Question(query_name(parsed, settings.publish.zone), "A")
            dns = await ask(settings.publish.server, question, settings.dns.timeout)
        if as_json:
            print(show.as_json(standing, dns=dns))
        else:
            show.standing(parsed, standing, in_words(dns) if settings.publish.server else "")
        return 0

    _end(work(load(config)))


@app.command()
def battery(
    tier: Annotated[int, typer.Option(min=1, help="Only tiers up to this one.")] = 255,
    peer: Annotated[str, typer.Option(help="Only what this other tester sends.")] = "",
    left_out: Annotated[
        bool, typer.Option("--left-out", help="What is known and not sent, and why.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the probe forms, with those of one's own."""
    whole = shipped.battery_of(load(config))
    if left_out:
        ways = whole.left_out
        print(show.as_json(ways)) if as_json else Console().print(show.left_out(ways))
        return
    forms = whole.up_to(tier)
    if peer:
        forms = _sent_by(peer, whole, forms)
    print(show.battery_json(forms)) if as_json else show.battery(forms, Console())


def _sent_by(name: str, whole: Battery, forms: Iterable[Form]) -> tuple[Form, ...]:
    """The forms of a peer, in its own order."""
    peer = whole.peer(name)
    if peer is None:
        known = ", ".join(one.name for one in whole.peers)
        raise typer.BadParameter(f"no such peer: {name}; known: {known}")
    by_id = {form.id: form for form in forms}
    return tuple(by_id[form] for form in peer.forms if form in by_id)


@config_app.command("check")
def config_check(config: ConfigFile = None) -> None:
    """Read the configuration; say what is wrong with it."""
    settings = load(config)
    print("the configuration is right")
    if not settings.sink.domains:
        print("but sink.domains is not set: workers stay idle, for no message could come back")


@config_app.command("show")
def config_show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print every option with its value and meaning; passwords are not shown."""
    settings = shown(load(config))
    if as_json:
        print(settings.model_dump_json(indent=2))
    else:
        Console().print(show.options(settings))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)
