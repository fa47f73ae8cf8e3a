"""The database refuses what core.target refuses: the same rows for both."""

from datetime import timedelta
from ipaddress import ip_address, ip_network

import asyncpg
import pytest

from relaytest.core.target import SPECIAL, Scope, refusal
from relaytest.store import jobs
from relaytest.store.scope import REFUSAL, write_limits, write_scope

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


async def limits(connection) -> dict[str, int | None]:
    rows = await connection.fetch("SELECT network, at_once FROM relaytest.network_limit")
    return {str(row["network"]): row["at_once"] for row in rows}


async def test_a_lab_has_no_limit_and_the_operators_word_stays(connection):
    await connection.execute(
        "INSERT INTO relaytest.network_limit (network, at_once, why)"
        " VALUES ('10.1.0.0/16', 2, 'fragile')"
    )
    lab = Scope(allow=(ip_network("10.1.0.0/16"), ip_network("10.2.0.7/32")), deny=())
    async with connection.transaction():
        await write_scope(connection, lab)
    found = await limits(connection)
    assert (found["10.1.0.0/16"], found["10.2.0.7/32"]) == (2, None)
    async with connection.transaction():
        await write_scope(connection, Scope(allow=(), deny=()))
    found = await limits(connection)
    assert found["10.1.0.0/16"] == 2
    assert "10.2.0.7/32" not in found


async def test_one_lab_host_makes_its_network_a_lab(connection):
    lab = Scope(allow=(ip_network("10.2.0.7/32"), ip_network("10.2.0.8/29")), deny=())
    async with connection.transaction():
        await write_scope(connection, lab)
    worker = await jobs.join_workers(
        connection, host="h", pid=1, vantage="default", version="1", slots=9
    )
    for number in range(7, 16):
        await jobs.enqueue(connection, jobs.Request(f"10.2.0.{number}", "operator"))
    assert len(await jobs.claim(connection, worker, 20, timedelta(minutes=1))) == 9


async def test_the_configured_limits_are_written(connection):
    await write_limits(connection, 7, timedelta(seconds=3), [timedelta(hours=1)])
    rows = await connection.fetch(
        "SELECT at_once, gap FROM relaytest.network_limit WHERE why = 'politeness'"
    )
    assert [tuple(row) for row in rows] == [(7, timedelta(seconds=3))] * 2
    pace = await connection.fetchval("SELECT request_every FROM relaytest.pace")
    assert pace == [timedelta(hours=1)]
