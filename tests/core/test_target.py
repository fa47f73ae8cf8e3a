"""Which addresses may be contacted: every block to its very ends, and all disguises."""

from ipaddress import (
    IPv4Address,
    IPv6Address,
    ip_address,
    ip_network,
)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.target import (
    NEVER,
    SPECIAL,
    Scope,
    embedded_ipv4,
    is_wide,
    literal,
    parse_address,
    parse_network,
    refusal,
)

ANYTHING = Scope()
OPERATOR = "excluded by the operator (scope.deny)"

# Rows that naive tests by `ipaddress.is_global` get wrong, and those they get right.
REFUSED = {
    "224.0.0.1": "multicast",
    "ff02::1": "not global unicast",
    "192.88.99.1": "6to4 relay anycast",
    "192.0.0.8": "IETF protocol assignments",
    "64:ff9b::7f00:1": "loopback",
    "2002:7f00:1::": "loopback",
    "3fff::1": "documentation",
    "5f00::1": "not global unicast",
    "10.0.0.1": "private use",
    "172.16.0.1": "private use",
    "192.168.0.1": "private use",
    "100.64.0.1": "shared address space",
    "127.0.0.1": "loopback",
    "169.254.0.1": "link-local",
    "198.18.0.1": "benchmarking",
    "192.0.2.1": "documentation",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "2001::1": "IETF protocol assignments",
    "fc00::1": "not global unicast",
    "fe80::1": "not global unicast",
    "::ffff:10.0.0.1": "private use",
    "::1": "not global unicast",
    "::": "not global unicast",
    "::127.0.0.1": "not global unicast",
    "0.0.0.0": "this network",
    "100::1": "not global unicast",
    "2001:db8::1": "documentation",
    "64:ff9b:1::7f00:1": "not global unicast",
    "fec0::1": "not global unicast",
}
# First and last address of each block, the address before and the one after, where those are
# global unicast.
BLOCKS = [
    ("0.0.0.0", "0.255.255.255", None, "1.0.0.0"),
    ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
    ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
    ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
    ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
    ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
    ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
    ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
    ("192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"),
    ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
    ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
    ("198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
    ("203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"),
    ("224.0.0.0", "239.255.255.255", "223.255.255.255", None),
    ("240.0.0.0", "255.255.255.255", None, None),
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, "2000::"),
    ("4000::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:ffff:ffff::", None),
    ("8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff:ffff::", "2001:200::"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff::", "2001:db9::"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffe:ffff:ffff::", "3fff:1000::"),
]
OUTSIDE = [text for row in BLOCKS for text in row[2:] if text is not None]


def disguises_of(text):
    """An IPv4 address as each IPv6 address that leads to it."""
    octets = IPv4Address(text).packed
    return [
        IPv6Address(b"\0" * 10 + b"\xff\xff" + octets),
        IPv6Address(bytes.fromhex("0064ff9b") + b"\0" * 8 + octets),
        IPv6Address(bytes.fromhex("2002") + octets + b"\0" * 10),
        IPv6Address(bytes.fromhex("2002") + octets + b"\xff" * 10),
    ]


# ---- what may be contacted


@pytest.mark.parametrize(("text", "why"), REFUSED.items(), ids=REFUSED)
def test_a_special_address_is_refused_with_its_reason(text, why):
    assert str(refusal(ip_address(text), ANYTHING)).startswith(why)


def test_every_block_has_a_row_of_its_ends():
    assert [(str(net[0]), str(net[-1])) for net, _ in SPECIAL] == [row[:2] for row in BLOCKS]


@pytest.mark.parametrize("text", [text for row in BLOCKS for text in row[:2]])
def test_the_first_and_the_last_address_of_a_block_are_refused(text):
    assert refusal(ip_address(text), ANYTHING) is not None


@pytest.mark.parametrize("text", OUTSIDE)
def test_the_addresses_beside_a_block_may_be_contacted(text):
    assert refusal(ip_address(text), ANYTHING) is None


@pytest.mark.parametrize(("network", "why"), SPECIAL, ids=[str(one) for one, _ in SPECIAL])
def test_each_reason_names_its_rfc(network, why):
    assert "(RFC " in why


def test_no_block_lies_in_another_so_there_is_one_reason():
    ends = [ip_address(text) for row in BLOCKS for text in row[:2]]
    assert {sum(address in network for network, _ in SPECIAL) for address in ends} == {1}


