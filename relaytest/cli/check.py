"""`relaytest check`: one server, one question, an answer within a minute; no database needed."""

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from relaytest.cli import check_report as report
from relaytest.cli.running import check_places, run_until_done, stopping_on_signals
from relaytest.cli.settings import load
from relaytest.core import checkup
from relaytest.core.config import Config, parse_config
from relaytest.core.errors import ConfigError, RelaytestError
from relaytest.core.target import NEVER, Address, Scope, embedded_ipv4, refusal
from relaytest.core.transcript import visible
from relaytest.core.values import format_value, parse_duration
from relaytest.core.verdict import Finding, Reason
from relaytest.daemons.check import Case, Check, cases_of
from relaytest.daemons.loop import Stop, wait_or_stop
from relaytest.net.dns import MailHost, NullMxError, Resolver

EX_USAGE, EX_NOHOST, EX_TEMPFAIL, EX_CONFIG, INTERRUPTED = 64, 68, 75, 78, 130
_STATUS = {Finding.CLOSED: 0, Finding.OPEN: 1, Finding.UNKNOWN: 2}
_MOST = 8  # addresses of one name
_LOOK = 0.1  # seconds between two looks at how far it has come
Places = tuple[list[tuple[str, Address]], list[str]]  # each with its host; and what to tell
_EVERYWHERE = "0.0.0.0:25"  # where mail for a domain comes, if nothing else was said


