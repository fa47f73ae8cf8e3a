"""Mail servers whose truth is known, for the tests and for the benchmark of accuracy.

The truth of a scripted server is its own doing: it is open if it hands what a stranger gave it
to a stranger's mailbox. "unknowable" is what nobody can tell from one place by SMTP alone.
"""

import asyncio
import re
import smtplib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from relaytest.core.config import Config, split_endpoint
from relaytest.daemons.check import Case, Check, cases_of
from relaytest.daemons.loop import Stop
from relaytest.net.dns import Resolver
from tests.daemons.peers import (
    DEMANDS_TLS,
    NAME,
    PERCENT,
    PLAIN,
    POSTMASTER,
    RELAYING_DENIED,
    TAKEN,
    Mail,
    Post,
    Recipient,
    Target,
    anybody,
    closed,
    only,
    relays,
    send,
)
from tests.lab import lab_config
from tests.mta.process import fresh_address
from tests.net.hostile import CERTIFICATE

Place = tuple[str, int]
OPEN, CLOSED, UNKNOWABLE = "open", "closed", "unknowable"
_STUBBORN = 600  # times that a server comes again with a message that is not taken
WAIT = "6s"  # for mail to come back; everything here is near
LATER = b"451 4.7.1 Greylisted, please come back"
SOFTLY = b"454 4.7.1 Relay access denied"
Make = Callable[[Place], Target]


@dataclass(frozen=True)
class Subject:
    """A server and the truth about it.

    Attributes:
        make: From the place of the sink.
        reason: What relaytest should give, where the verdict alone does not say it.
        of_a_check: True only of a check, which comes again within seconds; the daemons take a
            refusal at every visit for one, since their visits are hours apart.
    """

    name: str
    truth: str
    make: Make
    reason: str = ""
    of_a_check: bool = False


@dataclass(frozen=True)
class Found:
    """What relaytest said of a server.

    Attributes:
        ours: A verdict.
    """

    ours: str
    reason: str
    seconds: float


def opened(recipient: Recipient = anybody, post: re.Pattern[bytes] = PLAIN, **more: Any) -> Make:
    """A server that passes on what `recipient` takes."""
    return lambda sink: Target(recipient, relays(sink, post), **more)


def shut(recipient: Recipient = closed, **more: Any) -> Make:
    """A server that passes nothing on."""
    return lambda _sink: Target(recipient, **more)


def sender_is(pattern: bytes) -> Recipient:
    """RCPT: anybody, for some senders."""

    def recipient(reverse: bytes, forward: bytes) -> bytes:
        mine = forward == POSTMASTER or re.search(pattern, reverse)
        return TAKEN if mine else RELAYING_DENIED

    return recipient


def says(answer: bytes) -> Recipient:
    """RCPT: postmaster is taken, everybody else hears this."""
    return lambda _reverse, forward: TAKEN if forward == POSTMASTER else answer


def greylisting(recipient: Recipient) -> Callable[[Place], Recipient]:
    """RCPT: what was not tried before, later."""

    def make(_sink: Place) -> Recipient:
        met: set[tuple[bytes, bytes]] = set()

        def answer(reverse: bytes, forward: bytes) -> bytes:
            new = (reverse, forward) not in met
            met.add((reverse, forward))
            return LATER if new else recipient(reverse, forward)

        return answer

    return make


def at_most(number: int, more: bytes) -> Callable[[Place], Recipient]:
    """RCPT: so many strangers an hour, others hear `more`.

    An hour begins when somebody asks for postmaster, as each visit does.
    """

    def make(_sink: Place) -> Recipient:
        left = number

        def answer(_reverse: bytes, forward: bytes) -> bytes:
            nonlocal left
            left = number if forward == POSTMASTER else left - 1
            return TAKEN if left >= 0 else more

        return answer

    return make


def instead(at: bytes, octets: bytes | None, first: int = 1000) -> dict[str, Any]:
    """Say something else at a command, in the first connections."""
    return {
        "spoil": lambda number, line, usual: octets if number <= first and line[:4] == at else usual
    }


def bounces(sink: Place) -> Post:
    """A message that was taken: back to its sender, quoted."""

    async def post(target: Target, mail: Mail) -> None:
        quoted = b"Subject: failure\r\n\r\n> " + mail.forwards[0] + b"\r\n" + mail.octets
        await send(sink, b"<>", mail.reverse, octets=quoted, source=target.host)

    return post


def twice(sink: Place) -> Post:
    """A message that was taken: delivered by two exits, its recipient in capitals."""

    async def post(_target: Target, mail: Mail) -> None:
        for _ in range(2):
            if PLAIN.fullmatch(mail.forwards[0]):
                path = mail.forwards[0].upper()
                await send(sink, mail.reverse, path, octets=mail.octets, source=fresh_address())

    return post


