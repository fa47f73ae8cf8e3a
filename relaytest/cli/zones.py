"""What a person orders of the publisher: `publish --force` and `shutdown-zone`."""

from pathlib import Path
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
from relaytest.core.zone import zones_of
from relaytest.store import publications


def publish(
    force: Annotated[
        bool, typer.Option("--force", help="However much it changes, this once.")
    ] = False,
    why: Why = "",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Let the publisher publish what it took for an accident."""
    if not force:
        raise typer.BadParameter("it publishes by itself; --force is for what it refuses")
    end(_order(load(config), data, "force", reason_of(why), as_json=as_json))


def shutdown_zone(
    why: Why = "",
    undo: Annotated[bool, typer.Option("--undo", help="Begin again.")] = False,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """End the list as RFC 6471 section 3.4 wants it: empty, and without its test entry.

    Clients see by the missing test entry that it is out of service. Warn its users well before, and
    keep the domain: whoever gets it next could list everybody.
    """
    kind = "reopen" if undo else "shut"
    end(_order(load(config), data, kind, reason_of(why), as_json=as_json))


_TOLD = {
    "force": "{zone} is published as it is by now, whatever changes",
    "shut": "{zone} will be empty, without test entries",
    "reopen": "{zone} is published again",
}


async def _order(settings: Config, data: Path | None, kind: str, why: str, *, as_json: bool) -> int:
    zones = [apex.zone for apex in zones_of(settings)]
    async with transaction(settings, data, "publish") as connection:
        for zone in zones:
            await publications.order(connection, zone, kind, why, actor())
    if as_json:
        print(show.as_json({"order": kind, "zones": zones, "why": why}))
    else:
        print(*(_TOLD[kind].format(zone=zone) for zone in zones), sep="\n")
    return 0
