"""Who asks, by what the connection and our own proxies say."""

from ipaddress import ip_address, ip_network

import pytest

from relaytest.core.website import client_of, one_client

OURS = [ip_network("127.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("11.0.0.1", "", "11.0.0.1"),
        ("11.0.0.1", "12.0.0.1", "11.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "12.0.0.1", "12.0.0.1"),
        ("127.0.0.1", "6.6.6.6, 12.0.0.1", "12.0.0.1"),
        ("127.0.0.1", "6.6.6.6, 12.0.0.1, fd00::1", "12.0.0.1"),
        ("127.0.0.1", "6.6.6.6, unknown", "127.0.0.1"),
        ("127.0.0.1", "12.0.0.1:4711", "127.0.0.1"),
        ("::ffff:127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("", "12.0.0.1", None),
        ("127.0.0.1", ", ".join(["127.0.0.2"] * 5000), "127.0.0.2"),
    ],
)
def test_only_our_own_proxies_are_believed(peer, forwarded, client):
    found = client_of(peer, forwarded, OURS)
    assert found == (ip_address(client) if client else None)


@pytest.mark.parametrize(
    ("address", "client"),
    [("11.0.0.1", "11.0.0.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), (None, "unknown")],
)
def test_an_ipv6_client_is_a_network(address, client):
    assert one_client(ip_address(address) if address else None) == client
