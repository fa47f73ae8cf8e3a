"""Servers of any kind for a whole session of ours: greeting, offers, QUIT; without a socket.

The dialogue runs over the real wire, which has a made-up transport and a loop whose clock jumps
to the next timer, so that minutes of waiting take no time. What is right is found anew from the
octets in the transcript: the n-th reply belongs to the n-th command, and must have come after it.
"""

import asyncio
import re
import selectors
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from hypothesis import strategies as st

from relaytest.core.dialogue import Answers, Break, Hello, Offer, Outcome, Step, greet, hold
from relaytest.core.probe import Envelope
from relaytest.core.transcript import MAX_OCTETS, Transcript
from relaytest.net.smtp_client import Connection, Timeouts
from relaytest.net.smtp_wire import Wire
from tests.fuzz.target import Target

_MESSAGE = b"Subject: x\r\n\r\n.dot\r\nEHLO x\r\nend\r\n"
_SENT = b"Subject: x\r\n\r\n..dot\r\nEHLO x\r\nend\r\n.\r\n"
_TIMEOUTS = Timeouts(*[timedelta(seconds=one) for one in (20, 60, 60, 180, 240)])

# --- what a server says ------------------------------------------------------------------------

_RIGHT = {
    b"": [b"220 mx ESMTP\r\n", b"220-mx\r\n220 ESMTP\r\n"],
    b"EHLO": [b"250 mx\r\n", b"250-mx\r\n250-SIZE\r\n250 PIPELINING\r\n"],
    b"HELO": [b"250 mx\r\n"],
    b"MAIL": [b"250 2.1.0 Ok\r\n"],
    b"RCPT": [b"250 2.1.5 Ok\r\n", b"550 5.7.1 No\r\n", b"450 4.7.1 Later\r\n"],
    b"DATA": [b"354 Go\r\n"],
    b"RSET": [b"250 2.0.0 Ok\r\n"],
    b"QUIT": [b"221 2.0.0 Bye\r\n"],
    b".": [b"250 2.0.0 Queued\r\n", b"554 5.7.1 Spam\r\n"],
}
_ANY = (
    st.sampled_from([b"250 a\r\n", b"550 b\r\n", b"354 c\r\n", b"421 d\r\n", b"503 e\r\n"])
    | st.sampled_from([b"220 f\r\n"])
    | st.sampled_from([b"250-g\r\n", b"250-h\r\n550 i\r\n", b"250 j\r\n250 k\r\n", b"250", b"25"])
    | st.sampled_from([b"\r\n", b""])
    | st.sampled_from([b"999 l\r\n", b"250-m\r\n" * 600, b"250 " + b"n" * 5000, b"451 o\n"])
    | st.sampled_from([b"221 p\r\n"])
) | st.binary(max_size=6)
_DELAYS = st.sampled_from([0.0, 0.0, 0.5, 30.0, 70.0, 100.0])
_CHUNKS = st.sampled_from([1 << 16, 1 << 16, 1, 3])  # octets that come at once


@dataclass(frozen=True, slots=True)
class Server:
    """How a server behaves: right, but for some places.

    Attributes:
        manner: Which of the right answers it gives, as a rule.
        slips: After how many seconds it says what instead, by the number of the command: the
            greeting is 0, the end of data counts as one. None: it closes. A number: another of
            the right answers.
        resets: It closes by a reset.
        chunk: So many octets come at once.
        last_words: What it says after its answer to QUIT.
    """

    manner: int
    slips: dict[int, tuple[float, int | bytes | None]]
    resets: bool
    chunk: int
    last_words: bytes

    def answer(self, number: int, verb: bytes) -> tuple[float, bytes | None]:
        """Return after how many seconds it says what to a command."""
        delay, said = self.slips.get(number, (0.0, self.manner))
        right = _RIGHT.get(verb, [b"500 5.5.2 What?\r\n"])
        return delay, right[said % len(right)] if isinstance(said, int) else said


