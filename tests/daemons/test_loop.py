"""Loops: they work, wait, end at once when that is wished, and outlast the database."""

import asyncio
from datetime import timedelta

import pytest

from relaytest.core.errors import DatabaseAwayError
from relaytest.daemons import loop
from relaytest.daemons.loop import Stop, forever, once_there, wait_or_stop
from relaytest.store.database import Bell
from tests.daemons.peers import seen
from tests.lab import until

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(loop, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(loop, "_LONGEST_PAUSE", 0.004)


class Work:
    """Work that fails as told, and then wishes the stop.

    Attributes:
        done: How often it was begun.
    """

    def __init__(self, stop: Stop, *failures: Exception | None, pause=timedelta(0)) -> None:
        self.done = 0
        self._stop, self._failures, self._pause = stop, failures, pause

    async def __call__(self) -> timedelta:
        self.done += 1
        if self.done > len(self._failures):
            self._stop.set()
        elif failure := self._failures[self.done - 1]:
            raise failure
        return self._pause


async def in_time(waiting) -> None:
    """Fail, not hang, if it does not end."""
    async with asyncio.timeout(20):
        await waiting


# --- forever


@pytest.mark.parametrize(
    "failure",
    [DatabaseAwayError("gone"), ValueError("a bug"), TimeoutError("late"), OSError("disk")],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_loop_goes_on_after_a_failure(failure):
    stop = Stop()
    work = Work(stop, failure, failure, failure)
    await in_time(forever("test", work, Bell(), stop))
    assert work.done == 4


async def test_a_loop_goes_on_after_several_errors_at_once():
    stop = Stop()
    work = Work(stop, ExceptionGroup("two", [ValueError(), DatabaseAwayError()]))
    await in_time(forever("test", work, Bell(), stop))
    assert work.done == 2


async def test_a_database_is_logged_when_it_goes_and_when_it_comes_back(logged):
    stop, away = Stop(), DatabaseAwayError("gone")
    await in_time(forever("test", Work(stop, away, away, away, None, away, None), Bell(), stop))
    assert [one["event"] for one in logged] == [
        "database is away",
        "database is back",
        "database is away",
        "database is back",
    ]


async def test_a_deaf_bell_is_logged_after_a_while_and_when_it_hears_again(logged, monkeypatch):
    stop, bell, turns = Stop(), Bell(), iter(range(4))
    clock = iter([100.0, 101.0, 110.0, 120.0])

    async def work() -> timedelta:
        if (turn := next(turns)) == 2:
            bell.hears(well=True)
        elif turn == 3:
            stop.set()
        return timedelta(0)

    bell.hears(well=False)
    monkeypatch.setattr(bell, "deaf_since", 100.0)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock, 130.0))
    monkeypatch.setattr(bell, "wait", lambda _: asyncio.sleep(0))
    await forever("test", work, bell, stop)
    assert [one["event"] for one in logged] == [
        "no notification from the database; looking every second",
        "notified by the database again",
    ]


async def test_the_pauses_of_an_absence_grow_and_are_bounded(monkeypatch):
    stop, away, pauses = Stop(), DatabaseAwayError("gone"), []

    async def wait(_bell: Bell, longest: timedelta) -> None:
        pauses.append(longest.total_seconds())

    monkeypatch.setattr(Bell, "wait", wait)
    await in_time(forever("test", Work(stop, away, away, away, away), Bell(), stop))
    assert pauses[:4] == [0.001, 0.002, 0.004, 0.004]


async def test_every_bug_is_logged_with_its_traceback(logged):
    stop = Stop()
    await in_time(forever("test", Work(stop, ValueError("a bug"), ValueError("b")), Bell(), stop))
    assert [(one["log_level"], one["exc_info"]) for one in logged] == [("error", True)] * 2


async def test_the_bell_wakes_a_waiting_loop():
    stop, bell = Stop(), Bell()
    work = Work(stop, None, None, pause=HOUR)

    async def ring() -> None:
        while not stop.wished:
            bell.ring()
            await asyncio.sleep(0.001)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(forever("test", work, bell, stop))
        group.create_task(ring())
    assert work.done == 3


async def test_a_bell_that_rang_during_the_work_is_not_lost():
    stop, bell = Stop(), Bell()
    rounds = []

    async def work() -> timedelta:
        rounds.append(1)
        if len(rounds) == 1:
            bell.ring()
        else:
            stop.set()
        return HOUR

    await in_time(forever("test", work, bell, stop))
    assert len(rounds) == 2


