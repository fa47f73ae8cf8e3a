"""The record of one SMTP session: every octet both ways, with times, bounded."""

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_OCTETS = 256 * 1024  # of one session's transcript; later octets are counted, not kept
MAX_EXCHANGES = 4096  # likewise; an object for each octet would take a hundred times its room


@dataclass(frozen=True, slots=True)
class Exchange:
    """Some octets that went one way.

    Attributes:
        after: Seconds since the connection was begun.
        sent: True for what we said, False for what the server said.
        octets: As they went over the wire, line ends included.
    """

    after: float
    sent: bool
    octets: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it went over the wire.

    Attributes:
        text: Safe to show, with the time and who said it in front.
        sent: True for what we said.
        octets: Without the line end.
    """

    text: str
    sent: bool
    octets: bytes


@dataclass(slots=True)
class Transcript:
    """What was said, in order, without gaps up to where it was full.

    Attributes:
        dropped: Octets that came after MAX_OCTETS or MAX_EXCHANGES were full.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    size: int = 0
    dropped: int = 0

    def add(self, exchange: Exchange) -> None:
        """Append; once full, only count. The pieces of one line become one exchange."""
        last = self.exchanges[-1] if self.exchanges else exchange
        goes_on = last.sent == exchange.sent and not last.octets.endswith(b"\n")
        full = self.dropped or (len(self.exchanges) >= MAX_EXCHANGES and not goes_on)
        kept = b"" if full else exchange.octets[: MAX_OCTETS - self.size]
        self.size += len(kept)
        self.dropped += len(exchange.octets) - len(kept)
        if kept and goes_on and self.exchanges:
            self.exchanges[-1] = Exchange(last.after, last.sent, last.octets + kept)
        elif len(kept) == len(exchange.octets) > 0:
            self.exchanges.append(exchange)
        elif kept:
            self.exchanges.append(Exchange(exchange.after, exchange.sent, kept))

    def as_text(self) -> str:
        r"""Return a safe text: one line for each wire line, times in front, controls escaped.

        >>> talk = Transcript()
        >>> talk.add(Exchange(0.5, False, b"220 mx \x1b[1m ready\r\n"))
        >>> talk.add(Exchange(0.6, True, b"EHLO probe.example\r\n"))
        >>> print(talk.as_text())
           0.500 S: 220 mx \x1b[1m ready
           0.600 C: EHLO probe.example
        """
        return "\n".join(line.text for line in self.lines())

    def lines(self) -> Iterator[Line]:
        """Yield each line; the last one may say how much was not kept."""
        for exchange in self.exchanges:
            front = f"{exchange.after:8.3f} {'C' if exchange.sent else 'S'}: "
            for line in _wire_lines(exchange.octets):
                yield Line(front + visible(line), exchange.sent, line)
        if self.dropped:
            yield Line(f"({self.dropped} more octets were not kept)", False, b"")


def _wire_lines(octets: bytes) -> list[bytes]:
    """Cut at LF only: a bare CR must show, since it may be an attempt to hide a line."""
    return [line.removesuffix(b"\r") for line in octets.removesuffix(b"\n").split(b"\n")]


def visible(octets: bytes) -> str:
    r"""Return printable text: what is not printable ASCII is escaped, and so is a backslash.

    >>> visible(b"caf\xc3\xa9\x07 \\")
    'caf\\xc3\\xa9\\x07 \\\\'
    """
    return octets.decode("latin-1").translate(_ESCAPES)


def _escape(octet: int) -> str:
    return "\\\\" if octet == 0x5C else f"\\x{octet:02x}"


_ESCAPES = {octet: _escape(octet) for octet in (*range(0x20), 0x5C, *range(0x7F, 0x100))}
