"""The connection to PostgreSQL: a pool, transactions, and NOTIFY as a bell.

A notification is a hint, the table is the truth: every waiting loop also looks by itself from
time to time, and looks at once after each reconnect, since what was said meanwhile is lost.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta

import asyncpg

from relaytest.core.errors import DatabaseAwayError
from relaytest.store.connecting import AWAY, Door, config_fault

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

_BEAT = 10.0  # seconds between looks whether the listening connection still lives
_LONGEST_PAUSE = 5.0  # seconds between attempts to listen again
_DEAF = timedelta(seconds=1)  # between looks by oneself while nobody can ring


class Bell:
    """Rings when somebody said NOTIFY, and after each reconnect.

    Attributes:
        deaf_since: Time of the loop since when it could not ring; None: it can, or never should.
    """

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.deaf_since: float | None = None

    def ring(self) -> None:
        """Wake the waiter, now or when it next waits."""
        self._rung.set()

    def hears(self, *, well: bool) -> None:
        """Note whether NOTIFY can be heard; ring if it can again, for one may have been missed."""
        if well:
            self.deaf_since = None
            self.ring()
        elif self.deaf_since is None:
            self.deaf_since = asyncio.get_running_loop().time()

    async def wait(self, longest: timedelta) -> None:
        """Wait for the bell, but no longer than `longest`, and not for long while it is deaf."""
        if self.deaf_since is not None:
            longest = min(longest, _DEAF)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await self._rung.wait()
        self._rung.clear()


class Database:
    """One PostgreSQL, by a pool of connections, and a way to hear its NOTIFY if there is one."""

    def __init__(self, pool: asyncpg.Pool, ears: Door | None) -> None:
        self._pool = pool
        self._ears = ears

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Give a connection for one statement that only reads: two round trips less.

        Raises:
            DatabaseAwayError: The database does not answer.
            ConfigError: There is a pooler that we were not told of.
        """
        with away_is_temporary():
            async with self._pool.acquire() as connection:
                try:
                    yield connection
                except (*AWAY, asyncio.CancelledError):
                    with contextlib.suppress(asyncpg.InterfaceError):  # it is gone already
                        connection.terminate()
                    raise

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Give a connection inside a transaction; commit at the end, roll back on an error.

        Raises:
            DatabaseAwayError: The database does not answer; nothing was committed, or it is
                unknown whether it was (only when the connection broke during COMMIT).
            ConfigError: There is a pooler that we were not told of.
        """
        with away_is_temporary():
            async with self._pool.acquire() as connection:
                transaction = connection.transaction()
                try:
                    await transaction.start()
                    yield connection
                    await transaction.commit()
                except (*AWAY, asyncio.CancelledError) as error:
                    # No farewell: a frozen server would not answer it. And whoever has become
                    # a standby, or has no disk left, may be the wrong one by now.
                    with contextlib.suppress(asyncpg.InterfaceError):  # it is gone already
                        connection.terminate()
                    if not isinstance(error, TimeoutError | asyncio.CancelledError):
                        await self._pool.expire_connections()
                    raise
                except BaseException:
                    await transaction.rollback()
                    raise

    async def listen(self, channels: Iterable[str], bell: Bell) -> None:
        """Ring `bell` for every NOTIFY on `channels`; reconnect for ever. Never returns."""
        bell.hears(well=False)
        if self._ears is None:
            await asyncio.Event().wait()
        pause = 0.1
        while True:
            try:
                await self._listen_once(tuple(channels), bell)
            except AWAY:
                pause = min(_LONGEST_PAUSE, pause * 2)
            else:
                pause = 0.1
            # The loops of many hosts should not come back all at the same moment.
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    async def _listen_once(self, channels: tuple[str, ...], bell: Bell) -> None:
        """Listen until the connection is lost."""
        assert self._ears is not None
        connection = await self._ears.open()
        try:
            for channel in channels:
                await connection.add_listener(channel, lambda *_: bell.ring())
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            bell.hears(well=True)
            while not lost.is_set():
                # A connection that is only half there shows when it is used.
                await connection.execute("SELECT 1", timeout=_BEAT)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT):
                        await lost.wait()
        finally:
            bell.hears(well=False)
            connection.terminate()


@contextlib.contextmanager
def away_is_temporary() -> Iterator[None]:
    """Turn every way of not reaching the database into DatabaseAwayError."""
    try:
        yield
    except AWAY as error:
        raise DatabaseAwayError(str(error) or type(error).__name__) from error
    except asyncpg.PostgresError as error:
        if fault := config_fault(error):
            raise fault from None
        raise


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """We change nothing in a session, so nothing is to be reset: a round trip less."""


@contextlib.asynccontextmanager
async def open_database(
    dsn: str,
    *,
    pool: int,
    longest: timedelta,
    program: str,
    pooled: bool = False,
    listen_dsn: str = "",
) -> AsyncIterator[Database]:
    """Open a pool; connections are made when they are needed, so the database may be away.

    Args:
        dsn: As libpq takes it; of several hosts, that one is used which takes writes.
        pool: Most connections.
        longest: Time for one statement, and for making a connection.
        program: application_name, to be seen in pg_stat_activity.
        pooled: The DSN leads to a pooler of transactions; it cannot hand on NOTIFY.
        listen_dsn: PostgreSQL itself, to hear NOTIFY.
    """
    door = Door(dsn, program, longest.total_seconds(), pooled)
    ears = Door(listen_dsn or dsn, program, longest.total_seconds())
    made = await asyncpg.create_pool(
        dsn, min_size=0, max_size=pool, connect=door.open, reset=_leave_as_it_is
    )
    try:
        yield Database(made, ears if listen_dsn or not pooled else None)
    finally:
        try:
            async with asyncio.timeout(2):
                await made.close()
        except TimeoutError:  # a connection hangs in a frozen server
            made.terminate()
