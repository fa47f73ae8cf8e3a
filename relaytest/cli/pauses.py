"""Stop all visits, or those from one place or to one network, and go on."""

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
    network_of,
    reason_of,
    transaction,
)
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.store import pauses

Place = Annotated[str, typer.Option(help="Only from this place.")]
Of = Annotated[str, typer.Option(help="Only to this network, whatever the place.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(pause)
    app.command()(resume)


def pause(
    why: Why = "",
    vantage: Place = "",
    network: Of = "",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Begin no visit any more; those under way end as usual. Jobs wait, mail is still received."""
    reason, part = reason_of(why), _part(vantage, network)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "pause") as connection:
            if not await pauses.begin(connection, part, reason, actor()):
                raise RefusedRequestError(f"{part} is paused already")
        return _tell(part, "paused", as_json=as_json)

    end(work(load(config)))


def resume(
    vantage: Place = "",
    network: Of = "",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Go on after a pause."""
    part = _part(vantage, network)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "resume") as connection:
            if not await pauses.end(connection, part, actor()):
                raise RefusedRequestError(f"{part} is not paused; see: relaytest status")
        return _tell(part, "resumed", as_json=as_json)

    end(work(load(config)))


def _part(vantage: str, network: str) -> pauses.Part:
    if vantage and network:
        raise typer.BadParameter("either --vantage or --network: a network is paused everywhere")
    if vantage and not re.fullmatch(r"[a-z0-9-]{1,40}", vantage):
        raise typer.BadParameter(f"{vantage!r} is no name of a place (identity.vantage)")
    return pauses.Part(vantage, network_of(network) if network else None)


def _tell(part: pauses.Part, what: str, *, as_json: bool) -> int:
    of = part.vantage or part.network
    print(show.as_json({what: of}) if as_json else f"{part}: {what}")
    return 0
