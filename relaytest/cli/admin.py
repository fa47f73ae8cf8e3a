"""The administrator's hand: exclude, include, delist, purge, nominate."""

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from relaytest.cli import show
from relaytest.cli.common import (
    AsJson,
    ConfigFile,
    DataFolder,
    Why,
    actor,
    address_of,
    database,
    end,
    network_of,
    parsed_as,
    past,
    reason_of,
    transaction,
)
from relaytest.cli.running import require_schema
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.core.listing import Event
from relaytest.core.nomination import LARGEST, sample_fault
from relaytest.core.origin import NoOriginError
from relaytest.core.target import Address, Network, is_wide, parse_address
from relaytest.core.values import parse_moment
from relaytest.daemons import nominating, shipped
from relaytest.daemons.clock import utcnow
from relaytest.daemons.ledger import Ledger
from relaytest.store import exclusions, jobs, keys, listings, nominations
from relaytest.store.database import Connection
from relaytest.store.listings import Standing

_AT_ONCE = 500  # listings in one transaction of a purge

Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Only this one; else all.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (exclude, include, delist, purge, nominate):
        app.command()(command)
    keys_app = typer.Typer(help="The keys that sign the tokens of our messages.")
    keys_app.command("rotate")(rotate_key)
    keys_app.command("list")(list_keys)
    app.add_typer(keys_app, name="key")


def exclude(
    network: Annotated[str, typer.Argument(help="Network or address.")] = "",
    why: Why = "",
    until: Annotated[str, typer.Option(help="Its end: a time, or a duration such as 30d.")] = "",
    show_list: Annotated[bool, typer.Option("--list", help="Print what is excluded.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Even if the network is very wide.")] = False,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Test a network no more. What is listed there stays so until it expires."""
    if show_list:
        if network or why or until:
            raise typer.BadParameter("--list stands alone")
        end(_list_exclusions(load(config), data, as_json=as_json))
    if not network:
        raise typer.BadParameter("no network given; --list prints what is excluded")
    wanted, reason = network_of(network), reason_of(why)
    if is_wide(wanted) and not yes:
        raise typer.BadParameter(
            f"{wanted} is wider than /{'16' if wanted.version == 4 else '32'}: add --yes if that "
            "is meant"
        )
    moment = _future(until) if until else None

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "exclude") as connection:
            replaced = await exclusions.exclude(
                connection, wanted, why=reason, actor=actor(), until=moment
            )
        told = {"network": str(wanted), "why": reason, "until": moment, "replaced": replaced}
        ending = f" until {show.time(moment)}" if moment else ""
        print(show.as_json(told) if as_json else f"{wanted} is excluded from testing{ending}")
        return 0

    end(work(load(config)))


async def _list_exclusions(settings: Config, data: Path | None, *, as_json: bool) -> int:
    async with transaction(settings, data, "exclude") as connection:
        rows = await exclusions.current(connection)
    print(show.as_json(rows)) if as_json else Console().print(show.exclusions(rows))
    return 0


def include(
    network: Annotated[str, typer.Argument(help="As it was excluded; see exclude --list.")],
    why: Why = "",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """End the exclusion of a network: it may be tested again."""
    wanted, reason = network_of(network), reason_of(why)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "include") as connection:
            if not await exclusions.include(connection, wanted, why=reason, actor=actor()):
                raise await _not_excluded(connection, wanted)
        told = {"network": str(wanted), "why": reason}
        print(show.as_json(told) if as_json else f"{wanted} may be tested again")
        return 0

    end(work(load(config)))


async def _not_excluded(connection: Connection, network: Network) -> RefusedRequestError:
    near = [str(one) for one in await exclusions.overlapping(connection, network)]
    hint = "Nothing there is: see `relaytest exclude --list`."
    if near:
        hint = f"These are, and overlap: {', '.join(near)}. Give one of them."
    return RefusedRequestError(f"{network} is not excluded", hint)


def delist(
    address: str,
    why: Why = "",
    port: Port = None,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take an address off the list by hand. The next trial that relays lists it again."""
    parsed, reason = address_of(address), reason_of(why)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "delist") as connection:
            standing = await listings.standing_of(connection, parsed)
            wanted = [one for one in standing if port in {None, one.port}]
            if not wanted:
                raise _not_listed(parsed, port, standing)
            ledger = Ledger(settings.listing)
            for one in wanted:
                await ledger.take_off(connection, one, Event.DELISTED, reason, actor())
        rows = [{"address": parsed, "port": one.port, "was": one.state.value} for one in wanted]
        _print(rows, "{address} port {port}: was {was}, is unlisted", as_json=as_json)
        return 0

    end(work(load(config)))


def _not_listed(address: Address, port: int | None, found: list[Standing]) -> RefusedRequestError:
    where = f" for port {port}" if port else ""
    hint = f"See `relaytest lookup {address}`."
    if found:
        hint = f"It is for port {', '.join(str(one.port) for one in found)}."
    return RefusedRequestError(f"{address} is not listed{where}", hint)


@dataclass(frozen=True, slots=True)
class _Mistake:
    """What a purge takes back."""

    since: datetime
    form: str | None
    why: str
    dry_run: bool


