"""Clients of any kind for the sink's side of a session."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from relaytest.core.paths import mailbox_of
from relaytest.core.reception import (
    Action,
    Close,
    Deliver,
    Delivery,
    Limits,
    Secure,
    Session,
    Write,
)
from tests.fuzz.octets import CUTS, pieces
from tests.fuzz.target import Target

_ENDS = st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n", b""])
_PATHS = (
    st.sampled_from([b"<t@sink.example>", b"<>", b"t@sink.example"])
    | st.sampled_from([b'<"t@sink.example"@[192.0.2.1]>', b"<t@"])
    | st.sampled_from([b"<@a,@b:t@sink.example>", b'<"t\\>"@a> SIZE=3', b'"', b'<"', b"<a>b>c"])
    | st.sampled_from([b"\\", b"<t@x> "])
) | st.binary(max_size=10)
_COMMANDS = st.one_of(
    st.builds(lambda path: b"MAIL FROM:" + path, _PATHS),
    st.builds(lambda path: b"RCPT TO:" + path, _PATHS),
    st.builds(lambda path: b"rcpt  to : " + path, _PATHS),
    st.sampled_from([b"MAIL FROM:<>", b"RCPT TO:<t@sink.example>", b"DATA"]),
    st.sampled_from([b"EHLO a", b"HELO", b"RSET", b"NOOP", b"STARTTLS", b"DATA", b"BDAT 3 LAST"]),
    st.sampled_from([b"QUIT", b"", b" ", b".", b"..", b"x" * 70, b"x" * 200, b"\0", b"data x"]),
    st.binary(max_size=8),
)
_LINES = st.builds(lambda line, end: line + end, _COMMANDS, _ENDS)
# A whole transaction, so that messages come about often; what is said in it may be anything.
_MESSAGES = st.lists(
    st.sampled_from([b"\r\n", b".", b"\n", b"\r", b"a", b"..", b"\r\n.", b"\n.\n", b"\r\n.\r"])
    | st.binary(max_size=5),
    max_size=10,
).map(lambda parts: b"MAIL FROM:<>\r\nRCPT TO:<t@a>\r\nDATA\r\n" + b"".join(parts) + b"\r\n.\r\n")

_STREAM = st.lists(_LINES | _LINES | _MESSAGES, max_size=14).map(b"".join)
_LIMITS = st.builds(
    Limits,
    message_octets=st.sampled_from([0, 1, 20, 1 << 20]),
    recipients=st.sampled_from([1, 2, 100]),
    line_octets=st.sampled_from([64, 80, 4096]),
    commands=st.sampled_from([3, 500]),
    errors=st.sampled_from([1, 3, 10]),
    session_octets=st.sampled_from([50, 150, 8 << 20]),
)

INPUTS = st.tuples(_STREAM, CUTS, _LIMITS, st.booleans())

_REPLY = re.compile(rb"(?:[2-5]\d\d-[ -~]*\r\n)*[2-5]\d\d [ -~]*\r\n")


@dataclass(slots=True)
class Heard:
    """What a client got, and what was to be stored.

    Attributes:
        closed: The session is over.
    """

    said: bytes = b""
    deliveries: tuple[Delivery[bool], ...] = ()
    closed: bool = False


def _accept(local: bytes, _domain: bytes) -> bool | None:
    return None if local == b"no" else True


def talk(chunks: list[bytes], limits: Limits, *, ok: bool) -> Heard:
    """Hold a session; each message is stored, or not, before more input is taken."""
    session = Session(b"sink.example", limits, _accept)
    heard = Heard()
    for chunk in chunks:
        actions = session.receive(chunk)
        while actions:
            for action in actions:
                assert not heard.closed, "an action after the end"
                _take(action, heard)
            actions = session.stored(ok) if session.storing else []
        assert session.held_octets <= limits.message_octets + limits.line_octets + 8
    return heard


def _take(action: Action[bool], heard: Heard) -> None:
    match action:
        case Write(octets):
            heard.said += octets
        case Deliver(delivery):
            heard.deliveries += (delivery,)
        case Close() | Secure():  # TLS is not offered
            heard.closed = True


def check(value: tuple[bytes, list[int], Limits, bool]) -> None:
    """The cuts do not matter, replies are replies, and a message is what stood before the dot."""
    stream, cuts, limits, ok = value
    heard = talk([stream], limits, ok=ok)
    assert talk(pieces(stream, cuts), limits, ok=ok) == heard
    replies = _REPLY.findall(heard.said)
    assert b"".join(replies) == heard.said
    # Each ends with a line end of the client's, but for the last 421; DATA's has a second one.
    assert len(replies) <= stream.count(b"\n") + 1
    assert heard.said.count(b"\r\n250 2.0.0 Stored") <= len(heard.deliveries)
    for delivery in heard.deliveries:
        _check_delivery(delivery, stream, limits)


def _check_delivery(delivery: Delivery[bool], stream: bytes, limits: Limits) -> None:
    message = delivery.message
    assert delivery.recipients
    assert len(delivery.recipients) <= limits.recipients
    assert len(message) <= limits.message_octets
    assert delivery.truncated == (delivery.size > len(message))
    for recipient in delivery.recipients:
        assert recipient.forward_path in stream
        mailbox_of(recipient.forward_path)
    assert any(message == whole[: limits.message_octets] for whole in _messages(stream))


def _messages(stream: bytes) -> Iterator[bytes]:
    """Read what follows each DATA as RFC 5321 section 4.5.2 says, line by line."""
    for start in re.finditer(rb"(?i)data[^\n]*\n", stream):
        lines = stream[start.end() :].split(b"\r\n")
        if b"." in lines[:-1]:
            kept = lines[: lines.index(b".")]
            yield b"".join(line.removeprefix(b".") + b"\r\n" for line in kept)


TARGET = Target("any client leaves a sound session and whole messages", INPUTS, check)
