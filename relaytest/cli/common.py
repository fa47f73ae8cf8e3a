"""What the commands have in common: their options, and the way to the database."""

import getpass
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from relaytest.cli.running import open_configured, require_schema, run_until_done
from relaytest.cli.settings import data_folder
from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.target import Address, Network, parse_address, parse_network
from relaytest.core.values import parse_moment
from relaytest.daemons.clock import utcnow
from relaytest.store.cluster import Cluster
from relaytest.store.database import Connection, Database

_T = TypeVar("_T")
_LONGEST_WHY = 2000  # characters; the reason is shown to the public

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file; else $RELAYTEST_CONFIG, else /etc.")
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of `up`; else $RELAYTEST_DATA.")
]
Why = Annotated[str, typer.Option("--why", help="The reason; it stands in the history.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def end(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Do the work of a command; its result is the exit status."""
    raise typer.Exit(run_until_done(work))


@asynccontextmanager
async def database(config: Config, data: Path | None, program: str) -> AsyncIterator[Database]:
    """Open the configured database, or the private one of a running `up`."""
    dsn = config.database.dsn or Cluster(data_folder(data) / "pg").dsn()
    async with open_configured(config, dsn, program) as opened:
        try:
            yield opened
        except DatabaseAwayError as error:
            advice = "start `relaytest up`, or set database.dsn"
            if config.database.dsn:
                advice = "see database.dsn"
            raise DatabaseAwayError(f"no database: {advice} ({error})") from None


@asynccontextmanager
async def transaction(config: Config, data: Path | None, program: str) -> AsyncIterator[Connection]:
    """Give one transaction on a database that has our schema."""
    async with database(config, data, program) as opened:
        await require_schema(opened)
        async with opened.transaction() as connection:
            yield connection


def actor() -> str:
    """Who is at the keyboard, for the history."""
    try:
        return getpass.getuser()[:200]
    except (KeyError, OSError):  # a user without a name
        return "unknown user"


def reason_of(why: str) -> str:
    """Return the reason that was given on the command line; refuse none."""
    if not why.strip():
        raise typer.BadParameter("--why TEXT is needed: every change has its reason in the history")
    if len(why) > _LONGEST_WHY or not why.isprintable():
        raise typer.BadParameter(
            f"--why must be one line of at most {_LONGEST_WHY} printable characters"
        )
    return why.strip()


def parsed_as(parse: Callable[[str], _T], text: str) -> _T:
    """Read an argument; what cannot be read is wrong usage."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def address_of(text: str) -> Address:
    """Read an address."""
    return parsed_as(parse_address, text)


def network_of(text: str) -> Network:
    """Read a network, or an address as the network of that one."""
    return parsed_as(parse_network, text)


def past(since: str) -> datetime:
    """Read a time that is over, or a duration until now."""
    now = utcnow()
    moment = parsed_as(lambda one: parse_moment(one, now, ago=True), since)
    if moment > now:
        raise typer.BadParameter(f"--since {since} is to come; it must lie in the past")
    return moment
