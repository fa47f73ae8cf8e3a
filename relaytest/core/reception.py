"""The server's side of an SMTP session: octets in, actions out (RFC 5321). No sockets here.

net.smtp_listener drives a Session over TCP; tests call it. It serves the sink, where a relay's
peculiar envelope is the very thing we wait for, so it is liberal in what may be written in a
command. It is strict in one thing: a message ends at CRLF.CRLF and nowhere else, or whoever
writes the message could write commands too (SMTP smuggling).

Rules: memory is bounded by Limits whatever comes, time is linear in the octets however they
are cut, and nothing that a client says is repeated in a reply.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from relaytest.core.paths import FROM, TO, mailbox_of

REFUSAL = b"550 5.7.1 No such mailbox here, and no relaying"

_T = TypeVar("_T")

_END_OF_DATA = b"\r\n.\r\n"
_OK = b"250 2.0.0 OK"
_EHLO = (
    b"250-%b\r\n%b250-PIPELINING\r\n250-SIZE %d\r\n250-8BITMIME\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8"
)
_FIXED = {
    b"NOOP": _OK,
    b"VRFY": b"252 2.0.0 Send mail and see",  # RFC 5321 section 3.5.3
    b"HELP": b"214 2.0.0 See RFC 5321",
} | dict.fromkeys(
    (b"AUTH", b"BDAT", b"ETRN", b"EXPN", b"TURN"),
    b"502 5.5.1 Not implemented",  # section 4.2.4: known, so not 500
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use.

    Attributes:
        message_octets: Kept of a message; the rest is counted. Announced as SIZE (RFC 1870).
        recipients: Of one message; RFC 5321 section 4.5.3.1.8 wants 100 at least.
        line_octets: Of a command line with its line end; section 4.5.3.1.4 wants 512 at least.
        commands: Answered in one session.
        errors: Commands that were malformed, unknown or out of order; refused recipients and
            messages that could not be stored do not count.
        session_octets: Of all input.
        backlog_octets: Of input that waits while a message is being stored.
    """

    message_octets: int = 1 << 20
    recipients: int = 100
    line_octets: int = 4096
    commands: int = 500
    errors: int = 10
    session_octets: int = 8 << 20
    backlog_octets: int = 1 << 19


@dataclass(frozen=True, slots=True)
class Recipient(Generic[_T]):
    """An accepted recipient.

    Attributes:
        forward_path: As sent, brackets included, without parameters.
        ticket: What the policy returned for it.
    """

    forward_path: bytes
    ticket: _T


