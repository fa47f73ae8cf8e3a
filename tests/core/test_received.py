"""Received lines as servers write them, and as forgers do."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.received import MAX_HEADER, MAX_HOPS, hops_of

A, B, V6 = ip_address("192.0.2.1"), ip_address("198.51.100.9"), ip_address("2001:db8::1")
LINES = {
    "Postfix": (
        b"from probe.example (unknown [192.0.2.1])\r\n\tby mx.shop.example (Postfix) with ESMTP id"
        b"\r\n\tfor <x@sink.example>; Tue, 24 Nov 2026 02:10:15 +0000 (UTC)",
        {A},
        {"probe.example", "mx.shop.example", "sink.example"},
    ),
    "Exim": (
        b"from [192.0.2.1] (helo=probe.example) by mx.shop.example with esmtp (Exim 4.96)",
        {A},
        {"probe.example", "mx.shop.example"},
    ),
    "sendmail over IPv6": (
        b"from probe (host.example [IPv6:2001:db8::1]) by mx (8.17.1/8.17.1) with ESMTP id 2AO",
        {V6},
        {"host.example"},
    ),
    "qmail": (
        b"from unknown (HELO probe.example) (192.0.2.1)\n  by mx.shop.example with SMTP; 24 Nov",
        {A},
        {"probe.example", "mx.shop.example"},
    ),
    "Exchange": (
        b"from HUB.corp.example (198.51.100.9) by EDGE.corp.example (192.0.2.1) with Microsoft",
        {A, B},
        {"hub.corp.example", "edge.corp.example"},
    ),
}


def message(*lines: bytes) -> bytes:
    return b"".join(b"Received: %b\r\n" % line for line in lines) + b"Subject: x\r\n\r\nBody\r\n"


@pytest.mark.parametrize(("line", "addresses", "names"), LINES.values(), ids=LINES)
def test_addresses_and_names_are_found_in_every_fashion(line, addresses, names):
    (hop,) = hops_of(message(line))
    assert hop.addresses == addresses
    assert names <= hop.names
    assert "\n" not in hop.text


def test_the_last_server_comes_first():
    hops = hops_of(message(b"by c.example", b"by b.example", b"by a.example"))
    assert [sorted(hop.names) for hop in hops] == [["c.example"], ["b.example"], ["a.example"]]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_what_stands_in_the_body_is_no_hop(end):
    assert hops_of(b"Subject: x" + end * 2 + b"Received: from a ([192.0.2.1]) by b" + end) == ()


def test_a_name_is_whole():
    (hop,) = hops_of(message(b"from notmx.shop.example by x"))
    assert "mx.shop.example" not in hop.names


def test_there_is_an_end_to_hops_and_to_the_header():
    assert len(hops_of(message(*[b"by a.example"] * (2 * MAX_HOPS)))) == MAX_HOPS
    late = b"X-Filler: %b\r\n" % (b"x" * MAX_HEADER)
    assert hops_of(late + message(b"by a.example")) == ()


@given(st.binary(max_size=600) | st.binary(max_size=300).map(message))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_nothing_that_comes_breaks_it(octets):
    for hop in hops_of(octets):
        assert hop.text == " ".join(hop.text.split())
        assert all("." in name for name in hop.names)
