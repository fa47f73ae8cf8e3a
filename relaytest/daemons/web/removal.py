"""The removal form: whoever asks has a listed server tested again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.core.mailing import NotAMailboxError, parse_mailbox
from relaytest.core.target import Address, parse_address
from relaytest.daemons.web import puzzle
from relaytest.daemons.web.guard import Doorman, Limit, share_used
from relaytest.daemons.web.post_office import PostOffice
from relaytest.daemons.web.render import Renderer
from relaytest.store import jobs, pages, puzzles
from relaytest.store.database import Connection, Database

_NEAR = 0.5  # of a limit; beyond, there is a puzzle
_UNSOLVED = 4  # one of so many requests may then come without its solution

log = structlog.get_logger("web")

Show = Callable[[Address, str, int], Awaitable[HTMLResponse]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the form asks for.

    Attributes:
        mailbox: For the outcome, or "".
        solution: Of the puzzle, or "".
        later: Rather later than solve a puzzle.
    """

    address: Address
    port: int
    mailbox: str
    solution: str
    later: bool


class RemovalPages:
    """The form and what it does."""

    def __init__(
        self, config: Config, database: Database, renderer: Renderer, post: PostOffice, show: Show
    ) -> None:
        """Make the pages.

        Args:
            config: To go by.
            database: To use.
            renderer: Of templates.
            post: Takes mailboxes for the outcome.
            show: Shows an address, with a message and a status.
        """
        self._web = config.web
        self._database = database
        self._renderer = renderer
        self._post = post
        self._show = show
        self._doorman = Doorman(config)

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/removal", response_class=HTMLResponse)(self.form)
        router.post("/removal")(self.ask)

    async def form(self) -> HTMLResponse:
        """The form for whoever did not come by way of the address's page."""
        return self._renderer.page("removal.html", mail=self._post.possible)

    async def ask(
        self,
        request: Request,
        address: Annotated[str, Form(max_length=60)],
        port: Annotated[int, Form()] = 0,
        mailbox: Annotated[str, Form(max_length=254)] = "",
        solution: Annotated[str, Form(max_length=1500)] = "",
        way: Annotated[str, Form(max_length=10)] = "",
    ) -> Response:
        """Ask for the retest that takes a listed address off the list.

        Only what is listed is tested; for any other address no packet is sent.
        """
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._renderer.not_an_address(address)
        try:
            wanted_by = parse_mailbox(mailbox) if mailbox.strip() else ""
        except NotAMailboxError as error:
            return self._renderer.message(400, "Not a mailbox", str(error))
        async with self._database.transaction() as connection:
            ports = await pages.listed_ports(connection, parsed)
        port = port or next(iter(ports), 0)
        if port not in ports:
            return await self._show(parsed, "This address is not listed: nothing to do.", 409)
        wish = Wish(parsed, port, wanted_by, solution, way == "later")
        async with self._database.transaction() as connection:
            held, begin_at = await self._gate(connection, request, wish)
        return held or await self._enqueue(wish, begin_at)

    async def _gate(
        self, connection: Connection, request: Request, wish: Wish
    ) -> tuple[Response | None, datetime | None]:
        """Return what keeps a request out, or when its test may begin (None: at once)."""
        limits = self._limits(request, wish)
        begin_at = None
        if await self._is_busy(connection, limits, wish) and not await puzzle.is_solved(
            connection, wish.solution, wish.address
        ):
            if not wish.later:
                return await self._puzzle(connection, wish), None
            _, now = await puzzles.key_and_time(connection)
            begin_at = now + self._web.unsolved_delay
            most = max(1, self._web.requests // _UNSOLVED)
            limits.append(Limit("removal unsolved", most, "without computing"))
        often = await self._doorman.admit(connection, limits)
        return (self._renderer.too_often(often) if often else None), begin_at

    async def _is_busy(self, connection: Connection, limits: list[Limit], wish: Wish) -> bool:
        """Whether there is a puzzle: some limit is near, and none is reached already."""
        share = await share_used(connection, limits)
        share_of_mail = await share_used(connection, self._post.limits(wish.mailbox))
        return share < 1 and (share > _NEAR or share_of_mail > _NEAR)

    def _limits(self, request: Request, wish: Wish) -> list[Limit]:
        most = self._web.target_requests
        of_target = Limit(f"removal of {wish.address}", most, "for this server")
        return [*self._doorman.limits(request, "removal"), of_target]

    async def _puzzle(self, connection: Connection, wish: Wish) -> Response:
        return self._renderer.page(
            "puzzle.html",
            wish=wish,
            challenge=await puzzle.challenge(connection, wish.address),
            most=puzzle.GUESSES[1],
            delay=self._web.unsolved_delay,
        )

    async def _enqueue(self, wish: Wish, begin_at: datetime | None) -> Response:
        wanted = jobs.Request(
            str(wish.address),
            "removal-request",
            port=wish.port,
            requester="removal form",
            run_at=begin_at,
        )
        try:
            async with self._database.transaction() as connection:
                job = await jobs.enqueue(connection, wanted)
        except RefusedRequestError as error:
            return self._renderer.message(409, "Not possible", f"{error}. {error.hint}")
        assert job is not None  # an address has one, only a name has not
        if wish.mailbox:
            await self._post.subscribe(job, wish.mailbox, (wish.address, wish.port))
        log.info("removal requested", address=str(wish.address), port=wish.port, job=job)
        return RedirectResponse(f"/request/{job}", 303)