_SLIPS = st.dictionaries(
    st.integers(0, 30) | st.integers(0, 5),
    st.tuples(_DELAYS, st.integers(0, 5) | st.none() | _ANY),
    max_size=4,
)
_SERVERS = st.builds(
    Server,
    st.integers(0, 5),
    _SLIPS,
    st.booleans(),
    _CHUNKS,
    st.just(b"") | _ANY,
)
INPUTS = st.tuples(
    _SERVERS,
    st.lists(st.booleans(), min_size=1, max_size=8),  # of each offer: it has a message
    st.booleans(),  # use PIPELINING where it is announced
)

# --- a loop and a transport without time and network -------------------------------------------


class _Leap(selectors.SelectSelector):
    """Waits for no time at all, and puts the clock forward instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nobody will ever wake up"
            self.now += max(timeout, 0.0)
        return ready


class Loop(asyncio.SelectorEventLoop):
    """A loop on which an hour passes in a moment."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now


class Line(asyncio.Transport):
    """A transport with the server at its end."""

    def __init__(self, loop: Loop, wire: Wire, server: Server) -> None:
        super().__init__()
        self._loop, self._wire, self._server = loop, wire, server
        self._number = 0  # of the next command
        self._closed = self._in_message = False
        self._rest = b""
        self._when = 0.0  # when all that was said so far has arrived
        self._answer(b"")  # the greeting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 0) if name == "sockname" else default

    def is_closing(self) -> bool:
        return self._closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        *lines, self._rest = (self._rest + bytes(data)).split(b"\r\n")
        for line in lines:
            if not self._in_message:
                self._answer(line[:4])
            elif line == b".":
                self._in_message = False
                self._answer(b".")

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._wire.connection_lost, None)

    def _answer(self, verb: bytes) -> None:
        delay, answer = self._server.answer(self._number, verb)
        self._number += 1
        if answer is None:
            self._leave()
            return
        self._in_message |= verb == b"DATA" and answer.startswith(b"354")
        self._send(delay, answer)
        if verb == b"QUIT":
            self._send(0.5, self._server.last_words)

    def _send(self, delay: float, octets: bytes) -> None:
        self._when = max(self._when, self._loop.time()) + delay
        for place in range(0, len(octets), self._server.chunk):
            piece = octets[place : place + self._server.chunk]
            self._loop.call_at(self._when, self._arrive, piece)

    def _arrive(self, octets: bytes) -> None:
        if not self._closed:
            self._wire.data_received(octets)

    def _leave(self) -> None:
        def leave() -> None:
            if self._closed:
                return
            if not self._server.resets:
                self._wire.eof_received()
            self.abort()

        self._loop.call_at(self._when, leave)


class _NoClient:
    """In place of aiosmtplib's, which only opens and closes."""

    def close(self) -> None:
        """Nothing to close."""


# --- the session -------------------------------------------------------------------------------


def offers_of(messages: list[bool]) -> list[Offer]:
    """Make offers that can be told apart."""
    return [
        Offer(form, Envelope(b"<s%d@a>" % form, b"<r%d@b>" % form), _MESSAGE if full else None)
        for form, full in enumerate(messages, start=1)
    ]


async def _hold(
    server: Server, offers: list[Offer], *, pipelining: bool
) -> tuple[Hello, Answers, Transcript]:
    loop = cast("Loop", asyncio.get_running_loop())
    wire = Wire(loop, _TIMEOUTS.session)
    wire.connection_made(Line(loop, wire, server))
    connection = Connection(cast("Any", _NoClient()), wire, _TIMEOUTS)
    async with connection:
        hello = await connection.drive(greet(b"probe.example"))
        answers = Answers()
        if hello.welcome:
            talk = hold(offers, pipelining=pipelining and hello.pipelining)
            answers = await connection.drive(talk)
    assert loop.time() <= _TIMEOUTS.session.total_seconds() + 2
    return hello, answers, connection.transcript


