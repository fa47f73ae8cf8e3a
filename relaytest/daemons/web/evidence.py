"""The evidence of a trial: first what decides, then each message and session, and all as a file.

Every byte of it is hostile. It is shown as escaped text, a bounded part on each page.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from relaytest.core.config import Config
from relaytest.core.exhibit import deciding, within
from relaytest.core.received import way_back
from relaytest.core.redaction import public_view
from relaytest.core.transcript import Line, visible
from relaytest.daemons import dossier, shipped
from relaytest.daemons.web.render import Renderer
from relaytest.store import nominations, pages
from relaytest.store.database import Database
from relaytest.store.pages import Row, TrialEvidence

_MOST_ID = 1 << 40
_TOKEN = re.compile(rb"[a-z2-7]{26}")
_WHOLE = 24_000  # characters of what a page is about
_PART = 4_000  # of one part of several
_STEPS = 3_000  # of the way of a message
_MOST_SESSIONS = 60  # that are named


@dataclass(frozen=True, slots=True)
class Text:
    """Lines that are shown.

    Attributes:
        marked: Places of those that decide.
        whole: These are all.
    """

    lines: list[str]
    whole: bool
    marked: set[int]


class EvidencePages:
    """The pages, and the archive."""

    def __init__(self, config: Config, database: Database, renderer: Renderer) -> None:
        self._database = database
        self._renderer = renderer
        self._forms = shipped.battery_of(config).by_number()

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/evidence/{trial}.zip")(self.archive)
        for path, handler in (
            ("/evidence/{trial}", self.page),
            ("/evidence/{trial}/message/{number}", self.message),
            ("/evidence/{trial}/session/{number}", self.session),
            ("/sample/{number}", self.sample),
        ):
            router.get(path, response_class=HTMLResponse)(handler)

    async def page(self, trial: int) -> HTMLResponse:
        """What decides: a message that came back, its way, and how it was handed over."""
        found = await self._evidence(trial)
        if found is None:
            return self._renderer.message(404, "No such evidence")
        address = found.trial["address"]
        async with self._database.transaction() as connection:
            samples = await nominations.of_address(connection, address)
            newest = await nominations.sample(connection, samples[0]["id"]) if samples else None
        first = next((row for row in found.receipts if row["mailbox"] == "forward"), None)
        return self._renderer.exhibit(
            "evidence.html",
            evidence=found,
            forms=self._forms,
            first=first,
            number=found.receipts.index(first) + 1 if first else 0,
            steps=_way(found, first) if first else [],
            text=_message(first, _PART) if first else None,
            handed=_handed(found, first) if first else None,
            sample=_sample(newest, _PART) if newest and newest["public"] else None,
            samples=samples,
            most_sessions=_MOST_SESSIONS,
        )

    async def message(self, trial: int, number: int) -> HTMLResponse:
        """One message that came back."""
        found = await self._evidence(trial)
        if found is None or not 0 < number <= len(found.receipts):
            return self._renderer.message(404, "No such evidence")
        row = found.receipts[number - 1]
        return self._renderer.exhibit(
            "returned.html",
            evidence=found,
            forms=self._forms,
            number=number,
            row=row,
            steps=_way(found, row),
            text=_message(row, _WHOLE - _STEPS),
        )

    async def session(self, trial: int, number: int) -> HTMLResponse:
        """One connection, with the lines marked that decide."""
        found = await self._evidence(trial)
        if found is None or not 0 < number <= len(found.sessions):
            return self._renderer.message(404, "No such evidence")
        row, transcript = found.sessions[number - 1]
        lines = list(transcript.lines())
        text = _text(lines, deciding(lines, _tokens(found.receipts)), _WHOLE)
        return self._renderer.exhibit(
            "session.html", evidence=found, number=number, row=row, text=text
        )

    async def archive(self, trial: int) -> Response:
        """All of it as one file."""
        found = await self._evidence(trial)
        if found is None:
            return self._renderer.message(404, "No such evidence")
        files = dossier.files_of(found, self._forms)
        name = f"evidence-{trial}"
        packed = await asyncio.to_thread(dossier.archive, files, name)
        response = Response(packed, media_type="application/zip")
        response.headers["Content-Disposition"] = f'attachment; filename="{name}.zip"'
        response.headers["X-Robots-Tag"] = "noindex"
        return response

    async def sample(self, number: int) -> HTMLResponse:
        """A sample of spam without its recipients, while its sender is listed."""
        async with self._database.transaction() as connection:
            row = None
            if 0 < number < _MOST_ID:
                row = await nominations.sample(connection, number)
        if row is None or not row["public"]:
            return self._renderer.message(404, "No such sample")
        return self._renderer.exhibit("sample.html", row=row, text=_sample(row, _WHOLE))

    async def _evidence(self, trial: int) -> TrialEvidence | None:
        if not 0 < trial < _MOST_ID:
            return None
        async with self._database.transaction() as connection:
            return await pages.trial_evidence(connection, trial)


def _tokens(receipts: Iterable[Row]) -> set[bytes]:
    """Return the mailboxes to which messages came back."""
    return {
        token
        for row in receipts
        if row["mailbox"] == "forward"
        for token in _TOKEN.findall(row["forward_path"].lower())
    }


def _handed(found: TrialEvidence, row: Row) -> Text | None:
    """Return how a message was handed over, from its sender to the server's last word."""
    for _, transcript in found.sessions:
        lines = list(transcript.lines())
        if marked := deciding(lines, _tokens([row])):
            first, last = min(marked), max(marked)
            part = lines[first : last + 1]
            return _text(part, {place - first for place in marked}, _PART)
    return None


def _text(lines: Iterable[Line], marked: set[int], most: int) -> Text:
    shown, whole = within((line.text for line in lines), most)
    return Text(shown, whole, marked)


def _message(row: Row, most: int) -> Text:
    shown, whole = within(_lines(row["message"]), most)
    return Text(shown, whole and row["size"] <= len(row["message"]), set())


def _sample(row: Row, most: int) -> Text:
    view = public_view(row["sample"], row["key"])
    return Text(*within(_lines(view), most), set())


def _lines(message: bytes) -> Iterator[str]:
    """Yield the lines of a message, printable; a tab, by which headers go on, is harmless."""
    for line in message.splitlines():
        yield visible(line.replace(b"\t", b"    "))


def _way(found: TrialEvidence, row: Row) -> list[tuple[str, str]]:
    """Return who is named in each Received line, in words, and the line."""
    ours = {ip_address(session["source"]) for session, _ in found.sessions if session["source"]}
    steps = way_back(row["message"], found.trial["address"], ours, row["peer"])
    lines, _ = within((visible(step.text.encode()) for step in steps), _STEPS)
    return [(step.what, line) for step, line in zip(steps, lines, strict=False)]
