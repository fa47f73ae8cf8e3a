"""Test now, or once more: open jobs, and what a fault of ours has spoilt."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from relaytest.cli import show
from relaytest.cli.common import (
    AsJson,
    ConfigFile,
    DataFolder,
    Why,
    actor,
    database,
    end,
    network_of,
    past,
    reason_of,
)
from relaytest.cli.running import require_schema
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import Address, Network
from relaytest.core.verdict import Reason
from relaytest.store import jobs
from relaytest.store.database import Connection, Database

_AT_ONCE = 500  # requests in one transaction

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is to be tested.

    Attributes:
        networks: Of open jobs; of a single address also if there is none.
        found: The reason of last verdicts, of which ...
        since: ... these are meant.
    """

    networks: tuple[Network, ...]
    found: str
    since: datetime | None
    why: str
    dry_run: bool


def requeue(
    targets: Annotated[list[str] | None, typer.Argument(help="Addresses or networks.")] = None,
    found: Annotated[str, typer.Option(help="Whose last verdict has this reason.")] = "",
    since: Annotated[str, typer.Option(help="For --found: a time, or a duration such as 2h.")] = "",
    why: Why = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what it would do.")
    ] = False,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Test now what waits, and once more what was tested.

    A waiting job is pulled forward, one of a dead worker given back, one under way runs once
    more; an address without a job gets one, and so does each target that --found names.
    """
    wish = _wish(targets or [], found, since, reason_of(why), dry_run=dry_run)

    async def work(settings: Config) -> int:
        async with database(settings, data, "requeue") as opened:
            await require_schema(opened)
            rows = await _requeue(opened, wish)
        if as_json:
            print(show.as_json(rows))
            return 0
        for row in rows:
            print(f"{row['address']} port {row['port']}: {row['what']}")
        print(f"{len(rows)} tests{' would be' if dry_run else ''} queued")
        return 0

    end(work(load(config)))


def _wish(targets: list[str], found: str, since: str, why: str, *, dry_run: bool) -> _Wish:
    if bool(found) != bool(since):
        raise typer.BadParameter("--found REASON and --since TIME go together")
    if not targets and not found:
        raise typer.BadParameter("give addresses or networks, or --found and --since")
    if found and found not in {one.value for one in Reason}:
        raise typer.BadParameter(
            f"no such reason: {found}; one of {', '.join(one.value for one in Reason)}"
        )
    networks = tuple(network_of(one) for one in targets)
    return _Wish(networks, found, past(since) if since else None, why, dry_run)


class _NotMeantError(Exception):
    """Roll back: it was a dry run."""


async def _requeue(opened: Database, wish: _Wish) -> list[Row]:
    """Do it in many short transactions, for workers wait for none of them."""
    rows: list[Row] = []
    for network in wish.networks:
        async with _step(opened, wish) as connection:
            rows += await _open_jobs(connection, network, wish.why)
    targets: list[tuple[Address, int]] = []
    if wish.since is not None:
        async with opened.transaction() as connection:
            targets = await jobs.found_since(connection, wish.found, wish.since)
    for first in range(0, len(targets), _AT_ONCE):
        async with _step(opened, wish) as connection:
            for address, port in targets[first : first + _AT_ONCE]:
                rows.append(await _anew(connection, address, port, wish.why))
    return rows


@contextlib.asynccontextmanager
async def _step(opened: Database, wish: _Wish) -> AsyncIterator[Connection]:
    with contextlib.suppress(_NotMeantError):
        async with opened.transaction() as connection:
            yield connection
            if wish.dry_run:
                raise _NotMeantError


async def _open_jobs(connection: Connection, network: Network, why: str) -> list[Row]:
    """Let what is open run; ask for a test of a single address that has none."""
    rows = [dict(row) for row in await jobs.requeue(connection, network, why)]
    if network.num_addresses == 1 and not await jobs.is_open(connection, network):
        rows.append(await _anew(connection, network.network_address, 25, why))
    return rows


async def _anew(connection: Connection, address: Address, port: int, why: str) -> Row:
    request = jobs.Request(str(address), "operator", port=port, requester=actor(), note=why)
    row: Row = {"id": None, "address": address, "port": port}
    try:
        async with connection.transaction():  # a refusal must not spoil the outer one
            return row | {"id": await jobs.enqueue(connection, request), "what": "asked for"}
    except RefusedRequestError as error:
        return row | {"what": f"not possible: {error}"}
