"""Numbers and plots, gathered anew at most once in a while: they cost the database something."""

from dataclasses import fields
from datetime import timedelta

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from relaytest.core.plot import plot_of
from relaytest.daemons.web.kept import Kept
from relaytest.daemons.web.render import Renderer
from relaytest.store import days, jobs, pages
from relaytest.store.database import Database

_DAYS = 60
_FRESH = timedelta(minutes=1)


class StatusPage:
    """The page, kept for a while."""

    def __init__(self, database: Database, renderer: Renderer) -> None:
        self._database = database
        self._renderer = renderer
        self._kept = Kept(self._gather, _FRESH)

    def add_to(self, router: APIRouter) -> None:
        """Add the route."""
        router.get("/status", response_class=HTMLResponse)(self.page)

    async def page(self) -> HTMLResponse:
        """How much is listed, waits and was found, and how it went."""
        return HTMLResponse(await self._kept())

    async def _gather(self) -> str:
        async with self._database.transaction() as connection:
            counts = await pages.counts(connection)
            workers = await pages.workers(connection)
            queue = await jobs.queue_status(connection)
            last = await days.last_days(connection, _DAYS)
        lines = {one.name: plot_of(getattr(last, one.name)) for one in fields(last)[1:]}
        return self._renderer.text(
            "status.html", counts=counts, workers=workers, queue=queue, days=last, **lines
        )
