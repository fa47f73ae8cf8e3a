"""What every daemon's loop does: work, wait, and outlast a database that is away."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from relaytest.core.errors import DatabaseAwayError, RelaytestError
from relaytest.daemons import metrics
from relaytest.store.database import Bell, Connection, Database

_FIRST_PAUSE = 0.2  # seconds after the first failure; doubled up to the longest
_LONGEST_PAUSE = 5.0
T = TypeVar("T")


class Stop:
    """The wish that the program ends; loops look at it between two pieces of work.

    Attributes:
        patience: Seconds that work under way may still take when it was wished.
        fault: Why it was wished, if not by a person.
    """

    def __init__(self) -> None:
        self._wished = asyncio.Event()
        self._calls: set[Callable[[], object]] = set()
        self._work: dict[object, float] = {}  # when each piece of work began, by the loop's clock
        self._begun: set[str] = set()
        self._news = asyncio.Event()  # somebody has begun
        self.patience = 0.0
        self.fault: RelaytestError | None = None

    def set(self, patience: float = 2.0, fault: RelaytestError | None = None) -> None:
        """Wish it."""
        if not self._wished.is_set():
            self.patience, self.fault = patience, fault
            self._wished.set()
            for call in tuple(self._calls):
                call()

    def begin(self, name: str) -> None:
        """Note that a daemon has done its first work, and serves."""
        self._begun.add(name)
        self._news.set()

    async def begun(self, count: int) -> None:
        """Wait until so many daemons have begun."""
        while len(self._begun) < count:
            self._news.clear()
            await self._news.wait()

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

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Note that a piece of work is done while the block runs."""
        piece = object()
        self._work[piece] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            del self._work[piece]

    def longest_work(self) -> float:
        """Return for how many seconds the oldest piece of work is being done."""
        now = asyncio.get_running_loop().time()
        return now - min(self._work.values(), default=now)


class _Absence:
    """Tells when the database goes and when it is back, and how long to wait meanwhile."""

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger(name)
        self._name = name
        self._pause = 0.0

    def goes_on(self, error: DatabaseAwayError) -> float:
        """Return the seconds to wait before the next attempt."""
        if not self._pause:
            self._log.warning("database is away", error=str(error))
            metrics.DATABASE_AWAY.labels(self._name).inc()
        self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, self._pause * 2))
        return self._pause

    def is_over(self) -> None:
        """The database has answered."""
        if self._pause:
            self._log.info("database is back")
        self._pause = 0.0


class _Hearing:
    """Tells when changes are no longer heard of, and when they are again."""

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger(name)
        self._name = name
        self._told = False

    def look(self, bell: Bell) -> None:
        """Look at a bell; a short while of silence is none."""
        since = bell.deaf_since
        metrics.LISTENING.labels(self._name).set(since is None)
        if self._told:
            if since is None:
                self._log.info("notified by the database again")
                self._told = False
        elif since is not None and asyncio.get_running_loop().time() - since > _LONGEST_PAUSE:
            self._log.warning("no notification from the database; looking every second")
            self._told = True


async def forever(
    name: str, work: Callable[[], Awaitable[timedelta]], bell: Bell, stop: Stop
) -> None:
    """Do `work` again and again; between, wait as long as it says or until the bell rings.

    A database that is away is waited for. Any other error is a bug: it is logged, and the work
    is tried again, for one of our loops less would be worse than a late one.
    """
    absence, hearing = _Absence(name), _Hearing(name)
    while not stop.wished:
        hearing.look(bell)
        try:
            with stop.working():
                longest = await work()
        except DatabaseAwayError as error:
            longest = timedelta(seconds=absence.goes_on(error))
        except Exception:  # noqa: BLE001 - see above
            structlog.get_logger(name).exception("failed; it is tried again")
            longest = timedelta(seconds=_LONGEST_PAUSE)
        else:
            absence.is_over()
        await wait_or_stop(bell.wait(longest), stop)


async def once_there(
    name: str, database: Database, work: Callable[[Connection], Awaitable[T]], stop: Stop
) -> T | None:
    """Do `work` in one transaction, waiting for the database as long as it is away.

    Errors of the work itself are passed on.

    Returns:
        What `work` returned; None if the stop was wished before.
    """
    absence = _Absence(name)
    while not stop.wished:
        try:
            async with database.transaction() as connection:
                result = await work(connection)
        except DatabaseAwayError as error:
            await wait_or_stop(asyncio.sleep(absence.goes_on(error)), stop)
        else:
            absence.is_over()
            return result
    return None


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
