"""The two that are compared: our prober, and aiosmtplib used as its documentation shows."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from ipaddress import ip_address
from typing import Any

from aiosmtplib import SMTP

from relaytest.core.config import Politeness, parse_config
from relaytest.core.probe import Form
from relaytest.daemons import shipped
from relaytest.daemons.prober import Prober, Target, Visit
from relaytest.net.dns import Resolver

Place = tuple[str, int]
EHLO_NAME = "probe.relaytest.example"
NOBODY = "127.66.0.1:9"  # in place of the system's name servers, which are none of our business
SESSIONS_AT_ONCE = Politeness().sessions_at_once
QUICK, FULL = shipped.battery().up_to(2), shipped.battery().forms
POSTMASTER = b"RCPT TO:<postmaster>"  # the prober's control recipient, which is no form
_trials = itertools.count(1)


def forms(count: int) -> tuple[Form, ...]:
    """Return the first forms of the battery in sending order; 20 are tiers 1 and 2."""
    return shipped.battery().forms[:count]


@contextlib.asynccontextmanager
async def prober(**sections: dict[str, Any]) -> AsyncIterator[Prober]:
    """Give a prober with the default configuration, or with other values in some sections."""
    config = parse_config(
        {
            "identity": {"ehlo_name": EHLO_NAME, "contact": "postmaster@example"},
            "sink": {"domains": ["sink.example"]},
            **sections,
        }
    )
    async with Resolver([NOBODY], timedelta(milliseconds=200)) as resolver:
        yield Prober(config, resolver)


def target(place: Place) -> Target:
    """Return the place as a prober's target; each time for another trial."""
    return Target(ip_address(place[0]), place[1], next(_trials), bytes(32))


def said(visit: Visit) -> list[list[bytes]]:
    """Return the MAIL, RCPT and RSET lines of each session of a visit."""
    return [
        [
            line
            for exchange in record.transcript.exchanges
            if exchange.sent
            for line in exchange.octets.split(b"\r\n")
            if line[:4] in {b"MAIL", b"RCPT", b"RSET"}
        ]
        for record in visit.records
    ]


def without_control(sessions: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return the lines of all sessions in one, without the control recipient's three."""
    lines = [line for session in sessions for line in session]
    threes = [lines[place : place + 3] for place in range(0, len(lines), 3)]
    return [line for three in threes if three[1] != POSTMASTER for line in three]


async def plain_session(place: Place, lines: Sequence[bytes]) -> int:
    """Say the lines one by one with aiosmtplib; return the round trips that takes."""
    client = SMTP(hostname=place[0], port=place[1], local_hostname=EHLO_NAME, start_tls=False)
    await client.connect()
    await client.ehlo()
    for line in lines:
        await client.execute_command(line)
    await client.quit()
    return 4 + len(lines)  # the TCP handshake, the greeting, EHLO and QUIT


async def plain_visit(place: Place, sessions: Sequence[Sequence[bytes]]) -> int:
    """Hold the same sessions as the prober, the first alone; return the longest chain's trips."""
    scout = await plain_session(place, sessions[0])
    return scout + await plain_sessions(place, sessions[1:])


async def plain_sessions(place: Place, sessions: Sequence[Sequence[bytes]]) -> int:
    """Hold sessions with aiosmtplib, as many at once as the prober; return the longest lane's."""
    waiting, trips = iter(sessions), [0] * SESSIONS_AT_ONCE

    async def take(lane: int) -> None:
        for lines in waiting:
            trips[lane] += await plain_session(place, lines)

    await at_most(SESSIONS_AT_ONCE, [partial(take, lane) for lane in range(SESSIONS_AT_ONCE)])
    return max(trips)


async def at_most(at_once: int, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do all pieces of work, so many at a time."""
    waiting = iter(work)

    async def take() -> None:
        for piece in waiting:
            await piece()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(take())
