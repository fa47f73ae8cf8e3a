"""Samples from the moment they come in until their sender is tested, or nobody is."""

from datetime import timedelta
from ipaddress import ip_address

import pytest

from relaytest.core.errors import RefusedRequestError
from relaytest.daemons.nominating import SampleDesk
from relaytest.store import nominations
from relaytest.store.nominations import Submission
from tests.lab import lab_config

OURS = {"samples": {"trusted": ["198.51.100.0/24"]}}
INSIDE = b"Received: from a (a [198.51.100.9]) by mx with ESMTP; x\r\n"
SPAM = INSIDE + b"Received: from b (b [192.0.2.7]) by mx2 with ESMTP; x\r\nSubject: buy\r\n\r\nBuy!"


@pytest.fixture
def desk(database, tmp_path) -> SampleDesk:
    return SampleDesk(lab_config(tmp_path, scope={"allow": ["192.0.2.0/24"]}, **OURS), database)


async def submitted(connection, sample=SPAM, address=None) -> int:
    one = ip_address(address) if address else None
    return await nominations.submit(connection, Submission(sample, False, one, 25, "a trap"))


async def outcome(connection, number: int) -> str:
    row = await nominations.outcome_of(connection, number)
    assert row["done_at"] is not None
    return row["outcome"]


async def test_who_sent_it_from_outside_is_tested_with_the_sample_on_file(desk, connection):
    number = await submitted(connection)
    assert await desk.read() > timedelta(seconds=1)
    assert await outcome(connection, number) == "192.0.2.7: sample 1 on file; job 1"
    row = await connection.fetchrow("SELECT target, reason, note, requester FROM relaytest.retest")
    assert tuple(row) == ("192.0.2.7", "nominated", "sample 1", "a trap")
    row = await connection.fetchrow("SELECT host(address), sample, tool FROM relaytest.nomination")
    assert tuple(row) == ("192.0.2.7", SPAM, "a trap")
    assert await connection.fetchval("SELECT sample FROM relaytest.submission") is None


async def test_an_address_that_is_given_counts_more(desk, connection):
    await submitted(connection, address="192.0.2.9")
    await desk.read()
    assert await connection.fetchval("SELECT target FROM relaytest.retest") == "192.0.2.9"


@pytest.mark.parametrize(
    ("sample", "address", "why"),
    [
        (INSIDE + b"\r\nBuy!", None, "nobody was nominated: all its 1 Received lines name hosts"),
        (b"Subject: x\r\n\r\nBuy!", None, "nobody was nominated: it has no Received line"),
        (b"Buy!", "192.0.2.9", "no mail message: it must begin with a header field"),
        (SPAM, "10.0.0.1", "nobody was nominated: target 10.0.0.1 is out of scope"),
    ],
)
async def test_what_names_nobody_is_told_so_and_leaves_nothing(
    desk, connection, sample, address, why
):
    number = await submitted(connection, sample, address)
    await desk.read()
    assert (await outcome(connection, number)).startswith(why)
    assert await connection.fetchval("SELECT count(*) FROM relaytest.nomination") == 0
    assert await connection.fetchval("SELECT count(*) FROM relaytest.job") == 0


async def test_a_bad_sample_keeps_no_other_waiting(desk, connection):
    numbers = [await submitted(connection, sample) for sample in (b"Buy!", SPAM, b"x", SPAM)]
    await desk.read()
    assert [(await outcome(connection, number))[:9] for number in numbers] == [
        "no mail m",
        "192.0.2.7",
        "no mail m",
        "192.0.2.7",
    ]


async def test_other_tools_submit_by_sql_under_their_role(desk, connection):
    await connection.execute("CREATE ROLE relaytest_trap_8 IN ROLE relaytest_submit")
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL SESSION AUTHORIZATION relaytest_trap_8")
            number = await connection.fetchval(
                "INSERT INTO relaytest.submission (sample) VALUES ($1) RETURNING id", SPAM
            )
        await desk.read()
        assert "sample 1 on file" in await outcome(connection, number)
        assert await connection.fetchval("SELECT tool FROM relaytest.nomination") == (
            "relaytest_trap_8"
        )
    finally:
        await connection.execute("REASSIGN OWNED BY relaytest_trap_8 TO CURRENT_USER")
        await connection.execute("DROP ROLE relaytest_trap_8")


async def test_too_many_that_wait_are_refused(connection):
    await connection.execute(
        "INSERT INTO relaytest.submission (sample) SELECT 'x' FROM generate_series(1, 10000)"
    )
    with pytest.raises(RefusedRequestError, match="10000 samples wait"):
        await submitted(connection)


async def test_what_is_done_is_forgotten_in_time(desk, connection):
    await submitted(connection)
    await desk.read()
    await nominations.forget(connection, timedelta(days=1))
    assert await connection.fetchval("SELECT count(*) FROM relaytest.submission") == 1
    await nominations.forget(connection, timedelta(0))
    assert await connection.fetchval("SELECT count(*) FROM relaytest.submission") == 0
