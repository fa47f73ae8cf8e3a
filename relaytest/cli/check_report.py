"""How a check looks: while it runs, at its end, and as JSON.

What servers say reaches the terminal only as `visible` text, never as markup.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from relaytest.core import checkup
from relaytest.core.checkup import FormResult
from relaytest.core.config import Config
from relaytest.core.evidence import Receipt, Standing
from relaytest.core.probe import Envelope
from relaytest.core.token import Mailbox
from relaytest.core.transcript import visible
from relaytest.core.verdict import Finding, Reason, Verdict
from relaytest.core.visit import SessionRecord
from relaytest.daemons.check import Case, Check
from relaytest.net.dns import MailHost

_STYLE = {Finding.OPEN: "bold red", Finding.CLOSED: "bold green", Finding.UNKNOWN: "bold yellow"}
_TITLE = {Finding.OPEN: "OPEN RELAY", Finding.CLOSED: "closed", Finding.UNKNOWN: "unknown"}
_STANDING = {
    Standing.RELAYED.value: "relayed",
    Standing.BOUNCED.value: "accepted, then bounced",
    Standing.WAITING.value: "accepted, and nothing came back",
    "accepted": "accepted; no message was sent",
    Standing.DEFERRED.value: "refused for now",
    Standing.UNANSWERED.value: "without an answer",
    Standing.REFUSED_SOFTLY.value: "refused with a temporary code",
    Standing.REFUSED.value: "refused",
}
_NAMED = 4  # forms, before "and n more"


def line(console: Console, text: str | Text) -> None:
    """Print one line: wrapped on a terminal, whole elsewhere."""
    text = text if isinstance(text, Text) else Text(text)
    console.print(text, soft_wrap=not console.is_terminal)


def routes(subject: str, hosts: Sequence[MailHost]) -> list[str]:
    """Return a line for each host that takes mail for a name."""
    lines = []
    for host in hosts:
        name = visible(host.name.encode("utf-8", "replace"))
        there = ", ".join(map(str, host.addresses or ())) or "has no address"
        how = "" if host.preference is None else f"mail goes to {name} (MX {host.preference}): "
        lines.append(f"{subject}: {how}{there}")
    return lines


def sink_line(check: Check, config: Config) -> str:
    """Say whether the sink works, once that is known."""
    if not check.messages:
        return "No sink: recipients are asked about, and no message is sent."
    place = f"Sink for {config.sink.domains[0]} at {', '.join(config.sink.listen)}"
    if check.proven is None:
        return f"{place}: sending it a message of our own"
    return f"{place}: {_safe(check.trouble) or 'works, our own message came'}"


def table(check: Check, config: Config) -> Group:
    """Return the live table, with a line about the sink."""
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("target", "sessions", "answered", "accepted", "came back", ""):
        number = column in {"sessions", "answered", "accepted", "came back"}
        shown.add_column(column, justify="right" if number else "left", no_wrap=column != "target")
    for case in check.cases:
        shown.add_row(
            Text(_name(case)),
            str(len(case.records)),
            f"{case.answered()}/{len(case.forms)}" if case.visits else "",
            str(case.accepted()),
            str(case.returned()) if check.messages else "-",
            _stage(case),
        )
    return Group(shown, Text(sink_line(check, config), "dim"))


def steps(check: Check, config: Config, told: dict[int, str], console: Console) -> None:
    """Print a line for each case that has come a step further since `told`."""
    if 0 not in told and (check.proven is not None or not check.messages):
        told[0] = sink_line(check, config)
        line(console, told[0])
    for case in check.cases:
        stage = _stage(case).plain
        if stage and told.get(case.target.trial) != stage:
            told[case.target.trial] = stage
            counts = f"{case.answered()} forms answered, {case.accepted()} accepted"
            line(console, f"{_name(case)}: {stage}{f'; {counts}' if case.probed_at else ''}")


def _stage(case: Case) -> Text:
    if case.verdict is not None:
        finding = case.verdict.finding
        return Text(_TITLE[finding], _STYLE[finding])
    if case.again_at is not None:
        return Text(f"asking again at {case.again_at:%H:%M:%S} UTC")
    if case.asking:
        return Text("asking again" if len(case.visits) > 1 else "asking")
    return Text("waiting for mail" if case.probed_at else "")


def _name(case: Case) -> str:
    host = f" ({case.host})" if case.host else ""
    return f"{case.target.address} port {case.target.port}{host}"


def print_case(console: Console, check: Check, case: Case) -> None:
    """Print the verdict on one target, what it rests on, and what to do."""
    verdict = case.verdict
    if verdict is None:
        return
    console.line()
    title = Text.assemble(
        (_name(case), "bold"),
        ": ",
        (_TITLE[verdict.finding], _STYLE[verdict.finding]),
        f", confidence {verdict.confidence}",
    )
    line(console, title)
    results = check.results(case)
    for label, lines in (
        ("Why", [_safe(verdict.explanation)]),
        ("Proof", _proof(case, results)),
        ("Forms", _by_standing(results)),
        ("Sink", _sink(check, verdict)),
        ("Next", [checkup.advice(verdict, messages=check.messages)]),
    ):
        _section(console, label, lines)


def _sink(check: Check, verdict: Verdict) -> list[str]:
    """Say that the sink may not work, unless the verdict stands without it."""
    if not check.trouble or verdict.reason in {Reason.RELAYED, Reason.REFUSED}:
        return []
    return [_safe(f"not known to work: {check.trouble.rstrip('.')}.")]


def _section(console: Console, label: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    if not console.is_terminal:
        for text, name in itertools.zip_longest(lines, [f"{label}:"], fillvalue=""):
            line(console, f"  {name:7}{text}")
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=6, style="dim")
    grid.add_column(overflow="fold")
    for text, name in itertools.zip_longest(lines, [label], fillvalue=""):
        grid.add_row(name, Text(text))
    console.print(Padding(grid, (0, 0, 0, 2)))


def _proof(case: Case, results: Iterable[FormResult]) -> list[str]:
    """Return the plainest form that came back: the envelope, as it went out and as it came in."""
    relayed = {one.form: one for one in case.receipts if one.mailbox is Mailbox.FORWARD}
    for result in results:
        receipt = relayed.get(result.form.number)
        if receipt and result.standing == Standing.RELAYED.value and result.envelope:
            same = receipt.forward_path == result.envelope.forward_path
            became = "" if same else f" as RCPT TO:{visible(receipt.forward_path)}"
            return [
                f"form {result.form.id}: {result.form.catches}",
                *_commands(result.envelope),
                *([f"it answered {checkup.shown(result.reply)}"] if result.reply else []),
                f"and {receipt.peer} brought the message to our sink{became}, at "
                f"{receipt.received_at:%H:%M:%S} UTC",
            ]
    return []


def _commands(envelope: Envelope) -> tuple[str, str]:
    return (
        f"MAIL FROM:{visible(envelope.reverse_path)}",
        f"RCPT TO:{visible(envelope.forward_path)}",
    )


def _by_standing(results: Sequence[FormResult]) -> list[str]:
    """Return a line for each thing that became of forms; none if the target never spoke."""
    lines: list[str] = []
    if not any(one.reply for one in results):
        return lines
    for standing, words in _STANDING.items():
        those = [one for one in results if one.standing == standing]
        if not those:
            continue
        ids = ", ".join(one.form.id for one in those[:_NAMED])
        more = f" and {len(those) - _NAMED} more" if len(those) > _NAMED else ""
        which = f": {ids}{more}" if len(those) < len(results) else ""
        said = next((one.reply for one in those if one.reply), None)
        lines.append(f"{len(those)} {words}{which}{f' - {checkup.shown(said)}' if said else ''}")
    return lines


def _safe(text: str) -> str:
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def print_transcripts(console: Console, case: Case) -> None:
    """Print every session, octet for octet as far as it is printable."""
    for number, record in enumerate(case.records, start=1):
        console.line()
        source = f" from {record.source}" if record.source else ""
        line(
            console,
            f"{_name(case)}, session {number} ({record.purpose.value}{source}): "
            f"{record.ended}, {record.seconds:.2f} s",
        )
        for text in record.transcript.as_text().splitlines():
            line(console, text)


def as_json(
    check: Check, subject: str, notes: Sequence[str], config: Config, *, interrupted: bool
) -> str:
    """Return the one document of a check."""
    sink = {
        "domain": config.sink.domains[0],
        "listen": config.sink.listen,
        "proven": not check.trouble,
        "trouble": _safe(check.trouble),
    }
    verdicts = [case.verdict for case in check.cases if case.verdict]
    document = {
        "target": subject,
        "verdict": checkup.worst(verdicts).value,
        "interrupted": interrupted,
        "messages_sent": check.messages,
        "sink": sink if check.messages else None,
        "notes": list(notes),
        "targets": [_case(check, case, case.verdict) for case in check.cases if case.verdict],
    }
    return json.dumps(document, indent=2)


def _case(check: Check, case: Case, verdict: Verdict) -> dict[str, Any]:
    results = check.results(case)
    ids = {one.form.number: one.form.id for one in results}
    return {
        "address": str(case.target.address),
        "port": case.target.port,
        "host": case.host or None,
        "verdict": verdict.finding.value,
        "reason": verdict.reason.value,
        "confidence": verdict.confidence,
        "explanation": _safe(verdict.explanation),
        "condition": verdict.condition,
        "exit_address": str(verdict.exit_address) if verdict.exit_address else None,
        "advice": checkup.advice(verdict, messages=check.messages),
        "forms": [_form(one) for one in results],
        "sessions": [_session(record) for record in case.records],
        "receipts": [_receipt(one, ids) for one in case.receipts],
    }


def _form(result: FormResult) -> dict[str, Any]:
    envelope = result.envelope
    return {
        "id": result.form.id,
        "mail_from": visible(envelope.reverse_path) if envelope else None,
        "rcpt_to": visible(envelope.forward_path) if envelope else None,
        "standing": result.standing,
        "reply": checkup.shown(result.reply) if result.reply else None,
    }


def _session(record: SessionRecord) -> dict[str, Any]:
    return {
        "purpose": record.purpose.value,
        "started_at": record.started_at.isoformat(),
        "source": str(record.source) if record.source else None,
        "ended": record.ended,
        "detail": _safe(record.broken.text) if record.broken else "",
        "seconds": round(record.seconds, 3),
        "transcript": record.transcript.as_text().splitlines(),
    }


def _receipt(receipt: Receipt, ids: dict[int, str]) -> dict[str, Any]:
    return {
        "form": ids.get(receipt.form),
        "mailbox": receipt.mailbox.name.lower(),
        "peer": str(receipt.peer),
        "mail_from": visible(receipt.reverse_path),
        "rcpt_to": visible(receipt.forward_path),
        "received_at": receipt.received_at.isoformat(),
    }
