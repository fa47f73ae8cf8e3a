"""What the tested server calls itself: names for the forms that need them."""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from publicsuffixlist import PublicSuffixList

from relaytest.core.reply import Reply
from relaytest.core.target import Address, literal

_NAME = re.compile(
    r"(?=.{4,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)
# What servers without a name of their own say; nobody's mail domain.
_NO_NAMES = ("localhost", "localdomain", "arpa")


class Origin(enum.Enum):
    """Where a name was found."""

    GREETING = "greeting"
    HELLO = "hello"
    POINTER = "pointer"


@dataclass(frozen=True, slots=True)
class Found:
    """A name of the target, as it was found.

    Attributes:
        confirmed: Of a pointer: the name leads back to the address (forward-confirmed reverse
            DNS). None: not looked up.
    """

    name: str
    origin: Origin
    confirmed: bool | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """Names that the target may take for its own.

    Attributes:
        host: Its host name; its address literal if it told none.
        domain: A domain that it probably takes mail for; its literal if it told no name.
        literal: Its address literal.
        host2: Another host name, or None.
        domain2: Another domain, or None.
        ip: Its bare address; None for IPv6, where it would be no domain (colons).
        arpa: Its address as a name of the reverse DNS tree.
        ptr: Its name in the reverse DNS, or None.
        found: Every name that was told, for the record.
        texts: A text for each of the placeholders that have one.
    """

    host: str
    domain: str
    literal: str
    host2: str | None = None
    domain2: str | None = None
    ip: str | None = None
    arpa: str | None = None
    ptr: str | None = None
    found: tuple[Found, ...] = ()
    texts: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = ("host", "domain", "literal", "host2", "domain2", "ip", "arpa", "ptr")
        values = {name: getattr(self, name) for name in named}
        told = {name: value for name, value in values.items() if value is not None}
        object.__setattr__(self, "texts", told)


def names_of(
    address: Address,
    *,
    greeting: Reply | None,
    hello: Reply | None,
    pointer: str | None,
    confirmed: bool | None = None,
) -> Names:
    """Find the target's names; what it says itself goes before what DNS says.

    A server may say anything: whatever is no full host name is dropped, and a lie costs only
    forms that ask for the wrong name.

    Args:
        address: The target.
        greeting: Its 220; the first word should be its name (RFC 5321 section 4.2).
        hello: Its reply to EHLO or HELO; likewise (section 4.1.1.1).
        pointer: Name from the reverse DNS, if known.
        confirmed: The pointer's name has the target's address; None if nobody looked.

    >>> from ipaddress import IPv4Address
    >>> names = names_of(IPv4Address("192.0.2.1"), pointer="relay.isp.example.", hello=None,
    ...                  greeting=Reply(220, ("mx.shop.example ESMTP",)))
    >>> names.host, names.domain, names.host2, names.domain2
    ('mx.shop.example', 'shop.example', 'relay.isp.example', 'isp.example')
    """
    found = tuple(_found(greeting, hello, pointer, confirmed))
    brackets = literal(address)
    hosts = _two(one.name for one in found)
    domains = _two(name for one in found for name in domains_of(one.name))
    pointers = [one.name for one in found if one.origin is Origin.POINTER]
    return Names(
        hosts[0] or brackets,
        domains[0] or brackets,
        brackets,
        host2=hosts[1],
        domain2=domains[1],
        ip=str(address) if address.version == 4 else None,
        arpa=address.reverse_pointer,
        ptr=pointers[0] if pointers else None,
        found=found,
    )


def _found(
    greeting: Reply | None, hello: Reply | None, pointer: str | None, confirmed: bool | None
) -> Iterator[Found]:
    for origin, reply in ((Origin.GREETING, greeting), (Origin.HELLO, hello)):
        name = _name(reply.lines[0].split(" ", 1)[0]) if reply is not None else None
        if name is not None:
            yield Found(name, origin)
    if pointer is not None and (name := _name(pointer)) is not None:
        yield Found(name, Origin.POINTER, confirmed)


def _name(word: str) -> str | None:
    """Return the host name that a word is, in one spelling, or None."""
    name = word[:255].strip().rstrip(".").lower()
    labels = name.split(".")
    if not _NAME.fullmatch(name) or labels[-1] in _NO_NAMES or labels[0] == "localhost":
        return None
    return name


def _two(names: Iterable[str]) -> tuple[str | None, str | None]:
    """The first two that differ."""
    first, second, *_ = (*dict.fromkeys(names), None, None)
    return first, second


def domains_of(host: str) -> tuple[str, ...]:
    """Return the domains that a host probably takes mail for, the likeliest first.

    That is the domain that somebody registered below a public suffix (publicsuffix.org), and
    the name without its first label where that is longer. A public suffix itself is no mail
    domain of anyone, except that a host may be called so.

    >>> domains_of("mx1.mail.shop.co.uk"), domains_of("mx.shop.example"), domains_of("co.uk")
    (('shop.co.uk', 'mail.shop.co.uk'), ('shop.example',), ('co.uk',))
    """
    registered = _suffixes().privatesuffix(host)
    if registered is None:
        return (host,)
    parent = host.partition(".")[2]
    return (registered, parent) if len(parent) > len(registered) else (registered,)


@cache
def _suffixes() -> PublicSuffixList:
    """The list comes with its package and takes a while to read, so only who needs it pays."""
    return PublicSuffixList()


def looks_like_host_name(text: str) -> bool:
    """Return whether `text` is a full host name, with a dot and letters in its last label."""
    return _NAME.fullmatch(text) is not None
