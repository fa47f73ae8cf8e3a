"""Questions to the DNS answerer, as names and as octets."""

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.exception
import dns.flags
import dns.message
from hypothesis import strategies as st

from relaytest.core.config import Config
from relaytest.core.zone import Absence, Entry, answer, apex_of
from relaytest.net.dns_server import _Server
from tests.fuzz.target import Target

_APEX = apex_of(Config().publish)
_ADDRESSES = (
    st.sampled_from(["192.0.2.7", "127.0.0.1", "127.0.0.2", "0.0.0.0", "2.0.0.1"])
    | st.sampled_from(["::ffff:7f00:2", "::ffff:c000:207", "2001:db8::7", "::1", "::"])
).map(ip_address) | st.builds(IPv6Address, st.integers(0, (1 << 128) - 1))
_LABELS = st.lists(
    st.sampled_from(["2", "0", "127", "192", "7", "f", "a", "256", "00", "", "_x", "F", "1"]),
    max_size=34,
).map(".".join) | st.text(max_size=30)
_WIRE = st.binary(max_size=60) | st.builds(
    lambda name, cut, more: dns.message.make_query(name, "A").to_wire()[:cut] + more,
    st.sampled_from(["2.0.0.127.relays.example", "relays.example", "x."]),
    st.integers(0, 60),
    st.binary(max_size=20),
)

INPUTS = st.tuples(_ADDRESSES, _LABELS, _WIRE)


def check(value: tuple[IPv4Address | IPv6Address, str, bytes]) -> None:
    """Only the names of an entry and of test entries have one; and any octets get an answer."""
    listed, labels, wire = value
    names = {_labels_of(listed)}
    tests = {_labels_of(ip_address(f"127.0.0.{code}")) for code in _APEX.codes}
    if isinstance(listed, IPv6Address) and listed.ipv4_mapped:
        listed = listed.ipv4_mapped
        names.add(_labels_of(listed))
    tests |= {_labels_of(ip_address(f"::ffff:127.0.0.{code}")) for code in _APEX.codes}
    if isinstance(listed, IPv4Address):
        names.add(_labels_of(ip_address(f"::ffff:{listed}")))
    for asked in (*names, *tests, labels):
        said = answer(asked, _APEX, lambda one: 2 if one == listed else None)
        if isinstance(said, Entry):
            assert asked in names | tests
        else:
            assert isinstance(said, Absence)
            assert asked not in tests
            assert asked not in names or listed == ip_address("127.0.0.1")
    _check_wire(wire)


def _labels_of(address: IPv4Address | IPv6Address) -> str:
    return address.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def _check_wire(wire: bytes) -> None:
    async def say(query: dns.message.Message) -> dns.message.Message:
        return dns.message.make_response(query)

    said = asyncio.run(_Server(say).respond(wire, 512))
    assert len(said) <= 512
    if said:
        response = dns.message.from_wire(said)
        assert response.flags & dns.flags.QR
        assert response.id == int.from_bytes(wire[:2], "big")


TARGET = Target("the answerer says what is listed and nothing else", INPUTS, check)
