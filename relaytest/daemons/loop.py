"""What every daemon's loop does: work, wait, and outlast a database that is away."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from relaytest.core.errors import DatabaseAwayError
from relaytest.store.database import Bell, Connection, Database

_FIRST_PAUSE = 0.2  # seconds after the first failure; doubled up to the longest
_LONGEST_PAUSE = 5.0
T = TypeVar("T")


class Stop:
    """The wish that the program ends; loops look at it between two pieces of work."""

    def __init__(self) -> None:
        self._wished = asyncio.Event()
        self._calls: set[Callable[[], object]] = set()

    def set(self) -> None:
        """Wish it."""
        if not self._wished.is_set():
            self._wished.set()
            for call in tuple(self._calls):
                call()

    @property
    def wished(self) -> bool:
        """Whether it was wished."""
        return self._wished.is_set()

    async def wait(self) -> None:
        """Wait for the wish."""
        await self._wished.wait()

    @contextlib.contextmanager
    def calling(self, call: Callable[[], object]) -> Iterator[None]:
        """Call `call` if it is wished while the block runs."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)


async def forever(
    name: str,
    work: Callable[[], Awaitable[timedelta]],
    bell: Bell,
    stop: Stop,
) -> None:
    """Do `work` again and again; between, wait as long as it says or until the bell rings.

    A database that is away is waited for, with growing pauses; it is logged when it goes and
    when it comes back, not each time.
    """
    log = structlog.get_logger(name)
    pause = 0.0
    while not stop.wished:
        try:
            longest = await work()
        except DatabaseAwayError as error:
            if not pause:
                log.warning("database is away", error=str(error))
            pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, pause * 2))
            longest = timedelta(seconds=pause)
        except Exception:  # a bug; one of our loops less would be worse than a late one
            log.exception("failed; it is tried again")
            longest = timedelta(seconds=_LONGEST_PAUSE)
        else:
            if pause:
                log.info("database is back")
            pause = 0.0
        await wait_or_stop(bell.wait(longest), stop)


async def once_there(
    name: str, database: Database, work: Callable[[Connection], Awaitable[T]], stop: Stop
) -> T | None:
    """Do `work` in one transaction, waiting for the database as long as it is away.

    Returns:
        What `work` returned; None if the stop was wished before.
    """
    results: list[T] = []
    done = Stop()

    async def once() -> timedelta:
        async with database.transaction() as connection:
            result = await work(connection)
        results.append(result)
        done.set()
        return timedelta(0)

    async def until_done() -> None:
        await forever(name, once, Bell(), done)

    await wait_or_stop(until_done(), stop)
    return results[0] if results else None


async def wait_or_stop(waiting: Coroutine[Any, Any, None], stop: Stop) -> None:
    """Await `waiting`, but no longer than until the stop is wished."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(0 if stop.wished else None) as limit:
            with stop.calling(lambda: limit.reschedule(loop.time())):
                await waiting
    except TimeoutError:
        if not limit.expired():
            raise
