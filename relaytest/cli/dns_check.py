"""`relaytest dns-check`: does a list answer as RFC 5782 wants it?"""

import sys
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from relaytest.cli import show
from relaytest.cli.common import AsJson, ConfigFile, end
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.dns_check import Outcome, Result, Subject, further, questions
from relaytest.core.dns_rules import judge
from relaytest.core.target import Address, parse_address
from relaytest.core.transcript import visible
from relaytest.core.values import parse_endpoint, parse_host_name
from relaytest.net.dns_query import ask_all, system_server

_STYLE = {
    Outcome.PASSED: "green",
    Outcome.WARNED: "yellow",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "dim",
}


def command(
    zone: Annotated[str, typer.Argument(help="Name of the list; else publish.zone.")] = "",
    server: Annotated[
        str, typer.Option(help="address:port to ask; else publish.server, or the system's.")
    ] = "",
    listed: Annotated[
        list[str] | None, typer.Option(help="An address that should be on it; may be repeated.")
    ] = None,
    ipv4_only: Annotated[bool, typer.Option("--ipv4-only", help="It has no IPv6.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is a failure, too.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask a DNSBL, one's own or any other, for all that RFC 5782 wants of it.

    Exit status: 0 it is right, 1 it is not.
    """
    settings = load(config)
    subject = Subject(_zone(zone, settings), tuple(map(_address, listed or ())), ipv4_only)
    place = _place(server or _own_server(subject, settings))
    end(_check(subject, place, settings, strict=strict, as_json=as_json))


def _zone(zone: str, settings: Config) -> str:
    try:
        return parse_host_name(zone or settings.publish.zone)
    except ValueError as error:
        raise typer.BadParameter(f"{zone}: {error}") from None


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"--listed {error}") from None


def _own_server(subject: Subject, settings: Config) -> str:
    return settings.publish.server if subject.zone == settings.publish.zone else ""


def _place(server: str) -> str:
    if not server:
        return system_server()
    try:
        return parse_endpoint(server if server.rpartition(":")[2].isdigit() else f"{server}:53")
    except ValueError as error:
        raise typer.BadParameter(f"--server {server}: {error}") from None


async def _check(
    subject: Subject, server: str, settings: Config, *, strict: bool, as_json: bool
) -> int:
    asked = questions(subject)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"asking {server}", total=len(asked))

        def told() -> None:
            progress.advance(task)

        answers = await ask_all(server, asked, settings.dns.timeout, told)
        answers |= await ask_all(server, further(subject, answers), settings.dns.timeout)
    results = judge(subject, answers)
    bad = {Outcome.FAILED, Outcome.WARNED} if strict else {Outcome.FAILED}
    right = not any(result.outcome in bad for result in results)
    if as_json:
        rows = [_plain(result) for result in results]
        told_all = {"zone": subject.zone, "server": server, "right": right, "rules": rows}
        print(show.as_json(told_all))
    else:
        _print(subject, server, results)
    return 0 if right else 1


def _plain(result: Result) -> dict[str, object]:
    return {
        "id": result.rule.id,
        "source": result.rule.source,
        "level": result.rule.level,
        "rule": result.rule.text,
        "outcome": "skip" if result.outcome is Outcome.SKIPPED else result.outcome.value,
        "why": visible(result.why.encode()),
        "question": f"{result.question.name} {result.question.kind}" if result.question else None,
        "answer": visible(str(result.answer).encode()) if result.answer else None,
    }


def _print(subject: Subject, server: str, results: tuple[Result, ...]) -> None:
    console = Console()
    table = Table(title=f"{subject.zone}, asked at {server}", title_justify="left", box=None)
    for name in ("", "RFC", "level", "rule", "result", "shown by"):
        table.add_column(name, overflow="fold")
    for result in results:
        row = _plain(result)
        shown = f"{row['question']}: {row['answer'] or 'no answer'}" if row["question"] else ""
        why = Text(str(row["why"]), "yellow") if result.why else Text()
        table.add_row(
            result.rule.id,
            result.rule.source.removeprefix("RFC "),
            result.rule.level,
            Text(result.rule.text),
            Text(result.outcome.value, _STYLE[result.outcome]),
            Text(shown) + (Text("\n") if shown and result.why else Text()) + why,
        )
    console.print(table)
    counts = Counter(result.outcome for result in results)
    said = ", ".join(
        f"{counts[outcome]} {word}"
        for outcome, word in (
            (Outcome.PASSED, "passed"),
            (Outcome.WARNED, "warned of"),
            (Outcome.FAILED, "failed"),
            (Outcome.SKIPPED, "not for this list or not shown"),
        )
    )
    console.print(Text(said))