async def test_a_waiting_loop_stops_at_once():
    stop = Stop()
    work = Work(stop, None, None, pause=HOUR)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(forever("test", work, Bell(), stop))
        await until(lambda: seen(work.done), "the first round")
        stop.set()
    assert work.done == 1


async def test_work_is_not_begun_when_the_stop_was_wished_before():
    stop = Stop()
    stop.set()
    work = Work(stop)
    await in_time(forever("test", work, Bell(), stop))
    assert work.done == 0


async def test_a_piece_of_work_is_finished_before_the_loop_stops():
    stop, begun, ended = Stop(), asyncio.Event(), []

    async def work() -> timedelta:
        begun.set()
        await asyncio.sleep(0.01)
        ended.append(1)
        return HOUR

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(forever("test", work, Bell(), stop))
        await begun.wait()
        stop.set()
    assert ended == [1]


async def test_a_cancelled_loop_ends():
    task = asyncio.ensure_future(forever("test", Work(Stop(), None, pause=HOUR), Bell(), Stop()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- Stop


async def test_a_stop_is_wished_once_and_calls_once():
    stop, calls = Stop(), []
    with stop.calling(lambda: calls.append(1)):
        stop.set()
        stop.set()
    await in_time(stop.wait())
    assert (stop.wished, calls) == (True, [1])


async def test_a_stop_calls_nobody_who_has_left():
    stop, calls = Stop(), []
    with stop.calling(lambda: calls.append(1)):
        pass
    stop.set()
    assert calls == []


# --- wait_or_stop


async def test_waiting_passes_errors_on():
    async def fail() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await wait_or_stop(fail(), Stop())


async def test_waiting_passes_a_time_out_of_what_is_awaited_on():
    async def fail() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        await wait_or_stop(fail(), Stop())


async def test_waiting_ends_when_what_is_awaited_ends():
    await in_time(wait_or_stop(asyncio.sleep(0), Stop()))


async def test_waiting_ends_early_when_the_stop_is_wished():
    stop = Stop()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        waiting = group.create_task(wait_or_stop(asyncio.sleep(3600), stop))
        await asyncio.sleep(0)
        assert not waiting.done()
        stop.set()


async def test_waiting_ends_at_once_when_the_stop_was_wished_before():
    stop = Stop()
    stop.set()
    await in_time(wait_or_stop(asyncio.sleep(3600), stop))


async def test_what_is_awaited_is_cancelled_by_the_stop():
    stop, ended = Stop(), []

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(1)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(wait_or_stop(wait(), stop))
        await asyncio.sleep(0)
        stop.set()
    assert ended == [1]


async def test_waiting_is_no_shield_against_being_cancelled():
    task = asyncio.ensure_future(wait_or_stop(asyncio.sleep(3600), Stop()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- once_there


async def one(connection) -> int:
    return await connection.fetchval("SELECT 1")


async def test_once_there_returns_what_the_work_returns(database):
    assert await once_there("test", database, one, Stop()) == 1


async def test_once_there_commits(database, connection):
    async def work(inside) -> None:
        await inside.execute("INSERT INTO relaytest.sink_check DEFAULT VALUES")

    await once_there("test", database, work, Stop())
    assert await connection.fetchval("SELECT count(*) FROM relaytest.sink_check") == 1


async def test_once_there_waits_until_the_database_is_back(road, shaky, logged):
    await road.cut()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        waiting = group.create_task(once_there("test", shaky, one, Stop()))
        await until(lambda: seen(logged), "a look at the database")
        await road.mend()
        assert await waiting == 1


async def test_once_there_gives_up_when_the_stop_is_wished(nowhere):
    stop = Stop()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        waiting = group.create_task(once_there("test", nowhere, one, stop))
        await asyncio.sleep(0.01)
        stop.set()
        assert await waiting is None


async def test_once_there_does_nothing_when_the_stop_was_wished_before(database):
    stop = Stop()
    stop.set()
    assert await once_there("test", database, one, stop) is None


async def test_once_there_passes_errors_of_the_work_on(database):
    async def work(_connection) -> None:
        raise ValueError("a bug")

    async with asyncio.timeout(2):
        with pytest.raises(ValueError, match="a bug"):
            await once_there("test", database, work, Stop())
