"""Samples of spam: what may be stored."""

from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.core.nomination import LARGEST
from relaytest.store import nominations

A = ip_address("192.0.2.1")


async def add(connection, sample=b"Subject: x", tool="trap"):
    return await nominations.add(connection, A, sample, truncated=False, tool=tool)


async def test_a_sample_is_on_file_for_its_address_only(connection):
    assert not await nominations.on_file(connection, A)
    assert await add(connection) == 1
    assert await add(connection) == 2
    assert await nominations.on_file(connection, A)
    assert not await nominations.on_file(connection, ip_address("192.0.2.2"))


async def test_a_sample_keeps_its_octets_and_where_it_came_from(connection):
    await add(connection, b"Subject: \x00\xff\r\n", "trap 7")
    row = await connection.fetchrow("SELECT sample, tool, truncated FROM relaytest.nomination")
    assert tuple(row) == (b"Subject: \x00\xff\r\n", "trap 7", False)


@pytest.mark.parametrize(
    ("sample", "tool"), [(b"", "x"), (b"x" * (LARGEST + 1), "x"), (b"x", ""), (b"x", "x" * 201)]
)
async def test_samples_and_names_have_bounds(connection, sample, tool):
    with pytest.raises(asyncpg.CheckViolationError):
        await add(connection, sample, tool)


async def test_the_largest_sample_fits(connection):
    assert await add(connection, b"x" * LARGEST)


async def test_a_network_is_not_nominated(connection):
    with pytest.raises(asyncpg.CheckViolationError, match="nominated_is_a_host"):
        await connection.execute(
            "INSERT INTO relaytest.nomination (address, sample) VALUES ('192.0.2.0/24', 'x')"
        )
