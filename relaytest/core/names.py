"""What the tested server calls itself: names for the forms that need them."""

import re
from dataclasses import dataclass

from relaytest.core.reply import Reply
from relaytest.core.target import Address, literal

_NAME = re.compile(
    r"(?=.{4,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)


@dataclass(frozen=True, slots=True)
class Names:
    """Names that the target may take for its own.

    Attributes:
        host: Its host name; its address literal if it told none.
        domain: A domain that it probably takes mail for; its literal if it told no name.
        literal: Its address literal.
    """

    host: str
    domain: str
    literal: str


def names_of(
    address: Address, *, greeting: Reply | None, hello: Reply | None, pointer: str | None
) -> Names:
    """Find the target's names; what it says itself goes before what DNS says.

    Args:
        address: The target.
        greeting: Its 220; the first word should be its name (RFC 5321 section 4.2).
        hello: Its reply to EHLO or HELO; likewise (section 4.1.1.1).
        pointer: Name from the reverse DNS, if known.

    >>> from ipaddress import IPv4Address
    >>> names_of(IPv4Address("192.0.2.1"), greeting=Reply(220, ("mx.shop.example ESMTP",)),
    ...          hello=None, pointer=None)
    Names(host='mx.shop.example', domain='shop.example', literal='[192.0.2.1]')
    """
    brackets = literal(address)
    words = [reply.lines[0].split(" ")[0] for reply in (greeting, hello) if reply is not None]
    for word in (*words, pointer or ""):
        name = word.strip().rstrip(".").lower()
        if _NAME.fullmatch(name):
            return Names(name, domain_of(name), brackets)
    return Names(brackets, brackets, brackets)


def domain_of(host: str) -> str:
    """Guess the mail domain of a host: the name without its first label.

    A name of two labels is taken for the domain itself.

    >>> domain_of("mx.shop.example"), domain_of("shop.example")
    ('shop.example', 'shop.example')
    """
    _, _, rest = host.partition(".")
    return rest if "." in rest else host


def looks_like_host_name(text: str) -> bool:
    """Return whether `text` is a full host name, with a dot and letters in its last label."""
    return _NAME.fullmatch(text) is not None
