"""How the sessions with one target are held, and what a scout that failed teaches about it.

Servers break RFC 5321 in ways that hide whether they relay: they hang up at EHLO and know HELO,
greet twice because a filter greets as well, drop whoever comes first, want TLS. A first session
that gets nowhere is therefore followed by another in another manner, and none comes twice.
"""

import enum
from dataclasses import dataclass, replace

from relaytest.core.dialogue import Break, Hello
from relaytest.core.visit import SessionRecord


class Channel(enum.Enum):
    """How commands go to the target."""

    CLEAR = "clear"
    STARTTLS = "starttls"
    TLS = "tls"  # from the first octet on (RFC 8314)


@dataclass(frozen=True, slots=True)
class Manner:
    """How sessions with one target are held.

    Attributes:
        old: HELO, for who hangs up at EHLO.
        settling: Wait after each reply for others that belong to the same command.
        again: After a pause, for who turned us away at once.
    """

    channel: Channel = Channel.CLEAR
    old: bool = False
    settling: bool = False
    again: bool = False


PLAIN = Manner()


def after(manner: Manner, scout: SessionRecord, *, starttls: bool) -> Manner:
    """Return the manner to go on in; the same if it is right, or no better one is known.

    Args:
        manner: Of the scout.
        scout: What came of it. Answers that only demand TLS are taken out of it.
        starttls: We may use it.
    """
    kind = scout.broken.kind if scout.broken else None
    if manner.channel is Channel.TLS and kind is Break.TLS:
        return replace(manner, channel=Channel.CLEAR)
    if starttls and manner.channel is Channel.CLEAR and scout.set_tls_demands_aside():
        return replace(manner, channel=Channel.STARTTLS)
    if kind is Break.DESYNC:
        return replace(manner, settling=True)
    if scout.hello is None or scout.hello.welcome:
        return manner
    if _turned_away_for_now(scout.hello):
        return replace(manner, again=True)
    return replace(manner, old=True) if _lost_at_ehlo(scout.hello) else manner


def _turned_away_for_now(hello: Hello) -> bool:
    """It hung up before it greeted us, or has too many clients: 421, RFC 5321 section 3.8."""
    if hello.greeting is None:
        return hello.broken is not None and hello.broken.kind is Break.CLOSED
    return hello.greeting.code == 421


def _lost_at_ehlo(hello: Hello) -> bool:
    if hello.greeting is None or hello.greeting.code != 220 or hello.verb != b"EHLO":
        return False
    if hello.broken is not None:
        return hello.broken.kind in {Break.CLOSED, Break.TIMEOUT}
    return hello.reply is not None and hello.reply.transient
