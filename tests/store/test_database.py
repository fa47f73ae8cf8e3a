"""The pool and the bell, with a server that goes away."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from relaytest.core.errors import ConfigError, DatabaseAwayError
from relaytest.store.database import Bell, open_database

LONG = timedelta(seconds=10)


async def test_a_transaction_commits_at_its_end(database, connection):
    async with database.transaction() as inside:
        await inside.execute(
            "INSERT INTO relaytest.retest (target, reason) VALUES ('192.0.2.1', 'operator')"
        )
    assert await connection.fetchval("SELECT count(*) FROM relaytest.job") == 1


async def test_a_transaction_rolls_back_on_an_error(database, connection):
    async def fail() -> None:
        async with database.transaction() as inside:
            await inside.execute("DELETE FROM relaytest.token_key")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.token_key") == 1


async def test_a_database_that_is_not_there_is_away_not_broken(tmp_path):
    async with open_database(
        f"postgresql://postgres@/x?host={tmp_path}", pool=2, longest=LONG, program="test"
    ) as database:
        with pytest.raises(DatabaseAwayError):
            async with database.transaction():
                pass


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("postgres@", "nobody-of-that-name@", "does not exist"),
        ("/test_", "/no_such_test_", "does not exist"),
    ],
)
async def test_a_database_that_does_not_let_us_in_is_away_and_says_why(dsn, old, new, told):
    other = dsn.replace(old, new)
    async with open_database(other, pool=1, longest=LONG, program="test") as database:
        with pytest.raises(DatabaseAwayError, match=told):
            async with database.transaction():
                pass


async def test_a_right_that_is_lacking_is_told_with_who_grants_it(database, connection):
    async def look() -> None:
        async with database.transaction() as one:
            await one.execute("SET LOCAL ROLE relaytest_read")
            await one.execute("SELECT * FROM relaytest.job")

    with pytest.raises(ConfigError, match=r"permission denied.*relaytest\.grant_roles"):
        await look()


async def test_a_killed_connection_is_away_once_and_then_works_again(database, connection):
    async def be_killed() -> None:
        async with database.transaction() as inside:
            pid = await inside.fetchval("SELECT pg_backend_pid()")
            await connection.execute("SELECT pg_terminate_backend($1)", pid)
            await inside.fetchval("SELECT pg_sleep(5)")

    with pytest.raises(DatabaseAwayError):
        await be_killed()
    async with database.transaction() as inside:
        assert await inside.fetchval("SELECT 1") == 1


async def test_errors_of_sql_are_not_taken_for_an_absence(database):
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.transaction() as inside:
            await inside.execute("SELECT * FROM nowhere")


async def test_the_bell_rings_once_when_listening_begins_and_for_every_notify(database, connection):
    bell = Bell()
    async with asyncio.TaskGroup() as group:
        ears = group.create_task(database.listen(["a_channel"], bell))
        await bell.wait(LONG)
        assert bell.deaf_since is None
        await connection.execute("NOTIFY a_channel")
        await asyncio.wait_for(bell.wait(LONG), 5)
        ears.cancel()


async def test_the_bell_rings_after_a_lost_connection_came_back(database, connection):
    bell = Bell()
    async with asyncio.TaskGroup() as group:
        ears = group.create_task(database.listen(["a_channel"], bell))
        await bell.wait(LONG)
        killed = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'test' AND datname = current_database()"
        )
        assert killed == 1
        await asyncio.wait_for(bell.wait(timedelta(minutes=1)), 15)
        assert bell.deaf_since is None
        ears.cancel()


async def test_waiting_for_a_silent_bell_ends_by_itself():
    await Bell().wait(timedelta(0))


async def test_a_ring_before_the_wait_is_not_lost():
    bell = Bell()
    bell.ring()
    await asyncio.wait_for(bell.wait(timedelta(minutes=1)), 5)
