"""How rows and forms look on a terminal, and as JSON."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from relaytest.core.config import Config
from relaytest.core.config import options as all_options
from relaytest.core.names import Names
from relaytest.core.offers import Asker, ehlo_name
from relaytest.core.probe import Form, LeftOut
from relaytest.core.target import Address
from relaytest.core.values import format_value
from relaytest.core.verdict import ELSEWHERE
from relaytest.store.pages import Standing

Row = Any  # asyncpg.Record, which only store knows by name

_ROOM_FOR_TABLE = 140  # columns; with fewer the seven cells of a form become unreadable
_PATH_WIDTHS = (24, 38)  # columns for MAIL FROM and RCPT TO; few paths are longer
_CHANNEL = "any"  # every form goes over clear text, STARTTLS and implicit TLS alike
KEPT_OUT = {reason.value for reason in ELSEWHERE}
_TARGET = Names(
    "mx.shop.example",
    "shop.example",
    "[192.0.2.1]",
    host2="mx2.shop.example",
    domain2="mail.shop.example",
    ip="192.0.2.1",
    arpa="1.2.0.192.in-addr.arpa",
    ptr="relay.isp.example",
)
_ASKER = Asker(b"", "sink.example", "probe.example", "", other="sink.test")


def as_json(value: object, **more: object) -> str:
    """Return rows, and dataclasses of rows, as indented JSON; times as ISO 8601.

    Args:
        value: What to write.
        more: Further keys, if it is an object.
    """
    plain = _plain(value)
    return json.dumps({**plain, **_dict(more)} if isinstance(plain, dict) else plain, indent=2)


def _dict(values: Mapping[str, object]) -> dict[str, object]:
    return {key: _plain(one) for key, one in values.items()}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "items"):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    return str(value)


def standing(address: Address, found: Standing, dns: str = "") -> None:
    """Print what is known of an address, and what DNS says of it if that is known."""
    console = Console()
    if not found.listings:
        console.print(f"{address} is [green]not listed[/].")
    for row in found.listings:
        role = f"port {row['port']}" if row["port"] else "the exit of an open relay"
        console.print(
            f"{address} is [bold red]listed[/] (127.0.0.{row['code']}, {role}) since "
            f"{time(row['listed_at'])}. {_next_test(row['recheck_at'])}"
        )
    if dns:
        console.print(f"{dns}.", markup=False)
    _by_policy(found, console)
    for row in found.jobs:
        when = "runs now" if row["leased"] else f"waits, not before {time(row['run_at'])}"
        console.print(f"A test of port {row['port']} {when} ({row['reason']}).")
    for row in found.verdicts:
        console.print(
            f"\nLast test of port {row['port']}, {time(row['decided_at'])}: "
            f"[bold]{row['verdict']}[/] ({row['reason']}, confidence {row['confidence']})"
        )
        console.print(row["explanation"], markup=False)
    _from_each_place(found.vantages, console)
    if found.history:
        console.print(_history(found.history))


def _from_each_place(rows: Sequence[Row], console: Console) -> None:
    """Where several places tested, what each found; and whom to let in where one is kept out."""
    if len({row["vantage"] for row in rows}) > 1:
        table = table_of("port", "tested from", "verdict", "reason", "when")
        for row in rows:
            cells = (str(row["port"]), row["vantage"], row["verdict"], row["reason"])
            table.add_row(*map(Text, (*cells, time(row["decided_at"]))))
        console.print(table)
    for row in rows:
        if row["reason"] in KEPT_OUT and row["sources"]:
            console.print(
                f"To be tested from {row['vantage']}, let in {', '.join(row['sources'])} "
                f"on port {row['port']}."
            )


def _history(rows: Iterable[Row]) -> Table:
    table = table_of("when", "port", "change", "why")
    for row in rows:
        change = f"{row['old']} → {row['new']}"
        table.add_row(time(row["at"]), str(row["port"]), change, Text(_cause(row)))
    return table


def _by_policy(found: Standing, console: Console) -> None:
    """What is not on the list and yet matters for it."""
    for row in found.suspicions:
        console.print(
            f"It is [bold]suspected[/] (port {row['port']}): found open, but not yet listed. "
            f"{_next_test(row['recheck_at'])}Suspected until {time(row['expires_at'])}."
        )
    for row in found.exclusions:
        ends = f" until {time(row['until'])}" if row["until"] else ""
        console.print(
            f"{row['network']} is [bold]excluded from testing[/]{ends}: {escape(row['why'])} "
            f"({escape(row['actor'])}, {time(row['since'])})."
        )
    for row in found.nominations:
        console.print(
            f"{row['samples']} samples of spam on file, the last of {time(row['last_at'])}."
        )


def _cause(row: Row) -> str:
    """What happened, in whose hand, and why."""
    by = f" by {row['actor']}" if row["actor"] else ""
    return f"{row['event']}{by}: {row['why']}"


def _next_test(moment: datetime | None) -> str:
    return f"Next automatic test {time(moment)}. " if moment else ""


def exclusions(rows: Iterable[Row]) -> Table:
    """Return the table of excluded networks."""
    table = table_of("network", "since", "until", "by", "why")
    for row in rows:
        until = time(row["until"]) if row["until"] else ""
        cells = (str(row["network"]), time(row["since"]), until, row["actor"], row["why"])
        table.add_row(*map(Text, cells))
    return table


def battery(forms: Sequence[Form], console: Console) -> None:
    """Print forms, filled in for an example target: as a table if there is room for one."""
    if console.width >= _ROOM_FOR_TABLE:
        console.print(_forms_table(forms))
        return
    for form in forms:
        mail_from, rcpt_to, helo = _example(form)
        console.print(Text(f"{form.id}  (tier {form.tier})", "bold"))
        console.print(Text(f"    MAIL FROM:{mail_from}\n    RCPT TO:{rcpt_to}"))
        about = f"EHLO {helo}, over any channel. Catches {form.catches}."
        if form.needs:
            about += f" Only for servers that announce {' and '.join(sorted(form.needs))}."
        if form.sent_by:
            about += f" Sent by {', '.join(form.sent_by)}."
        console.print(Padding(Text(about), (0, 0, 0, 4)))


def _forms_table(forms: Iterable[Form]) -> Table:
    table = table_of("id", "tier", "MAIL FROM", "RCPT TO", "HELO", "catches", "sent by")
    table.columns[0].no_wrap = True
    table.columns[2].width, table.columns[3].width = _PATH_WIDTHS
    for form in forms:
        mail_from, rcpt_to, _ = _example(form)
        told = (form.id, str(form.tier), mail_from, rcpt_to, form.helo.value, form.catches)
        table.add_row(*map(Text, (*told, ", ".join(form.sent_by))))
    return table


def battery_json(forms: Iterable[Form]) -> str:
    """Return the forms as JSON."""
    return json.dumps([_form_json(form) for form in forms], indent=2)


def _form_json(form: Form) -> dict[str, object]:
    mail_from, rcpt_to, helo = _example(form)
    return {
        "id": form.id,
        "number": form.number,
        "tier": form.tier,
        "reverse_path": form.sender.template,
        "forward_path": form.recipient.template,
        "helo": form.helo.value,
        "channel": _CHANNEL,
        "needs": sorted(form.needs),
        "odd": form.odd,
        "catches": form.catches,
        "sent_by": form.sent_by,
        "example": {"mail_from": mail_from, "rcpt_to": rcpt_to, "helo": helo},
    }


def _example(form: Form) -> tuple[str, str, str]:
    """What goes over the wire to an example target: MAIL FROM, RCPT TO, EHLO."""
    values = {**_TARGET.texts, **_ASKER.texts, "user": "user", "sender": "sender"}
    envelope = form.envelope(values)
    return (
        envelope.reverse_path.decode(),
        envelope.forward_path.decode(),
        ehlo_name(form.helo, _TARGET, _ASKER),
    )


def left_out(ways: Iterable[LeftOut]) -> Table:
    """Return the table of what is known and not sent."""
    table = table_of("id", "why it is not sent")
    for way in ways:
        table.add_row(way.id, way.why)
    return table


def options(config: Config) -> Table:
    """Return the table of options."""
    table = table_of("option", "value", "meaning")
    for key, field in all_options():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        table.add_row(key, Text(format_value(value)), field.description or "")
    return table


def table_of(*columns: str) -> Table:
    """Return an empty table as all of ours look."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def time(moment: datetime) -> str:
    """Return a time as it is shown everywhere."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
