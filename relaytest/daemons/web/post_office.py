"""Who wants mail: subscribing to the outcome of a request, confirming it, and stopping all mail."""

import re
import secrets
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse

from relaytest.core.config import Config
from relaytest.core.target import Address
from relaytest.daemons.web.guard import Limit
from relaytest.daemons.web.render import Renderer
from relaytest.store import allowances, mail
from relaytest.store.database import Database

_A_DAY = timedelta(days=1)
_CODE = re.compile(r"[A-Za-z0-9_-]{22,64}")


class PostOffice:
    """The pages behind the links in our mail; looking at them changes nothing."""

    def __init__(self, config: Config, database: Database, renderer: Renderer) -> None:
        self._database = database
        self._renderer = renderer
        self._page = renderer.page
        self._most = config.mail.outcomes_per_mailbox
        self.possible = config.mail.possible and bool(config.web.url)

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/mail/{code}", response_class=HTMLResponse)(self.ask)
        router.post("/mail/{code}", response_class=HTMLResponse)(self.answer)

    def limits(self, mailbox: str) -> list[Limit]:
        """Return what holds for the outcomes that go to a mailbox."""
        if not mailbox or not self.possible:
            return []
        key = f"outcomes {mailbox.lower()}"[:200]
        return [Limit(key, self._most, "for this mailbox")]

    async def subscribe(self, job: int, mailbox: str, target: tuple[Address, int]) -> None:
        """Send an outcome to a mailbox, once it has said that it wants those of today.

        It is asked once a day, for whoever gave it may be somebody else.
        """
        if not self.possible:
            return
        code = secrets.token_urlsafe(24)
        async with self._database.transaction() as connection:
            for limit in self.limits(mailbox):
                if await allowances.use(connection, limit.key, limit.most, _A_DAY):
                    return
            number = await mail.subscribe(connection, job, mailbox, code)
            key = f"mail {mailbox.lower()}"[:200]
            if number and await allowances.use(connection, key, 1, _A_DAY) is None:
                await mail.ask(connection, number, mailbox, target)

    def _no_such_link(self) -> HTMLResponse:
        text = "Links in our mail work for 30 days."
        return self._renderer.message(404, "No such link", text)

    async def ask(self, code: str) -> HTMLResponse:
        """What the owner of a mailbox may wish."""
        found = await self._mailbox_of(code)
        if found is None:
            return self._no_such_link()
        return self._page("mail.html", mailbox=found[0], asked=found[1], code=code, done="")

    async def _mailbox_of(self, code: str) -> tuple[str, bool] | None:
        if not _CODE.fullmatch(code):
            return None
        async with self._database.transaction() as connection:
            return await mail.mailbox_of(connection, code)

    async def answer(
        self, code: str, wish: Annotated[Literal["confirm", "stop"], Form()]
    ) -> HTMLResponse:
        """Do it."""
        found = await self._mailbox_of(code)
        if found is None or (wish == "confirm" and not found[1]):
            return self._no_such_link()
        async with self._database.transaction() as connection:
            if wish == "confirm":
                await mail.confirm(connection, code)
            else:
                await mail.stop(connection, code)
        done = (
            "The outcomes of today will be sent."
            if wish == "confirm"
            else "No more mail will come."
        )
        return self._page("mail.html", mailbox=found[0], asked=found[1], code=code, done=done)