class Ended(SystemExit):
    """A check's own exit status; the 2 of a SystemExit by Typer would be a usage error."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _RefusedError(RelaytestError):
    """There is nothing that could be checked; the text says what would be right."""

    def __init__(self, status: int, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.status = status


@dataclass(slots=True)
class _Wish:
    """What the command line asks for, beyond the configuration."""

    target: str
    ports: list[int]
    full: bool = False
    as_json: bool = False
    transcript: bool = False
    wait: timedelta = timedelta(seconds=60)
    allow: list[str] = field(default_factory=list)
    sink_domain: str = ""
    sink_listen: str = ""
    version: int | None = None


def command(
    target: Annotated[str, typer.Argument(help="An address, a host name, or a mail domain.")],
    port: Annotated[
        list[int] | None,
        typer.Option("--port", min=1, max=65535, help="May be repeated; 25 if none is given."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Ask in all forms, not only 20.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    wait: Annotated[
        str, typer.Option("--wait", help="For mail to come back, and for who refuses at first.")
    ] = "60s",
    sink_domain: Annotated[
        str, typer.Option("--sink-domain", help="A domain whose mail comes to this machine.")
    ] = "",
    sink_listen: Annotated[
        str, typer.Option("--sink-listen", help="address:port at which it comes.")
    ] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Network of one's own to test, such as 192.168.0.0/16."),
    ] = None,
    only_ipv4: Annotated[bool, typer.Option("-4", help="Only IPv4 addresses.")] = False,
    only_ipv6: Annotated[bool, typer.Option("-6", help="Only IPv6 addresses.")] = False,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Print the sessions as well.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; else $RELAYTEST_CONFIG, else /etc.")
    ] = None,
) -> None:
    """Check one mail server now: is it an open relay? Exit 0: closed, 1: open, 2: unknown.

    With --sink-domain it sends messages and sees which come back: the only proof there is.

    Without, it only asks about recipients, and says so.
    """
    if only_ipv4 and only_ipv6:
        raise typer.BadParameter("-4 and -6 leave nothing")
    version = 4 if only_ipv4 else 6 if only_ipv6 else None
    wish = _Wish(
        target,
        list(dict.fromkeys(port or [25])),
        full,
        as_json,
        transcript,
        _duration(wait),
        allow or [],
        sink_domain,
        sink_listen,
        version,
    )
    try:
        raise Ended(run_until_done(_check(wish, load(config))))
    except _RefusedError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"relaytest: {line}\n")
        raise Ended(error.status) from None


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(float(text) if text.isdecimal() else text)
    except ValueError as error:
        raise typer.BadParameter(f"--wait {text}: {error}") from None


async def _check(wish: _Wish, settings: Config) -> int:
    messages = bool(wish.sink_domain or settings.sink.domains)
    config = _configured(wish, settings)
    async with (
        stopping_on_signals() as stop,
        Resolver(config.dns.nameservers, config.dns.timeout) as resolver,
    ):
        found = await _places_until(stop, wish, resolver)
        if found is None:
            return INTERRUPTED
        places, notes = found
        cases = cases_of(places, wish.ports, config)
        if all(case.verdict for case in cases):
            raise _out_of_scope(cases, config.scope.rules())
        if messages:
            _check_sink(config)
        console = Console(stderr=True, highlight=False)
        check = Check(config, cases, resolver, messages=messages)
        if not wish.as_json:
            for note in notes:
                report.line(console, note)
        await _watch(check, config, stop, console, quiet=wish.as_json)
        _print(check, wish, notes, config, interrupted=stop.wished)
        return INTERRUPTED if stop.wished else _status(check)


def _configured(wish: _Wish, settings: Config) -> Config:
    """Put the command line over the configuration.

    Raises:
        typer.BadParameter: An option has a bad value.
    """
    values: dict[str, Any] = settings.model_dump(mode="python", exclude_unset=True)
    sink, timing = values.setdefault("sink", {}), values.setdefault("timing", {})
    if wish.sink_domain:
        sink["domains"] = [wish.sink_domain]
        sink.setdefault("listen", [_EVERYWHERE])
    sink.setdefault("domains", [])
    sink["domains"] = sink["domains"] or [checkup.NOBODYS_DOMAIN]
    if wish.sink_listen:
        sink["listen"] = [wish.sink_listen]
    timing["patience"], timing["grace"] = wish.wait, min(wish.wait, settings.timing.grace)
    scope = values.setdefault("scope", {})
    scope["allow"] = [*scope.get("allow", []), *wish.allow]
    if wish.full:
        values.setdefault("battery", {})["depth"] = "full"
    try:
        return parse_config(values)
    except ConfigError as error:
        raise typer.BadParameter(_as_option(str(error))) from None


def _as_option(complaint: str) -> str:
    """Name the option where the configuration names its key; the rest was right before."""
    for key, option in (
        ("scope.allow", "--allow"),
        ("sink.domains", "--sink-domain"),
        ("sink.listen", "--sink-listen"),
    ):
        if complaint.startswith(key):
            return option + complaint.removeprefix(key).lstrip(".0123456789")
    return complaint


async def _places_until(stop: Stop, wish: _Wish, resolver: Resolver) -> Places | None:
    """Find the addresses, unless the stop is wished first: the DNS may be slow."""
    found: Places | None = None

    async def find() -> None:
        nonlocal found
        found = await _places(wish, resolver)

    await wait_or_stop(find(), stop)
    return found


async def _places(wish: _Wish, resolver: Resolver) -> Places:
    """Find the addresses behind what was typed, each with its host; and what to tell of it."""
    try:
        subject = checkup.parse_subject(wish.target)
    except ValueError as error:
        raise _RefusedError(EX_USAGE, str(error)) from None
    if not isinstance(subject, str):
        return [("", subject)], []
    try:
        hosts = await resolver.mail_hosts(subject)
    except NullMxError:
        raise _RefusedError(
            EX_NOHOST,
            f"{subject} takes no mail at all: it has a null MX (RFC 7505)",
            "to test a machine of that name all the same, give its address",
        ) from None
    if hosts is None:
        raise _RefusedError(
            EX_TEMPFAIL,
            f"the DNS gives no answer about {subject}",
            "try again, name other servers in dns.nameservers, or give the server's address",
        )
    found = {
        address: _plain(host.name)
        for host in hosts
        for address in host.addresses or ()
        if wish.version in {None, address.version}
    }
    if not found:
        raise _nowhere(subject, hosts, wish.version)
    notes = report.routes(subject, hosts)
    if len(found) > _MOST:
        notes.append(f"Only the first {_MOST} of {len(found)} addresses are checked.")
    return [(host, address) for address, host in found.items()][:_MOST], notes


def _nowhere(subject: str, hosts: list[MailHost], version: int | None) -> _RefusedError:
    """Say why a name leads to no address."""
    which = f"IPv{version} address" if version else "address"
    if any(host.addresses for host in hosts):
        return _RefusedError(EX_NOHOST, f"{subject} has no {which}; leave out -{version}")
    if any(host.addresses is None for host in hosts):
        return _RefusedError(EX_TEMPFAIL, f"the DNS gives no address for {subject}; try again")
    if hosts[0].preference is None:
        return _RefusedError(
            EX_NOHOST,
            f"{subject} does not resolve: it has neither MX nor address",
            "give the full name of a mail server or of a mail domain, or an address",
        )
    names = ", ".join(_plain(host.name) for host in hosts)
    return _RefusedError(
        EX_NOHOST,
        f"mail for {subject} goes to {names}, which has no address",
        "so no mail reaches the domain: its MX records are wrong; or give the server's address",
    )


def _plain(name: str) -> str:
    return visible(name.encode("utf-8", "replace"))


def _out_of_scope(cases: list[Case], scope: Scope) -> _RefusedError:
    """Say why nothing may be tested, and what to add if it is one's own."""
    addresses = dict.fromkeys(case.target.address for case in cases)
    lines = [f"{one} may not be tested: {refusal(one, scope)}" for one in addresses]
    address = embedded_ipv4(cases[0].target.address) or cases[0].target.address
    if any(address in never for never in NEVER):
        lines.append("no mail server can be there")
    elif "scope.deny" not in lines[0]:
        lines.append(f"if the server is yours, add: --allow {address}   (or its network)")
    return _RefusedError(EX_USAGE, *lines)


