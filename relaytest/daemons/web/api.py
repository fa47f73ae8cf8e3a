"""The HTTP API, version 1: the same as the pages, for programs.

Errors are problem documents (RFC 9457). Look-ups have an ETag; asking again with If-None-Match
costs an answer without a body.
"""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.core.nomination import LARGEST, sample_fault
from relaytest.core.target import Address, parse_address
from relaytest.core.token import mask
from relaytest.daemons.web.guard import PREFIX, Doorman
from relaytest.store import api as store
from relaytest.store import jobs, nominations
from relaytest.store.database import Database
from relaytest.store.progress import progress_of

_MOST = 1000  # addresses in one question, rows in one answer
_MOST_ID = 1 << 62

_PROBLEM: dict[str, Any] = {
    "description": "Why not (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["status", "title", "detail"],
                "properties": {
                    "status": {"type": "integer"},
                    "title": {"type": "string"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}

Limit = Annotated[int, Query(ge=1, le=_MOST, description="Rows in the answer, at most.")]
Right = Literal["request", "nominate"]


class Addresses(BaseModel):
    """A bulk look-up."""

    model_config = ConfigDict(extra="forbid")
    addresses: list[Annotated[str, Field(max_length=60)]] = Field(max_length=_MOST)


class Wanted(BaseModel):
    """A test that is asked for."""

    model_config = ConfigDict(extra="forbid")
    target: str = Field(max_length=253, description="An address, or a name for all its addresses.")
    reason: str = Field(max_length=40, description="Why (RFC 6471 section 3.6), such as spamtrap.")
    port: int = Field(25, ge=1, le=65535)
    note: str | None = Field(None, max_length=2000, pattern=r"^[^\x00]*$")


class Api:
    """The handlers: rows in, JSON out."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._doorman = Doorman(config)

    def routes(self) -> APIRouter:
        """Return what is under PREFIX."""
        made = APIRouter(prefix=PREFIX, responses={"4XX": _PROBLEM, 503: _PROBLEM})
        made.get("/lookup/{address}", summary="All about one address")(self.lookup)
        made.post("/lookup", summary="Which of many addresses are listed")(self.bulk)
        made.get("/listings", summary="All listings, by address")(self.listings)
        made.get("/verdicts", summary="All verdicts, the oldest first")(self.verdicts)
        made.post("/requests", status_code=202, summary="Ask for a test")(self.request)
        made.get("/requests/{number}", summary="How far a test is")(self.progress)
        made.post("/nominations", status_code=202, summary="Submit a sample of spam")(self.nominate)
        made.get("/nominations/{number}", summary="What became of a sample")(self.nomination)
        return made

    async def lookup(self, address: str, request: Request) -> Response:
        """What the list knows of an address."""
        parsed = _address(address)
        async with self._database.reading() as connection:
            text = await store.lookup(connection, parsed)
        return _tagged(text, request)

    async def bulk(self, asked: Addresses) -> Response:
        """Whether each of up to a thousand addresses is listed."""
        addresses = [_address(one) for one in asked.addresses]
        async with self._database.reading() as connection:
            return _json(await store.bulk(connection, addresses))

    async def listings(self, after: str = "", limit: Limit = 100) -> Response:
        """Page by page; `next` of one answer is `after` of the next question."""
        address, _, port = (after or "0.0.0.0/0").rpartition("/")
        if not port.isdigit() or len(port) > 5:
            raise HTTPException(400, 'after must be "address/port", the `next` of an answer')
        async with self._database.reading() as connection:
            return _page(*await store.listings(connection, (_address(address), int(port)), limit))

    async def verdicts(
        self, after: Annotated[int, Query(ge=0, lt=_MOST_ID)] = 0, limit: Limit = 100
    ) -> Response:
        """Page by page; `next` of one answer is `after` of the next question."""
        async with self._database.reading() as connection:
            return _page(*await store.verdicts(connection, after, limit))

    async def request(self, wanted: Wanted, request: Request, response: Response) -> object:
        """As an INSERT into relaytest.retest; needs a token that may request."""
        who = await self._who(request, "request")
        job = jobs.Request(
            wanted.target, wanted.reason, port=wanted.port, requester=who, note=wanted.note
        )
        try:
            async with self._database.transaction() as connection:
                number = await jobs.enqueue(connection, job)
        except RefusedRequestError as error:
            raise HTTPException(409, f"{error}. {error.hint}") from None
        if number is not None:
            response.headers["Location"] = f"{PREFIX}/requests/{number}"
        return {"request": number}

    async def progress(self, number: int) -> object:
        """Its stage, and the verdict once there is one."""
        found = None
        if 0 < number < _MOST_ID:
            async with self._database.transaction() as connection:
                found = await progress_of(connection, number)
        if found is None:
            raise HTTPException(404, "no such request")
        verdict = dict(found.verdict) if found.verdict else None
        if verdict:
            verdict["explanation"] = mask(verdict["explanation"])
        return {
            "request": found.job,
            "address": str(found.address),
            "port": found.port,
            "reason": found.reason,
            "stage": found.stage,
            "due_at": found.due_at,
            "evidence": found.trial,
            "forms": found.forms,
            "answered": found.answered,
            "accepted": found.accepted,
            "returned": found.returned,
            "verdict": verdict,
            "listed": found.listed,
        }

    async def nominate(
        self,
        request: Request,
        response: Response,
        address: Annotated[str, Query(max_length=60)] = "",
        port: Annotated[int, Query(ge=1, le=65535)] = 25,
    ) -> object:
        """The body is the message as it came; needs a token that may nominate."""
        who = await self._who(request, "nominate")
        given = _address(address) if address else None
        sample = await request.body()
        if fault := sample_fault(sample):
            raise HTTPException(400, f"no mail message: {fault}")
        submission = nominations.Submission(sample[:LARGEST], False, given, port, who)
        try:
            async with self._database.transaction() as connection:
                number = await nominations.submit(connection, submission)
        except RefusedRequestError as error:
            raise HTTPException(503, f"{error}. {error.hint}") from None
        response.headers["Location"] = f"{PREFIX}/nominations/{number}"
        return {"nomination": number}

    async def nomination(self, number: int, request: Request) -> object:
        """Who was nominated, or why nobody; needs a token that may nominate.

        It may quote a Received line, which names who got the spam.
        """
        await self._who(request, "nominate")
        row = None
        if 0 < number < _MOST_ID:
            async with self._database.reading() as connection:
                row = await nominations.outcome_of(connection, number)
        if row is None:
            raise HTTPException(404, "no such sample")
        return {"nomination": number, **dict(row)}

    async def _who(self, request: Request, right: Right) -> str:
        """Return the name of the token that a request comes with."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        async with self._database.transaction() as connection:
            found = None
            if scheme.lower() == "bearer":
                found = await store.allowed(connection, token.strip().encode("latin-1", "replace"))
            tries = self._doorman.limits(request, "token")
            often = None if found else await self._doorman.admit(connection, tries)
        if often:
            headers = {"Retry-After": str(often.seconds)}
            raise HTTPException(429, "too many wrong tokens", headers)
        if found is None:
            raise HTTPException(
                401, "a token is wanted: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )
        if right not in found["may"]:
            raise HTTPException(403, f"this token may not {right}")
        name: str = found["name"]
        return name


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


def _json(text: str) -> Response:
    return Response(mask(text), media_type="application/json")


def _tagged(text: str, request: Request) -> Response:
    """Answer with an ETag; without a body if the asker has it already (RFC 9110 section 13.1.2)."""
    response = _json(text)
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    known = request.headers.get("if-none-match", "")
    if known == "*" or tag in {one.strip().removeprefix("W/") for one in known.split(",")}:
        response = Response(status_code=304)
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "no-cache"
    return response


def _page(rows: str, last: str | None) -> Response:
    following = f'"{last}"' if last else "null"
    return _json(f'{{"rows": {rows}, "next": {following}}}')
