"""Stop all visits, or those from one place, and go on."""

import re
from typing import Annotated

import typer

from relaytest.cli import show
from relaytest.cli.common import (
    AsJson,
    ConfigFile,
    DataFolder,
    Why,
    actor,
    end,
    reason_of,
    transaction,
)
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.store import pauses

Place = Annotated[str, typer.Option(help="Only from this place; else from all.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(pause)
    app.command()(resume)


def pause(
    why: Why = "",
    vantage: Place = "",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Begin no visit any more; those under way end as usual. Jobs wait, mail is still received."""
    reason = reason_of(why)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "pause") as connection:
            if not await pauses.begin(connection, vantage, reason, actor()):
                raise RefusedRequestError(f"{_place(vantage)} is paused already")
        return _tell(vantage, "paused", as_json=as_json)

    _check(vantage)
    end(work(load(config)))


def resume(
    vantage: Place = "",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Go on after a pause."""

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "resume") as connection:
            if not await pauses.end(connection, vantage, actor()):
                raise RefusedRequestError(f"{_place(vantage)} is not paused; see: relaytest status")
        return _tell(vantage, "resumed", as_json=as_json)

    _check(vantage)
    end(work(load(config)))


def _check(vantage: str) -> None:
    if vantage and not re.fullmatch(r"[a-z0-9-]{1,40}", vantage):
        raise typer.BadParameter(f"{vantage!r} is no name of a place (identity.vantage)")


def _place(vantage: str) -> str:
    return vantage or "every place"


def _tell(vantage: str, what: str, *, as_json: bool) -> int:
    print(show.as_json({what: vantage or None}) if as_json else f"{_place(vantage)}: {what}")
    return 0
