"""Who is thought dead, and who stops in time not to be the second at a target."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from relaytest.daemons.pulse import CutOffError, Lifeline, Watch

BEAT = datetime(2026, 1, 1, tzinfo=UTC)
SILENCE = timedelta(seconds=20)


def watched(*looks: tuple[float, dict[int, int]]) -> list[list[int]]:
    """Look at some moments at beats, which are told by their number."""
    watch = Watch(SILENCE)
    beats = ({one: BEAT + timedelta(hours=beat) for one, beat in all_.items()} for _, all_ in looks)
    return [watch.silent(seen, now) for (now, _), seen in zip(looks, beats, strict=True)]


def test_who_beats_lives():
    assert watched(*((now, {1: now}) for now in range(0, 60, 5))) == [[]] * 12


def test_who_is_silent_is_dead_after_a_while():
    silent = watched(*((now, {1: 0, 2: now}) for now in range(0, 35, 5)))
    assert silent == [[], [], [], [], [], [1], [1]]


def test_a_beat_of_the_past_is_a_beat():
    """The database's clock was put back, or a standby with another clock took over."""
    assert watched(*((now, {1: -now}) for now in range(0, 60, 5))) == [[]] * 12


def test_what_we_did_not_see_is_held_against_nobody():
    looks = [(0, {1: 0}), (5, {1: 0}), (300, {1: 0}), (305, {1: 0}), (310, {1: 0}), (315, {1: 0})]
    assert watched(*looks) == [[]] * 6
    assert watched(*looks, (320, {1: 0}), (325, {1: 0}))[-2:] == [[], [1]]


def test_who_left_is_forgotten():
    looks = [(0, {1: 0}), (5, {}), (10, {1: 0}), (15, {1: 0}), (20, {1: 0}), (25, {1: 0})]
    assert watched(*looks) == [[]] * 6


async def hold(line: Lifeline, seconds: float) -> None:
    async with line.hold():
        await asyncio.sleep(seconds)


async def test_what_is_held_is_broken_off_when_beats_stay_away():
    line, loop = Lifeline(timedelta(milliseconds=30)), asyncio.get_running_loop()
    line.beat(loop.time())
    with pytest.raises(CutOffError):
        await hold(line, 10)
    assert line.cut
    with pytest.raises(CutOffError):
        await hold(line, 0)
    line.beat(loop.time())
    await hold(line, 0)
    line.end()


async def test_a_beat_counts_from_when_it_was_sent():
    line = Lifeline(timedelta(seconds=10))
    line.beat(asyncio.get_running_loop().time() - 11)
    with pytest.raises(CutOffError):
        await hold(line, 10)


async def test_beats_keep_it_going():
    line, loop = Lifeline(timedelta(seconds=2)), asyncio.get_running_loop()
    for _ in range(5):
        line.beat(loop.time())
        await hold(line, 0.001)
    assert not line.cut
    line.end()


async def test_a_limit_of_the_work_itself_is_its_own():
    line = Lifeline(timedelta(seconds=10))
    line.beat(asyncio.get_running_loop().time())

    async def work() -> None:
        async with line.hold(), asyncio.timeout(0.001):
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await work()
    line.end()
