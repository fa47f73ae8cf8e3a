"""Which addresses may be contacted at all: global unicast, and what the operator allows.

`ipaddress.is_global` is not enough: in Python 3.11 it is true for multicast, for 192.88.99.1,
and for NAT64 and 6to4 addresses of 127.0.0.1, and it changes with the Python version. The table
here is the IANA special-purpose registries (RFC 6890) and RFC 4291's "only 2000::/3 is global
unicast", and is judged by value: an IPv4 address inside an IPv6 address is judged as IPv4.

The database's relaytest.scope_refusal judges by the same rows (store.scope writes them there).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("10.0.0.0/8", "private use (RFC 1918)"),
        ("100.64.0.0/10", "shared address space (RFC 6598)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local (RFC 3927)"),
        ("172.16.0.0/12", "private use (RFC 1918)"),
        ("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("192.88.99.0/24", "6to4 relay anycast (RFC 7526)"),
        ("192.168.0.0/16", "private use (RFC 1918)"),
        ("198.18.0.0/15", "benchmarking (RFC 2544)"),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
        ("::/3", "not global unicast (RFC 4291)"),
        ("4000::/2", "not global unicast (RFC 4291)"),
        ("8000::/1", "not global unicast (RFC 4291)"),
        ("2001::/23", "IETF protocol assignments (RFC 2928)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("3fff::/20", "documentation (RFC 9637)"),
    )
)

NEVER: tuple[Network, ...] = tuple(
    ip_network(network) for network in ("0.0.0.0/32", "224.0.0.0/4", "::/128", "ff00::/8")
)  # no mail server can be there, so scope.allow may not name them

_MAPPED = IPv6Network("::ffff:0:0/96")  # addresses in it are taken for the IPv4 they mean
_WIDEST = {4: 16, 6: 32}  # prefix lengths that one holder of addresses may well have
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_6TO4 = IPv6Network("2002::/16")  # RFC 3056


@dataclass(frozen=True, slots=True)
class Scope:
    """The operator's exceptions to SPECIAL.

    Attributes:
        allow: Special-purpose networks that may be contacted all the same (labs, tests).
        deny: Networks that are never contacted.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


def parse_address(text: str) -> Address:
    """Read one address; a v4-mapped IPv6 address becomes the IPv4 address that it means.

    Raises:
        ValueError: Not an address, a network, or an address with a zone.

    >>> parse_address("::ffff:192.0.2.1")
    IPv4Address('192.0.2.1')
    """
    address = ip_address(text.strip())
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone; only addresses without one are tested")
        return address.ipv4_mapped or address
    return address


def parse_network(text: str) -> Network:
    """Read a network; an address is the network of that one address.

    Raises:
        ValueError: No network, or one with bits set beyond its mask; the text says what is right.

    >>> parse_network("::ffff:192.0.2.1")
    IPv4Network('192.0.2.1/32')
    """
    if "/" not in text:
        return ip_network(parse_address(text))
    network = ip_network(text.strip(), strict=False)
    if ip_address(text.strip().partition("/")[0]) != network.network_address:
        raise ValueError(f"{text!r} has bits set beyond its mask; did you mean {network}?")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"{text!r}: write it as an IPv4 network")
    return network


def is_wide(network: Network) -> bool:
    """Whether a network is so wide that it was hardly meant.

    >>> is_wide(ip_network("10.0.0.0/8")), is_wide(ip_network("2001:db8::/32"))
    (True, False)
    """
    return network.prefixlen < _WIDEST[network.version]


def embedded_ipv4(address: Address) -> IPv4Address | None:
    """Return the IPv4 address inside a v4-mapped, NAT64 or 6to4 address, if any.

    >>> embedded_ipv4(IPv6Address("2002:7f00:1::"))
    IPv4Address('127.0.0.1')
    """
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(address.packed[12:])
    return IPv4Address(address.packed[2:6]) if address in _6TO4 else None


def refusal(address: Address, scope: Scope) -> str | None:
    """Return why `address` may not be contacted, or None.

    >>> refusal(IPv4Address("10.0.0.1"), Scope())
    'private use (RFC 1918)'
    """
    judged: Address = embedded_ipv4(address) or address
    if _inside(address, scope.deny) or _inside(judged, scope.deny):
        return "excluded by the operator (scope.deny)"
    reasons = [why for network, why in SPECIAL if judged in network]
    if not reasons or _inside(judged, scope.allow):
        return None
    return reasons[-1]


def literal(address: Address) -> str:
    """Return the address literal (RFC 5321 section 4.1.3).

    >>> literal(IPv6Address("2001:db8::1"))
    '[IPv6:2001:db8::1]'
    """
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


def _inside(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
