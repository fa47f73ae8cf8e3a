"""How far a request is: a page, and the same as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse

from relaytest.core.errors import DatabaseAwayError
from relaytest.daemons.web.render import Renderer
from relaytest.store.database import Database
from relaytest.store.progress import Progress, progress_of

_LOOK = 1.0  # seconds between two looks for one viewer
_LONGEST = 600.0  # seconds of one stream; the browser then opens another
_MOST_STREAMS = 200
_MOST_ID = 1 << 40


class ProgressPages:
    """The pages of requests."""

    def __init__(self, database: Database, renderer: Renderer) -> None:
        self._database = database
        self._renderer = renderer
        self._streams = 0

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/request/{job}", response_class=HTMLResponse)(self.page)
        router.get("/request/{job}/events")(self.events)

    async def page(self, job: int) -> HTMLResponse:
        """The page, which goes on by itself with a script and without one."""
        progress = await self._progress(job)
        if progress is None:
            return self._renderer.message(404, "No such request")
        return self._renderer.page("request.html", progress=progress)

    async def events(self, job: int) -> Response:
        """The part that changes, each time it has changed; then "end"."""
        if await self._progress(job) is None:
            return PlainTextResponse("No such request.\n", 404)
        if self._streams >= _MOST_STREAMS:
            return PlainTextResponse("Too many look on; load the page anew.\n", 503)
        return StreamingResponse(self._stream(job), media_type="text/event-stream")

    async def _stream(self, job: int) -> AsyncIterator[str]:
        self._streams += 1
        loop = asyncio.get_running_loop()
        end, last = loop.time() + _LONGEST, ""
        try:
            while loop.time() < end:
                text, over = await self._part(job)
                if text and text != last:
                    yield _event("progress", text)
                    last = text
                if over:
                    yield _event("end", "")
                    return
                await asyncio.sleep(_LOOK)
                yield ": still here\n\n"  # shows whether anybody still listens
        finally:
            self._streams -= 1

    async def _part(self, job: int) -> tuple[str, bool]:
        """Return the part that changes, "" if it cannot be told now; and whether it is the last."""
        try:
            progress = await self._progress(job)
        except DatabaseAwayError:
            return "", False
        if progress is None:
            return "", True
        text = self._renderer.text("progress.html", progress=progress)
        return text, progress.stage == "done"

    async def _progress(self, job: int) -> Progress | None:
        if not 0 < job < _MOST_ID:
            return None
        async with self._database.transaction() as connection:
            return await progress_of(connection, job)


def _event(name: str, text: str) -> str:
    data = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{data}\n"