def purge(
    since: Annotated[str, typer.Option(help="A time, or a duration such as 2h.")],
    why: Why = "",
    form: Annotated[str, typer.Option(help="Only where no other form came back.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what it would do.")
    ] = False,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take back the listings of a mistake (RFC 6471 section 3.9), and test them anew.

    All whose deciding trial was judged since then are taken off, with the reason in the history.
    """
    settings = load(config)
    if form and form not in {one.id for one in shipped.battery_of(settings).forms}:
        raise typer.BadParameter(f"no such form: {form}; see `relaytest battery`")
    mistake = _Mistake(past(since), form or None, reason_of(why), dry_run)

    async def work() -> int:
        rows: list[dict[str, Any]] = []
        async with database(settings, data, "purge") as opened:
            await require_schema(opened)
            while True:  # many short transactions: the scheduler must not wait for all of it
                async with opened.transaction() as connection:
                    some = await _purge_some(connection, Ledger(settings.listing), mistake)
                rows += some
                if dry_run or len(some) < _AT_ONCE:
                    break
        _tell_purge(rows, mistake, as_json=as_json)
        return 0

    end(work())


async def _purge_some(
    connection: Connection, ledger: Ledger, mistake: _Mistake
) -> list[dict[str, Any]]:
    most = 1 << 31 if mistake.dry_run else _AT_ONCE
    rows = []
    for one in await listings.decided_since(connection, mistake.since, mistake.form, most):
        row: dict[str, Any] = {
            "address": str(one.address),
            "port": one.port,
            "was": one.state.value,
            "trial": one.trial,
        }
        if not mistake.dry_run:
            await ledger.take_off(connection, one, Event.PURGED, mistake.why, actor())
            row |= await _test_anew(connection, one, mistake.why)
        rows.append(row)
    return rows


async def _test_anew(connection: Connection, one: Standing, why: str) -> dict[str, Any]:
    request = jobs.Request(
        str(one.address),
        "operator",
        port=one.port,
        requester=actor(),
        note=f"purged: {why}"[:2000],
    )
    try:
        async with connection.transaction():  # a refusal must not spoil the outer one
            return {"job": await jobs.enqueue(connection, request)}
    except RefusedRequestError as error:
        return {"job": None, "not_tested": str(error)}


def _tell_purge(rows: list[dict[str, Any]], mistake: _Mistake, *, as_json: bool) -> None:
    if as_json:
        about = {"since": mistake.since, "form": mistake.form, "dry_run": mistake.dry_run}
        print(show.as_json({**about, "why": mistake.why, "purged": rows}))
        return
    for row in rows:
        what = (
            f"job {row['job']}" if row.get("job") else row.get("not_tested", "would be taken off")
        )
        print(f"{row['address']} port {row['port']}: {row['was']} by trial {row['trial']}; {what}")
    print(f"{len(rows)} listings {'would be ' if mistake.dry_run else ''}taken off")


def nominate(
    address: Annotated[
        str, typer.Argument(help="Whom; without it whoever sent it, by the Received lines.")
    ] = "",
    file: Annotated[Path | None, typer.Argument(help="The message; - is stdin.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="To be tested.")] = 25,
    tool: Annotated[str, typer.Option(help="Who or what sends it.")] = "relaytest nominate",
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put a sample of spam on file that came through a server, and ask for its test."""
    if file is None and not _is_address(address):
        address, file = "", Path(address or "-")
    parsed, file = address_of(address) if address else None, file or Path("-")
    if not 1 <= len(tool) <= 200:
        raise typer.BadParameter("--tool must have 1 to 200 characters")
    sample = _read(file)
    if fault := sample_fault(sample):
        raise typer.BadParameter(f"{file} is no mail message: {fault}")
    truncated = len(sample) > LARGEST
    submission = nominations.Submission(sample[:LARGEST], truncated, parsed, port, tool)

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "nominate") as connection:
            try:
                done = await nominating.nominate(connection, settings, submission, actor())
            except NoOriginError as error:
                raise RefusedRequestError(
                    f"{error}; name the address: relaytest nominate ADDRESS {file}"
                ) from None
        told = {"address": str(done.address), "nomination": done.number}
        told |= {"octets": len(submission.sample), "truncated": truncated}
        told |= {"listed": [move.port for move in done.moves], "job": done.job}
        cut = f" (the first {LARGEST} octets of it)" if truncated else ""
        print(json.dumps(told) if as_json else f"{done}{cut}")
        return 0

    end(work(load(config)))


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def _read(file: Path) -> bytes:
    """Read as much as tells whether there is more than is kept."""
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(LARGEST + 1)
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}") from None


def _print(rows: list[dict[str, Any]], line: str, *, as_json: bool) -> None:
    if as_json:
        print(show.as_json(rows))
        return
    for row in rows:
        print(line.format(**row))


def _future(text: str) -> datetime:
    now = utcnow()
    moment = parsed_as(lambda one: parse_moment(one, now, ago=False), text)
    if moment <= now:
        raise typer.BadParameter(f"--until {text} is past; it must lie in the future")
    return moment


def rotate_key(config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Sign the tokens of new trials with a new key; the old one is still taken for a while."""

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "key") as connection:
            number = await keys.rotate(connection)
        said = f"key {number} signs what begins in two minutes or later"
        print(json.dumps({"key": number}) if as_json else said)
        return 0

    end(work(load(config)))


def list_keys(config: ConfigFile = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Tell which keys there are; never the keys themselves."""

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "key") as connection:
            rows = await keys.listed(connection)
        if as_json:
            print(show.as_json(rows))
            return 0
        for row in rows:
            until = f", replaced {show.time(row['replaced_at'])}" if row["replaced_at"] else ""
            print(f"key {row['id']} of {show.time(row['created_at'])}{until}")
        return 0

    end(work(load(config)))