def check(value: tuple[Server, list[bool], bool]) -> None:
    """Every session ends in time, and each outcome is what the server said to that very command."""
    server, messages, pipelining = value
    offers = offers_of(messages)
    with asyncio.Runner(loop_factory=Loop) as runner:
        hello, answers, transcript = runner.run(_hold(server, offers, pipelining=pipelining))
    assert transcript.size <= MAX_OCTETS
    outcomes = {one.form: one for one in answers.outcomes}
    assert len(outcomes) == len(answers.outcomes), "a form has two outcomes"
    assert outcomes.keys() <= {one.form for one in offers}
    record = _Record(transcript)
    _check_messages(record)
    if answers.broken is not None and answers.broken.kind in {Break.DESYNC, Break.GARBAGE}:
        _check_void(outcomes, record)
    elif outcomes:
        assert hello.welcome
        _check_outcomes(outcomes, record)


_REPLY = re.compile(rb"(?:[2-5]\d\d-[^\n]*\n)*([2-5]\d\d)(?: [^\n]*)?\r*\n")


class _Record:
    """The transcript as a list of commands and a list of replies, each with its place in time.

    Attributes:
        commands: Line, and how many octets the server had said before it.
        replies: Code, and how many octets the server had said when it was complete.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.commands: list[tuple[bytes, int]] = []
        heard = b""
        for exchange in transcript.exchanges:
            if not exchange.sent:
                heard += exchange.octets
            elif exchange.octets == b".\r\n" or exchange.octets.endswith(b"\r\n.\r\n"):
                self.commands.append((exchange.octets, len(heard)))
            else:
                lines = exchange.octets.removesuffix(b"\r\n").split(b"\r\n")
                self.commands += [(line, len(heard)) for line in lines]
        found = list(_REPLY.finditer(heard))
        self.replies = [(int(one[1]), one.end()) for one in found[1:]]
        self.surplus = self.replies[len(self.commands) :]

    def code(self, place: int) -> int | None:
        """Return the code of the reply to a command, which must not be older than the command."""
        if place >= len(self.replies):
            return None
        code, complete = self.replies[place]
        assert complete > self.commands[place][1], "a reply that was there before its command"
        return code

    def taken(self, first: int, count: int) -> bool:
        """Return whether so many commands were answered 2yz."""
        codes = [self.code(place) for place in range(first, first + count)]
        return all(code is not None and 200 <= code < 300 for code in codes)


_STEPS = (Step.MAIL, Step.RCPT, Step.DATA, Step.END_OF_DATA)


def _check_messages(record: _Record) -> None:
    """A message goes only where sender, recipient and DATA were taken; else an empty one."""
    for place, (line, _) in enumerate(record.commands):
        if line.endswith(b".\r\n"):
            taken = record.taken(place - 3, 2)
            assert record.code(place - 1) == 354
            assert line == (_SENT if taken else b".\r\n")


def _check_void(outcomes: dict[int, Outcome], record: _Record) -> None:
    """Nothing that was answered counts, only that messages went out."""
    lines = [line for line, _ in record.commands]
    for form, outcome in outcomes.items():
        assert outcome == Outcome(form, Step.END_OF_DATA, None)
        assert lines[lines.index(b"MAIL FROM:<s%d@a>" % form) + 3] == _SENT


def _check_outcomes(outcomes: dict[int, Outcome], record: _Record) -> None:
    assert not {code for code, _ in record.surplus} - {421}, "outcomes of a session out of step"
    places = {line: place for place, (line, _) in enumerate(record.commands)}
    for form, outcome in outcomes.items():
        first = places[b"MAIL FROM:<s%d@a>" % form]
        said = None if outcome.reply is None else outcome.reply.code
        place = _STEPS.index(outcome.step)
        assert said == record.code(first + place)
        assert record.taken(first, min(place, 2))
        if outcome.step is Step.END_OF_DATA:
            assert record.code(first + 2) == 354
            assert record.commands[first + 3][0] == _SENT
        elif outcome.willing:
            _check_reset(first, record)


def _check_reset(first: int, record: _Record) -> None:
    """In a group only the reply to RSET shows that those before it were paired right."""
    line, after = record.commands[first + 2]
    if line == b"RSET" and after == record.commands[first][1]:
        assert record.taken(first + 2, 1)


TARGET = Target("any server leaves a session that ended, and outcomes it said", INPUTS, check)
