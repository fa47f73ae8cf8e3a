"""Tokens of the HTTP API: who may ask for tests and submit samples by it."""

import secrets
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from relaytest.cli import show
from relaytest.cli.common import AsJson, ConfigFile, DataFolder, end, transaction
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.store import api

_RIGHTS = ("request", "nominate")

Name = Annotated[str, typer.Argument(help="Of the tool; it stands in what it asks for.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    tokens = typer.Typer(help="Tokens of the HTTP API.")
    tokens.command("add")(add)
    tokens.command("end")(end_token)
    tokens.command("list")(list_tokens)
    app.add_typer(tokens, name="token")


def add(
    name: Name,
    may: Annotated[list[str], typer.Option(help="request (tests) or nominate (samples).")],
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it; it is kept nowhere."""
    if wrong := [right for right in may if right not in _RIGHTS]:
        raise typer.BadParameter(f"--may is {' or '.join(_RIGHTS)}, not {wrong[0]!r}")
    if not (1 <= len(name) <= 100 and name.isascii() and name.isprintable()):
        raise typer.BadParameter("a name has 1 to 100 printable ASCII characters")
    token = secrets.token_urlsafe(32)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "token") as connection:
            await api.add_token(connection, name, token.encode(), may)
        print(show.as_json({"name": name, "token": token, "may": may}) if as_json else token)
        return 0

    end(work(load(config)))


def end_token(
    name: Name, config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False
) -> None:
    """Let a token be used no more."""

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "token") as connection:
            await api.end_token(connection, name)
        print(show.as_json({"ended": name}) if as_json else f"token {name} ended")
        return 0

    end(work(load(config)))


def list_tokens(
    config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False
) -> None:
    """Print whose tokens there are, not the tokens."""

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "token") as connection:
            rows = await api.tokens(connection)
        if as_json:
            keys = ("name", "may", "created_at", "ended_at")
            print(show.as_json([dict(zip(keys, row, strict=True)) for row in rows]))
            return 0
        table = Table("name", "may", "since", "ended")
        for name, may, since, ended in rows:
            table.add_row(name, ", ".join(may), show.time(since), show.time(ended) if ended else "")
        Console().print(table)
        return 0

    end(work(load(config)))
