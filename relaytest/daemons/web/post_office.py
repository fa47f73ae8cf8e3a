"""Who wants mail: subscribing to the outcome of a request, confirming it, and stopping all mail."""

import secrets
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse

from relaytest.core.config import Config
from relaytest.core.target import Address
from relaytest.daemons.web.render import Renderer
from relaytest.store import allowances, mail
from relaytest.store.database import Database

_A_DAY = timedelta(days=1)
_MOST_CODE = 64


class PostOffice:
    """The pages behind the links in our mail; looking at them changes nothing."""

    def __init__(self, config: Config, database: Database, renderer: Renderer) -> None:
        self._database = database
        self._page = renderer.page
        self.possible = config.mail.possible and bool(config.web.url)

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/mail/{code}", response_class=HTMLResponse)(self.ask)
        router.post("/mail/{code}", response_class=HTMLResponse)(self.answer)

    async def subscribe(self, job: int, mailbox: str, target: tuple[Address, int]) -> None:
        """Ask a mailbox whether it wants the outcome; of one mailbox once a day."""
        if not self.possible:
            return
        async with self._database.transaction() as connection:
            key = f"mail {mailbox.lower()}"[:200]
            if await allowances.use(connection, key, 1, _A_DAY) is None:
                await mail.subscribe(connection, job, mailbox, secrets.token_urlsafe(24), target)

    async def ask(self, code: str) -> HTMLResponse:
        """What the owner of a mailbox may wish."""
        async with self._database.transaction() as connection:
            found = await mail.mailbox_of(connection, code[:_MOST_CODE])
        if found is None:
            return self._page("message.html", 404, title="No such link", text="")
        return self._page("mail.html", mailbox=found[0], asked=found[1], code=code, done="")

    async def answer(
        self, code: str, wish: Annotated[Literal["confirm", "stop"], Form()]
    ) -> HTMLResponse:
        """Do it."""
        async with self._database.transaction() as connection:
            found = await mail.mailbox_of(connection, code[:_MOST_CODE])
            if found is None or (wish == "confirm" and not found[1]):
                return self._page("message.html", 404, title="No such link", text="")
            if wish == "confirm":
                await mail.confirm(connection, code)
            else:
                await mail.stop(connection, code)
        done = "The outcome will be sent." if wish == "confirm" else "No more mail will come."
        return self._page("mail.html", mailbox=found[0], asked=found[1], code=code, done=done)