def inside_tls(sink: Place) -> Post:
    """A message that was taken: delivered, but in clear never."""

    def deliver(target: Target, mail: Mail, path: bytes) -> None:
        with smtplib.SMTP(*sink, local_hostname=NAME, source_address=(target.host, 0)) as client:
            client.starttls()
            client.sendmail(mail.reverse.decode(), path.decode(), mail.octets)

    async def post(target: Target, mail: Mail) -> None:
        for _ in range(_STUBBORN if PLAIN.fullmatch(mail.forwards[0]) else 0):
            try:
                await asyncio.to_thread(deliver, target, mail, mail.forwards[0])
            except OSError:  # as all errors of smtplib are
                await asyncio.sleep(0.1)
            else:
                break

    return post


def bounces_in_the_senders_name(sink: Place) -> Post:
    """A message that was taken: bounced, with its sender as the bounce's own."""

    async def post(target: Target, mail: Mail) -> None:
        text = b"Subject: Undelivered\r\n\r\n" + mail.forwards[0] + b"\r\n" + mail.octets
        await send(sink, mail.reverse, mail.reverse, octets=text, source=target.host)

    return post


def tells_the_recipient(sink: Place) -> Post:
    """A message that was taken: put into quarantine, and its recipient is told so."""

    async def post(target: Target, mail: Mail) -> None:
        if PLAIN.fullmatch(mail.forwards[0]):
            notice = b"Subject: A message to you is held\r\n\r\nIt may be spam.\r\n"
            await send(sink, b"<>", mail.forwards[0], octets=notice, source=target.host)

    return post


def answers_itself(sink: Place) -> Post:
    """A message that was taken: answered by a machine that quotes it."""

    async def post(target: Target, mail: Mail) -> None:
        reply = b"Subject: Re: x\r\n\r\n> " + mail.forwards[0] + b"\r\n" + mail.octets
        await send(sink, b"<robot@lab.example>", mail.reverse, octets=reply, source=target.host)

    return post


