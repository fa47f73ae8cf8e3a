"""What DNS servers are given: addresses, records, the names above them; as long as it takes."""

from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.core.target import Address
from relaytest.core.zone import query_name
from relaytest.store import exports

ENTER = """
    WITH t AS (INSERT INTO relaytest.trial (id, job, address, port, reason, requester)
               SELECT coalesce(max(id), 0) + 1, 1, $1, 25, 'operator', 'x' FROM relaytest.trial
               RETURNING id)
    INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at)
    SELECT $1, 25, 'listed', t.id, now(), now() + interval '1 day' FROM t
"""
SLOW = "SELECT pg_sleep(0.3) FROM generate_series(1, 3)"


async def enter(connection: asyncpg.Connection, address: Address) -> None:
    await connection.execute(ENTER, address)


EDGES = {
    4: "1.0.0.0 1.2.3.4 1.2.3.5 1.2.4.4 128.0.0.1 223.255.255.255",
    6: "2001:db8:: 2001:db8::1 2001:db8::10 2001:db8:0:1:: 2a00:ffff::9 2a0f::9 3fff:ffff::ffff",
}


@pytest.mark.parametrize("version", EDGES)
async def test_each_name_above_an_entry_is_exported_once(connection, version):
    addresses = [ip_address(text) for text in EDGES[version].split()]
    for address in addresses:
        await enter(connection, address)
    parts: list[bytes] = []
    await exports.names_above(connection, version, parts.append, {2: ""}, " x")
    names = [query_name(address, "").rstrip(".") for address in addresses]
    above = {name.split(".", n)[n] for name in names for n in range(1, name.count(".") + 1)}
    lines = b"".join(parts).decode().splitlines()
    assert sorted(lines) == sorted(f"{name} x" for name in above)


@pytest.mark.parametrize("version", EDGES)
async def test_the_records_of_an_entry_are_two_lines(connection, version):
    addresses = [ip_address(text) for text in EDGES[version].split()]
    for address in addresses:
        await enter(connection, address)
    parts: list[bytes] = []
    count = await exports.records(connection, version, parts.append, {2: "see "})
    wanted = "".join(
        f'{name} A 127.0.0.2\n{name} TXT "see {address}"\n'
        for address in addresses
        for name in [query_name(address, "").rstrip(".")]
    )
    assert (count, b"".join(parts).decode()) == (len(addresses), wanted)


async def test_the_export_is_sorted_by_address_and_by_version(connection):
    for text in ("192.0.2.10", "192.0.2.9", "2001:db8::2", "2001:db8::1"):
        await enter(connection, ip_address(text))
    parts: list[bytes] = []
    assert await exports.addresses(connection, 4, parts.append, {2: ""}) == 2
    assert await exports.addresses(connection, 6, parts.append, {2: ""}) == 2
    assert b"".join(parts) == b"192.0.2.9\n192.0.2.10\n2001:db8::1\n2001:db8::2\n"


async def test_of_several_codes_the_others_say_what_they_are(connection):
    for number in (1, 2, 3):
        await enter(connection, ip_address(f"192.0.2.{number}"))
    await connection.execute(
        "UPDATE relaytest.listing SET code = 3, port = 0 WHERE address = '192.0.2.2';"
        "INSERT INTO relaytest.listing (address, port, code, state, trial, listed_at, expires_at)"
        " SELECT address, 0, 3, state, trial, listed_at, expires_at FROM relaytest.listing"
        " WHERE address = '192.0.2.3'"
    )
    parts: list[bytes] = []
    texts = {2: "Relay: ", 3: "Exit: "}
    assert await exports.addresses(connection, 4, parts.append, texts) == 3
    assert b"".join(parts) == b"192.0.2.1\n192.0.2.2 :3:Exit: $\n192.0.2.3\n"
    parts.clear()
    assert await exports.records(connection, 4, parts.append, texts) == 3
    assert b'2.2.0.192 A 127.0.0.3\n2.2.0.192 TXT "Exit: 192.0.2.2"\n' in b"".join(parts)
    assert b"3.2.0.192 A 127.0.0.2\n" in b"".join(parts)


async def test_an_export_may_take_longer_than_a_short_statement(dsn):
    connection = await asyncpg.connect(dsn, command_timeout=0.5)
    assert await exports._stream(connection, SLOW, write=lambda _: None) == 3
    await connection.close()


async def test_an_export_of_which_nothing_comes_ends(dsn, monkeypatch):
    monkeypatch.setattr(exports, "_SILENCE", 0.1)
    connection = await asyncpg.connect(dsn)
    with pytest.raises(TimeoutError):
        await exports._stream(connection, SLOW, write=lambda _: None)
    connection.terminate()