@pytest.mark.parametrize("network", NEVER, ids=str)
def test_what_can_hold_no_server_is_special_too(network):
    assert refusal(network[0], ANYTHING) is not None


@pytest.mark.parametrize("kind", range(4), ids=["mapped", "nat64", "6to4", "6to4-last"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "loopback (RFC 1122)"),
        ("10.255.255.255", "private use (RFC 1918)"),
        ("9.255.255.255", None),
        ("128.0.0.0", None),
    ],
    ids=["loopback", "private", "before-private", "after-loopback"],
)
def test_an_embedded_ipv4_address_is_judged_as_ipv4(kind, text, why):
    assert refusal(disguises_of(text)[kind], ANYTHING) == why


addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(addresses)
@settings(derandomize=True, deadline=None, max_examples=2000)
def test_whatever_python_calls_private_is_refused(address):
    judged = embedded_ipv4(address) or address
    assert not judged.is_private or refusal(address, ANYTHING) is not None


@given(addresses)
@settings(derandomize=True, deadline=None, max_examples=2000)
def test_no_special_use_that_python_knows_may_be_contacted(address):
    judged = embedded_ipv4(address) or address
    special = (
        judged.is_multicast
        or judged.is_loopback
        or judged.is_link_local
        or judged.is_reserved
        or judged.is_unspecified
    )
    assert not special or refusal(address, ANYTHING) is not None


@given(st.ip_addresses(v=4))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_no_disguise_changes_what_is_said_of_an_ipv4_address(address):
    said = {refusal(one, ANYTHING) for one in disguises_of(str(address))}
    assert said == {refusal(address, ANYTHING)}


# ---- the operator's exceptions


def scope(allow=(), deny=()):
    return Scope(tuple(map(ip_network, allow)), tuple(map(ip_network, deny)))


@pytest.mark.parametrize(
    ("rules", "text", "why"),
    [
        (scope(allow=["127.0.0.0/8"]), "127.0.0.1", None),
        (scope(allow=["127.0.0.1/32"]), "127.0.0.2", "loopback (RFC 1122)"),
        (scope(allow=["127.0.0.0/8"]), "10.0.0.1", "private use (RFC 1918)"),
        (scope(allow=["::1/128"]), "::1", None),
        (scope(allow=["::1/128"]), "::2", "not global unicast (RFC 4291)"),
        (scope(allow=["127.0.0.0/8"]), "::ffff:127.0.0.1", None),
        (scope(allow=["127.0.0.0/8"]), "64:ff9b::7f00:1", None),
        (scope(allow=["127.0.0.0/8"]), "2002:7f00:1::1", None),
        (scope(allow=["2002::/16"]), "2002:7f00:1::1", "loopback (RFC 1122)"),
        (scope(allow=["::/0"]), "::ffff:127.0.0.1", "loopback (RFC 1122)"),
        (scope(deny=["8.0.0.0/8"]), "8.8.8.8", OPERATOR),
        (scope(deny=["8.0.0.0/8"]), "9.9.9.9", None),
        (scope(deny=["8.0.0.0/8"]), "::ffff:8.8.8.8", OPERATOR),
        (scope(deny=["8.0.0.0/8"]), "64:ff9b::808:808", OPERATOR),
        (scope(deny=["8.0.0.0/8"]), "2002:808:808::", OPERATOR),
        (scope(deny=["2002::/16"]), "2002:909:909::", OPERATOR),
        (scope(deny=["64:ff9b::/96"]), "64:ff9b::909:909", OPERATOR),
        (scope(deny=["2a00::/12"]), "2a00::1", OPERATOR),
        (scope(deny=["127.0.0.0/8"]), "127.0.0.1", OPERATOR),
        (scope(["127.0.0.0/8"], ["127.0.0.1/32"]), "127.0.0.1", OPERATOR),
        (scope(["127.0.0.0/8"], ["127.0.0.1/32"]), "127.0.0.2", None),
        (scope(["127.0.0.0/8"], ["127.0.0.1/32"]), "2002:7f00:1::", OPERATOR),
        (scope(["127.0.0.0/8"], ["2002::/16"]), "2002:7f00:1::", OPERATOR),
    ],
    ids=[
        "allowed",
        "beside-the-allowed",
        "another-network",
        "allowed-v6",
        "beside-the-allowed-v6",
        "allowed-mapped",
        "allowed-nat64",
        "allowed-6to4",
        "6to4-itself-allows-nothing",
        "all-of-v6-allows-no-v4",
        "denied",
        "beside-the-denied",
        "denied-mapped",
        "denied-nat64",
        "denied-6to4",
        "6to4-itself-denied",
        "nat64-itself-denied",
        "denied-v6",
        "special-and-denied",
        "deny-beats-allow",
        "allow-beside-deny",
        "deny-beats-allow-in-disguise",
        "disguise-denied-inside-allowed",
    ],
)
def test_deny_goes_before_allow_and_both_judge_by_value(rules, text, why):
    assert refusal(ip_address(text), rules) == why


