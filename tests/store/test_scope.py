"""The database refuses what core.target refuses: the same rows for both."""

from ipaddress import ip_address, ip_network

import asyncpg
import pytest

from relaytest.core.target import SPECIAL, Scope, refusal
from relaytest.store.scope import REFUSAL, write_scope

LAB = Scope(allow=(ip_network("127.66.0.0/16"),), deny=(ip_network("11.0.0.0/8"),))
LISTED = """
    10.0.0.1 100.64.0.1 127.0.0.1 127.66.0.1 169.254.1.1 172.31.0.1 192.0.0.8 192.0.2.7
    192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.9 224.0.0.1 255.255.255.255
    0.0.0.0 8.8.8.8 11.2.3.4 192.0.1.255 223.255.255.255 1.1.1.1
    :: ::1 ff02::1 fe80::1 fc00::1 2001:db8::1 3fff::1 5f00::1 2001::1 2606:4700::1111
    ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:127.66.0.1 64:ff9b::7f00:1 64:ff9b::808:808
    2002:7f00:1:: 2002:808:808::1 2002:b00:1:: 64:ff9b:1::1 ::ffff:7f42:1 64:ff9b::7f42:1
"""
ADDRESSES = [
    *LISTED.split(),
    *[str(network[0]) for network, _ in SPECIAL],
    *[str(network[-1]) for network, _ in SPECIAL],
]


@pytest.fixture
async def judged(connection: asyncpg.Connection):
    async with connection.transaction():
        await write_scope(connection, LAB)
    return connection


async def test_the_database_judges_every_address_as_the_program_does(judged):
    for text in ADDRESSES:
        address = ip_address(text)
        assert (text, await judged.fetchval(REFUSAL, address)) == (text, refusal(address, LAB))


async def test_rules_that_are_no_longer_configured_go(judged):
    async with judged.transaction():
        await write_scope(judged, Scope())
    rows = await judged.fetch("SELECT DISTINCT rule FROM relaytest.scope_network")
    assert [row["rule"] for row in rows] == ["special"]
    assert await judged.fetchval(REFUSAL, ip_address("127.66.0.1")) == "loopback (RFC 1122)"