def _check_sink(config: Config) -> None:
    try:
        check_places(config, ["sink.listen"])
    except ConfigError as error:
        raise _RefusedError(
            EX_CONFIG,
            str(error),
            "choose another address with --sink-listen; ports below 1024 are for root",
            "where relaytest runs already, ask it: relaytest enqueue ADDRESS",
        ) from None


def _status(check: Check) -> int:
    if all(case.fault for case in check.cases):
        return EX_TEMPFAIL
    return _STATUS[checkup.worst(case.verdict for case in check.cases if case.verdict)]


async def _watch(
    check: Check, config: Config, stop: Stop, console: Console, *, quiet: bool
) -> None:
    """Run it, and show how far it has come: a live table, or a line for each step."""
    told: dict[int, str] = {}
    live = Live(console=console, auto_refresh=False)

    def show() -> None:
        if console.is_terminal:
            live.update(report.table(check, config), refresh=True)
        elif not quiet:
            report.steps(check, config, told, console)

    with live if console.is_terminal else contextlib.nullcontext():
        async with asyncio.TaskGroup() as group:
            work = group.create_task(check.run(stop))
            while not work.done():
                show()
                await asyncio.wait([work], timeout=_LOOK)
        show()


def _print(
    check: Check, wish: _Wish, notes: list[str], config: Config, *, interrupted: bool
) -> None:
    if wish.as_json:
        print(report.as_json(check, wish.target, notes, config, interrupted=interrupted))
        return
    console = Console(highlight=False)
    for case in check.cases:
        report.print_case(console, check, case)
        if wish.transcript:
            report.print_transcripts(console, case)
    undecided = any(
        case.verdict and case.verdict.reason is Reason.NOT_RETURNED for case in check.cases
    )
    if undecided:
        report.line(console, f"We waited {format_value(wish.wait)} for mail to come back.")
