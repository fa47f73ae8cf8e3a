"""What the Received lines of a message that came back say about its way (RFC 5321 section 4.4).

Every server writes them in its own fashion (qmail in parentheses, Exim with `helo=`, Exchange
without brackets), so no grammar is followed: each line is a set of addresses and a set of names.
Anybody may forge them. They prove nothing alone; they explain why a message that was handed to
one address comes from another.
"""

import email.policy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from ipaddress import ip_address

from relaytest.core.target import Address

MAX_HEADER = 64 * 1024  # octets that are looked at
MAX_HOPS = 50  # RFC 5321 section 6.3 lets servers refuse at 100; real mail has ten

_WORD = re.compile(r"[A-Za-z0-9.:-]{3,253}")
_HEADER_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Hop:
    """One Received line, in lower case.

    Attributes:
        text: Unfolded.
        addresses: Of IP, in any notation.
        names: What looks like a host name.
    """

    text: str
    addresses: frozenset[Address]
    names: frozenset[str]


def hops_of(message: bytes) -> tuple[Hop, ...]:
    r"""Return the Received lines of a message, the last server's first.

    >>> hop, = hops_of(b"Received: from a.example ([192.0.2.1]) by b.example;\r\n now\r\n\r\nx")
    >>> hop.addresses, sorted(hop.names)
    (frozenset({IPv4Address('192.0.2.1')}), ['a.example', 'b.example'])
    """
    header = _HEADER_END.split(message[:MAX_HEADER], maxsplit=1)[0]
    fields = BytesHeaderParser(policy=email.policy.compat32).parsebytes(header + b"\r\n\r\n")
    lines = [str(value) for name, value in fields.items() if name.lower() == "received"]
    return tuple(_hop(line) for line in lines[:MAX_HOPS])


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a message on its way back to us, as a stranger can read it.

    Attributes:
        text: The Received line.
        what: Who of those that we know is named in it, in words; "" if nobody.
    """

    text: str
    what: str


def way_back(message: bytes, target: Address, ours: Iterable[Address], peer: Address) -> list[Step]:
    """Return the steps of a message that came back, the last server's first.

    Args:
        message: As it came to the sink.
        target: Whom it was given to.
        ours: From where.
        peer: Who brought it back.
    """
    known = {peer: "the exit"} | dict.fromkeys(ours, "we") | {target: "the tested server"}
    return [
        Step(hop.text[:500], ", ".join(sorted({known[one] for one in hop.addresses & set(known)})))
        for hop in hops_of(message)
    ]


def _hop(line: str) -> Hop:
    text = " ".join(line.split()).lower()
    addresses, names = set(), set()
    for word in _WORD.findall(text.partition(";")[0].replace("ipv6:", " ")):
        bare = word.strip(".:-")
        try:
            addresses.add(ip_address(bare))
        except ValueError:
            if "." in bare and ":" not in bare and not bare.replace(".", "").isdigit():
                names.add(bare)
    return Hop(text, frozenset(addresses), frozenset(names))
