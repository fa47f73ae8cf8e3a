"""How often somebody may ask, counted in the database for all web processes together."""

from datetime import timedelta

import pytest

from relaytest.store import allowances

HOUR = timedelta(hours=1)


async def test_so_many_are_within_the_allowance_and_no_more(connection):
    answers = [await allowances.use(connection, "x", 3, HOUR) for _ in range(6)]
    assert [answer is None for answer in answers] == [True] * 3 + [False] * 3
    assert len(set(answers[3:])) == 1
    left = answers[3] - await connection.fetchval("SELECT now()")
    assert timedelta(minutes=59) < left <= HOUR


async def test_another_key_has_an_allowance_of_its_own(connection):
    assert await allowances.use(connection, "x", 1, HOUR) is None
    assert await allowances.use(connection, "y", 1, HOUR) is None
    assert await allowances.use(connection, "x", 1, HOUR) is not None


async def test_a_window_that_is_over_begins_anew(connection):
    for _ in range(9):
        await allowances.use(connection, "x", 2, HOUR)
    await connection.execute("UPDATE relaytest.allowance SET ends_at = now() - interval '1 s'")
    answers = [await allowances.use(connection, "x", 2, HOUR) for _ in range(3)]
    assert [answer is None for answer in answers] == [True, True, False]


@pytest.mark.parametrize(("ends", "left"), [("1 s", 1), ("-1 s", 0)])
async def test_only_what_is_over_is_forgotten(connection, ends, left):
    await allowances.use(connection, "x", 1, HOUR)
    await connection.execute(
        "UPDATE relaytest.allowance SET ends_at = now() + $1::text::interval", ends
    )
    await allowances.forget(connection)
    assert await connection.fetchval("SELECT count(*) FROM relaytest.allowance") == left