@dataclass(frozen=True, slots=True)
class Delivery(Generic[_T]):
    """One message with its envelope.

    Attributes:
        helo: What the client called itself; empty if it did not say.
        extended: It said EHLO, not HELO.
        reverse_path: As sent, brackets included, without parameters.
        recipients: Never empty, in the order of the RCPT commands.
        message: Byte for byte as the client meant it: transparency dots are taken out (RFC
            5321 section 4.5.2), the last CRLF is part of it. Limits.message_octets at most.
        size: Octets of the whole message.
        truncated: `message` is not the whole of it.
    """

    helo: bytes
    extended: bool
    reverse_path: bytes
    recipients: tuple[Recipient[_T], ...]
    message: bytes
    size: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Write:
    """Action: send these octets, one or more whole replies."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Deliver(Generic[_T]):
    """Action: store this message, then tell by Session.stored()."""

    delivery: Delivery[_T]


@dataclass(frozen=True, slots=True)
class Secure:
    """Action: begin TLS, then tell by Session.secured(). What comes meanwhile comes inside it."""


@dataclass(frozen=True, slots=True)
class Close:
    """Action: close the connection once all is sent. The session takes no more input."""


Action = Write | Deliver[_T] | Secure | Close
Accept = Callable[[bytes, bytes], _T | None]


class _Phase(enum.Enum):
    COMMAND = enum.auto()
    MESSAGE = enum.auto()
    STORING = enum.auto()  # a Deliver is out
    SECURING = enum.auto()  # a Secure is out
    CLOSED = enum.auto()


_COMMAND, _MESSAGE, _STORING, _SECURING, _CLOSED = (
    _Phase  # an attribute of an enum is slow in Python 3.11
)


class Session(Generic[_T]):
    """One session. Every method returns what to do next, in order.

    Args:
        name: Our host name, 1..255 octets.
        limits: What the client may use.
        accept: The policy: local part and domain (b"" if there is none) of a recipient,
            unquoted, letter case as sent; returns a ticket that goes into the Delivery, or
            None to refuse.
        refusal: Reply line for a refused recipient, without CRLF, 510 octets at most.
        tls: Offer STARTTLS (RFC 3207).
    """

    def __init__(
        self,
        name: bytes,
        limits: Limits,
        accept: Accept[_T],
        *,
        refusal: bytes = REFUSAL,
        tls: bool = False,
    ) -> None:
        self._name, self._limits = name, limits
        self._accept, self._refusal, self._tls = accept, refusal, tls
        self._phase = _COMMAND
        self._input = bytearray()
        self._overlong = False  # inside a command line that is too long
        self._taken = 0  # octets of input so far
        self._cut = False  # more came than the limits allow, and was dropped
        self._output = bytearray()
        self._last: Deliver[_T] | Secure | Close | None = None
        self._commands = self._errors = 0
        self._helo, self._extended = b"", False
        self._transaction: _Transaction[_T] | None = None

    @property
    def storing(self) -> bool:
        """A Deliver is out and stored() is awaited; input is kept until then."""
        return self._phase is _STORING

    @property
    def held_octets(self) -> int:
        """Octets in memory: input not yet understood and the message so far."""
        return len(self._input) + (len(self._transaction.kept) if self._transaction else 0)

    def greeting(self) -> bytes:
        """Return the 220 that opens the session (section 3.1)."""
        return b"220 %b ESMTP\r\n" % self._name

    def receive(self, octets: bytes) -> list[Action[_T]]:
        """Take input, cut anyhow. All replies to it are one Write (RFC 2920 section 3.2)."""
        if self._cut or self._phase is _CLOSED:
            return []
        room = self._limits.session_octets - self._taken
        if self._phase in {_STORING, _SECURING}:
            room = min(room, self._limits.backlog_octets - len(self._input))
        self._taken += len(octets)
        self._cut = len(octets) > room
        self._input += octets[: max(room, 0)] if self._cut else octets
        return self._proceed()

    def stored(self, ok: bool) -> list[Action[_T]]:
        """Answer the last message: 250 promises to keep it (section 6.1). Then go on."""
        if self._phase is not _STORING:
            return []
        self._phase = _COMMAND
        self._say(b"250 2.0.0 Stored" if ok else b"451 4.3.0 Not stored, try again later")
        return self._proceed()

    def secured(self) -> list[Action[_T]]:
        """Go on inside TLS, as if the client had just come (RFC 3207 section 4.2)."""
        if self._phase is not _SECURING:
            return []
        self._phase, self._tls, self._helo, self._extended = _COMMAND, False, b"", False
        return self._proceed()

    def dismiss(self, why: bytes) -> list[Action[_T]]:
        """End the session with 421 and `why`, such as b"4.3.2 Shutting down" (section 3.8)."""
        if self._phase is not _CLOSED:
            self._say(self._close(b"421 " + why))
        return self._actions()

    def _proceed(self) -> list[Action[_T]]:
        while self._phase is _COMMAND and self._take_line():
            pass
        if self._phase is _MESSAGE:
            self._take_content()
        if self._cut and self._phase not in {_STORING, _SECURING, _CLOSED}:
            self._say(self._close(b"421 4.7.0 Too much input"))
        return self._actions()

    def _actions(self) -> list[Action[_T]]:
        actions: list[Action[_T]] = [Write(bytes(self._output))] if self._output else []
        if self._last is not None:
            actions.append(self._last)
        self._output.clear()
        self._last = None
        return actions

    def _take_line(self) -> bool:
        """Obey the next command. A bare LF ends it too: only the client can write one there."""
        end = self._input.find(b"\n") + 1
        self._overlong |= (end or len(self._input) + 1) > self._limits.line_octets
        if not end:
            if self._overlong:
                self._input.clear()
            return False
        line = None if self._overlong else bytes(self._input[:end])
        del self._input[:end]
        self._overlong = False
        self._obey(line)
        return True

    def _take_content(self) -> None:
        transaction = self._transaction
        assert transaction is not None
        if transaction.take(self._input):
            self._phase = _STORING
            self._last = Deliver(transaction.delivery(self._helo, extended=self._extended))
            self._transaction = None  # section 4.1.1.4: whatever the answer will be

    def _obey(self, line: bytes | None) -> None:
        """Answer one command; None is a line that was too long."""
        self._commands += 1
        if self._commands > self._limits.commands or self._errors >= self._limits.errors:
            reply = self._close(b"421 4.7.0 Too many commands or errors")
        else:
            reply = b"500 5.5.2 Line too long" if line is None else self._reply(line)
        if reply.startswith(b"5") and reply is not self._refusal:
            self._errors += 1
        self._say(reply)

    def _reply(self, line: bytes) -> bytes:
        verb, argument, *_ = *line.strip().split(None, 1), b"", b""
        command = self._COMMANDS.get(verb.upper())
        if command is None:
            return _FIXED.get(verb.upper(), b"500 5.5.2 Unknown command")
        return command(self, argument)

    def _hello(self, argument: bytes) -> bytes:
        self._helo, self._extended, self._transaction = argument, False, None
        return b"250 %b" % self._name

    def _ehlo(self, argument: bytes) -> bytes:
        """Section 4.1.1.1; ends a transaction like RSET (section 4.1.4)."""
        self._helo, self._extended, self._transaction = argument, True, None
        offer = b"250-STARTTLS\r\n" if self._tls else b""
        return _EHLO % (self._name, offer, self._limits.message_octets)

    def _starttls(self, argument: bytes) -> bytes:
        """Drop what came behind it in clear: anybody may have put it there."""
        if not self._tls:
            return b"502 5.5.1 Not implemented"
        if argument:
            return b"501 5.5.4 Syntax: STARTTLS"
        self._phase, self._last, self._transaction = _SECURING, Secure(), None
        self._input.clear()
        return b"220 2.0.0 Go ahead"

    def _mail(self, argument: bytes) -> bytes:
        """Section 4.1.1.2. No parameter is refused, not even SIZE: part of a message proves."""
        match = FROM.match(argument)
        if match is None:
            return b"501 5.5.4 Syntax: MAIL FROM:<path>"
        if self._transaction is not None:
            return b"503 5.5.1 A transaction is open already"
        self._transaction = _Transaction(match[1], self._limits.message_octets)
        return b"250 2.1.0 OK"

    def _rcpt(self, argument: bytes) -> bytes:
        """Section 4.1.1.3; 452 as in section 4.5.3.1.10."""
        match = TO.match(argument)
        if match is None:
            return b"501 5.5.4 Syntax: RCPT TO:<path>"
        if self._transaction is None:
            return b"503 5.5.1 MAIL first"
        if len(self._transaction.recipients) >= self._limits.recipients:
            return b"452 4.5.3 Too many recipients"
        local_part, domain = mailbox_of(match[1])
        ticket = self._accept(local_part, domain)
        if ticket is None:
            return self._refusal
        self._transaction.recipients.append(Recipient(match[1], ticket))
        return b"250 2.1.5 OK"

    def _data(self, _argument: bytes) -> bytes:
        """Section 4.1.1.4."""
        if self._transaction is None:
            return b"503 5.5.1 MAIL first"
        if not self._transaction.recipients:
            return b"554 5.5.1 No valid recipients"  # section 3.3
        self._phase = _MESSAGE
        # The line end of DATA is the first CRLF of CRLF.CRLF if there is no message.
        self._input[:0] = b"\r\n"
        return b"354 End data with <CR><LF>.<CR><LF>"

    def _rset(self, _argument: bytes) -> bytes:
        self._transaction = None
        return _OK

    def _quit(self, _argument: bytes) -> bytes:
        return self._close(b"221 2.0.0 Bye")

    def _say(self, reply: bytes) -> None:
        self._output += reply + b"\r\n"

    def _close(self, reply: bytes) -> bytes:
        self._phase, self._last, self._transaction = _CLOSED, Close(), None
        self._input.clear()
        return reply

    _COMMANDS: ClassVar[dict[bytes, Callable[[Any, bytes], bytes]]] = {
        b"HELO": _hello,
        b"EHLO": _ehlo,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"RSET": _rset,
        b"QUIT": _quit,
        b"STARTTLS": _starttls,
    }


class _Transaction(Generic[_T]):
    """From MAIL to the end of data: what is known of a message on its way in.

    The input starts with the CRLF before the message, so its first line is like any other.
    """

    def __init__(self, reverse_path: bytes, limit: int) -> None:
        self.recipients: list[Recipient[_T]] = []
        self.kept = bytearray()
        self._reverse_path = reverse_path
        self._limit = limit + 2
        self._size = -2

    def take(self, octets: bytearray) -> bool:
        """Move octets out of the input; return whether the message has ended.

        Fewer octets than an end of data stay, so none is looked at more than a few times.
        """
        end = octets.find(_END_OF_DATA)
        if end >= 0:
            cut, gone = end + 2, end + len(_END_OF_DATA)
        else:
            unclear = (n for n in (4, 3, 2, 1) if octets.endswith(_END_OF_DATA[:n]))
            cut = gone = len(octets) - next(unclear, 0)
        # Only a dot right after CRLF was put in by the client. What stays begins with CR, so
        # such a dot is always in one piece with its CRLF.
        piece = octets[:cut].replace(b"\r\n.", b"\r\n")
        self._size += len(piece)
        self.kept += piece[: self._limit - len(self.kept)]
        del octets[:gone]
        return end >= 0

    def delivery(self, helo: bytes, *, extended: bool) -> Delivery[_T]:
        path, recipients = self._reverse_path, tuple(self.recipients)
        message = bytes(memoryview(self.kept)[2:])
        truncated = len(message) < self._size
        return Delivery(helo, extended, path, recipients, message, self._size, truncated)