SUBJECTS = (
    Subject("open to everybody", OPEN, opened()),
    Subject("open, no PIPELINING", OPEN, opened(pipelining=False)),
    Subject("open, one connection at a time", OPEN, opened(at_once=1)),
    Subject("open, one message a connection", OPEN, opened(messages=1)),
    Subject("open, 550 after the dot", OPEN, opened(dot=b"550 5.7.1 No")),
    Subject("open, silent after the dot", OPEN, opened(dot=None)),
    Subject("open to the null sender only", OPEN, opened(sender_is(rb"^<>$"))),
    Subject("open to its own domain's senders", OPEN, opened(sender_is(rb"@lab\.example>$"))),
    Subject("open to unqualified senders", OPEN, opened(sender_is(rb"^<[a-z2-7]{26}>$"))),
    Subject("open by the percent hack", OPEN, opened(only(PERCENT), PERCENT)),
    Subject("open inside TLS only", OPEN, opened(closed, starttls=anybody)),
    Subject(
        "open inside TLS, takes a%b@host in clear as its own",
        OPEN,
        opened(only(PERCENT), starttls=anybody),
    ),
    Subject("open, demands TLS", OPEN, opened(starttls=anybody, demands_tls=True)),
    Subject("open, HELO only", OPEN, opened(EHLO=b"502 5.5.1 What?")),
    Subject("open, hangs up at EHLO", OPEN, opened(**instead(b"EHLO", None))),
    Subject("open, greets twice", OPEN, opened(**instead(b"", b"220 filter\r\n220 mx\r\n"))),
    Subject("open, no RSET", OPEN, opened(RSET=b"502 5.5.1 What?")),
    Subject("open, hangs up at RSET", OPEN, opened(**instead(b"RSET", None))),
    Subject("open, drops who comes first", OPEN, opened(**instead(b"", None, first=1))),
    Subject("open, slow", OPEN, opened(delay=0.05)),
    Subject("open, by another exit, and twice", OPEN, lambda sink: Target(anybody, twice(sink))),
    Subject("open, delivers inside TLS only", OPEN, lambda sink: Target(anybody, inside_tls(sink))),
    Subject("closed", CLOSED, shut()),
    Subject("closed, no PIPELINING", CLOSED, shut(pipelining=False)),
    Subject("closed, hangs up after 1 refusal", CLOSED, shut(errors=1)),
    Subject("closed, hangs up after 3 refusals", CLOSED, shut(errors=3)),
    Subject("closed, one connection at a time", CLOSED, shut(at_once=1)),
    Subject("closed with 454 for ever", CLOSED, shut(says(SOFTLY))),
    Subject("closed at MAIL", CLOSED, shut(MAIL=b"550 5.7.1 We do not relay")),
    Subject("closed at DATA", CLOSED, shut(anybody, DATA=b"554 5.7.1 No relaying")),
    Subject("closed at the dot", CLOSED, shut(anybody, dot=b"554 5.7.1 No relaying")),
    Subject("closed, wants a login", CLOSED, shut(MAIL=b"530 5.7.0 Authentication required")),
    Subject("closed, wants TLS", CLOSED, shut(starttls=closed, demands_tls=True)),
    Subject("closed, takes all and discards", CLOSED, shut(anybody)),
    Subject("closed, takes all and bounces", CLOSED, lambda sink: Target(anybody, bounces(sink))),
    Subject(
        "closed, takes all and bounces in the sender's name",
        CLOSED,
        lambda sink: Target(anybody, bounces_in_the_senders_name(sink)),
    ),
    Subject(
        "closed, takes all and tells the recipient that it is held",
        CLOSED,
        lambda sink: Target(anybody, tells_the_recipient(sink)),
    ),
    Subject(
        "closed, takes all and answers itself",
        CLOSED,
        lambda sink: Target(anybody, answers_itself(sink)),
    ),
    Subject("closed, takes a%b@host as its own", CLOSED, shut(only(PERCENT))),
    Subject(
        "closed, 250-first, 550 last",
        CLOSED,
        shut(says(b"250-first\r\n550-second\r\n550 third")),
    ),
    Subject("closed, answers MAIL twice", CLOSED, shut(MAIL=b"250 Ok\r\n250 Ok")),
    Subject("closed, greets twice", CLOSED, shut(**instead(b"", b"220 filter\r\n220 mx\r\n"))),
    Subject("closed, 421 to who comes first", CLOSED, shut(**instead(b"", b"421 Busy\r\n", 1))),
    Subject("closed, hangs up at EHLO", CLOSED, shut(**instead(b"EHLO", None))),
    Subject("closed, no RSET", CLOSED, shut(RSET=b"502 5.5.1 What?")),
    Subject("closed, slow", CLOSED, shut(delay=0.05)),
    Subject("closed, 521 greeting", CLOSED, shut(greeting=b"521 No mail here")),
    Subject("greylists, then open", OPEN, lambda sink: opened(greylisting(anybody)(sink))(sink)),
    Subject("greylists, then closed", CLOSED, lambda sink: shut(greylisting(closed)(sink))(sink)),
    Subject(
        "open, 5 recipients an hour, then 452",
        OPEN,
        lambda sink: opened(at_most(5, b"452 4.5.3 Too many recipients")(sink))(sink),
    ),
    Subject(
        "open, 5 recipients an hour, then 550",
        OPEN,
        lambda sink: opened(at_most(5, b"550 5.7.1 Quota exceeded")(sink))(sink),
    ),
    Subject("554 greeting to us", UNKNOWABLE, shut(greeting=b"554 No"), "blocked"),
    Subject(
        "on postscreen's list, dropped",
        UNKNOWABLE,
        shut(greeting=b"521 5.3.2 Service currently unavailable"),
        "blocked",
    ),
    Subject(
        "on postscreen's list",
        UNKNOWABLE,
        shut(lambda *_: b"550 5.3.2 Service currently unavailable"),
        "blocked",
    ),
    Subject(
        "greylists for longer than we wait, and spares postmaster as postgrey does",
        UNKNOWABLE,
        shut(says(b"450 4.2.0 Greylisted, see https://postgrey.example/")),
        "deferred",
        of_a_check=True,
    ),
    Subject("a filter hangs at the dot", UNKNOWABLE, shut(anybody, dot=None), "incomplete"),
    Subject("LMTP", UNKNOWABLE, shut(EHLO=b"500 5.5.1 What?", HELO=b"500 5.5.1 What?"), "not-smtp"),
    Subject("defers for ever", UNKNOWABLE, shut(lambda *_: LATER), "deferred"),
    Subject(
        "refuses us for our address",
        UNKNOWABLE,
        shut(lambda *_: b"554 5.7.1 Client host blocked using zen.example; see example"),
        "blocked",
    ),
    Subject(
        "refuses us for our address, and takes all mail for postmaster as Postfix does",
        UNKNOWABLE,
        shut(says(b"554 5.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied")),
        "blocked",
    ),
    Subject("contradicts itself", UNKNOWABLE, shut(RCPT=b"250 Ok\r\n550 No"), "desync"),
    Subject("wants TLS that it has not", UNKNOWABLE, shut(MAIL=DEMANDS_TLS), "incomplete"),
)


def lab() -> Config:
    folder = Path(tempfile.gettempdir())
    return lab_config(
        folder,
        sink={"certificate": str(CERTIFICATE)},
        timing={
            "patience": WAIT,
            "grace": "3s",
            "command": "5s",
            "end_of_data": "2s",
            "settle": "200ms",
        },
    )


def sink_of(config: Config) -> Place:
    return split_endpoint(config.sink.listen[0])


async def judged(config: Config, place: Place) -> Found:
    async with Resolver(config.dns.nameservers, config.dns.timeout) as resolver:
        cases = cases_of([("", ip_address(place[0]))], [place[1]], config)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await Check(config, cases, resolver, messages=True).run(Stop())
        return _found(cases[0], loop.time() - begun)


def _found(case: Case, seconds: float) -> Found:
    verdict = case.verdict
    assert verdict is not None
    return Found(verdict.finding.value, verdict.reason.value, seconds)


def right(subject: Subject, found: Found) -> bool:
    if subject.truth == UNKNOWABLE:
        return (found.ours, found.reason) == ("unknown", subject.reason)
    return found.ours == subject.truth