# ---- reading and writing addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", IPv4Address("192.0.2.1")),
        (" 192.0.2.1\n", IPv4Address("192.0.2.1")),
        ("2001:DB8::1", IPv6Address("2001:db8::1")),
        ("2001:db8:0:0:0:0:0:1", IPv6Address("2001:db8::1")),
        ("::ffff:192.0.2.1", IPv4Address("192.0.2.1")),
        ("::ffff:c000:201", IPv4Address("192.0.2.1")),
        ("64:ff9b::c000:201", IPv6Address("64:ff9b::c000:201")),
        ("2002:c000:201::", IPv6Address("2002:c000:201::")),
    ],
    ids=["v4", "blanks", "upper", "long", "mapped", "mapped-hex", "nat64", "6to4"],
)
def test_an_address_is_read_and_a_mapped_one_becomes_ipv4(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mx.shop.example",
        "192.0.2.0/24",
        "192.0.2.1/32",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "0xc0000201",
        "3221225985",
        "192.0.2.1:25",
        "[2001:db8::1]",
        "2001:db8::1::",
        "192.0.2.1 192.0.2.2",
    ],
)
def test_what_is_no_single_address_is_refused(text):
    with pytest.raises(ValueError, match="does not appear to be"):
        parse_address(text)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2001:db8::1%1", "::ffff:192.0.2.1%1"])
def test_an_address_with_a_zone_is_refused(text):
    with pytest.raises(ValueError, match="has a zone"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("192.0.2.1", None),
        ("2001:db8::1", None),
        ("::192.0.2.1", None),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("64:ff9b:1::192.0.2.1", None),
        ("64:ff9b::1:0:0", None),
        ("2002:c000:201::", "192.0.2.1"),
        ("2002:c000:201:ffff:ffff:ffff:ffff:ffff", "192.0.2.1"),
        ("2003:c000:201::", None),
        ("2001:ffff:c000:201::", None),
    ],
)
def test_the_ipv4_address_inside_an_ipv6_address_is_found(text, inside):
    assert embedded_ipv4(ip_address(text)) == (inside and IPv4Address(inside))


@pytest.mark.parametrize(
    ("text", "brackets"),
    [("192.0.2.1", "[192.0.2.1]"), ("2001:db8:0::1", "[IPv6:2001:db8::1]")],
    ids=["v4", "v6"],
)
def test_an_address_literal_is_written_as_rfc_5321_has_it(text, brackets):
    assert literal(ip_address(text)) == brackets


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        (" 2001:db8::/32 ", "2001:db8::/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_a_network_is_read(text, network):
    assert parse_network(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("192.0.2.7/24", r"did you mean 192\.0\.2\.0/24\?"),
        ("2001:db8::1/32", r"did you mean 2001:db8::/32\?"),
        ("192.0.2.0/33", "33"),
        ("192.0.2", "192.0.2"),
        ("", "does not appear"),
        ("mail.example", "does not appear"),
        ("::ffff:192.0.2.0/120", "write it as an IPv4 network"),
        ("fe80::1%eth0", "has a zone"),
    ],
)
def test_what_is_no_network_is_told_with_what_would_be_right(text, told):
    with pytest.raises(ValueError, match=told):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "wide"),
    [("10.0.0.0/15", True), ("10.0.0.0/16", False), ("2001::/31", True), ("2001:db8::/32", False)],
)
def test_a_network_may_be_too_wide_to_be_meant(text, wide):
    assert is_wide(ip_network(text)) is wide
