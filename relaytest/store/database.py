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

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

_AWAY = (
    OSError,  # no socket there, refused, or reset; TimeoutError is one too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,  # starting up or shutting down
    asyncpg.InterfaceError,  # the connection was closed under us
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover left us on a standby
    asyncpg.InsufficientResourcesError,  # disk full, out of memory
)
_BEAT = 10.0  # seconds between looks whether the listening connection still lives
_LONGEST_PAUSE = 5.0  # seconds between attempts to listen again


class Bell:
    """Rings when somebody said NOTIFY, and after each reconnect.

    Attributes:
        listening: The listening connection stands at this moment.
    """

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.listening = False

    def ring(self) -> None:
        """Wake the waiter, now or when it next waits."""
        self._rung.set()

    async def wait(self, longest: timedelta) -> None:
        """Wait for the bell, but no longer than `longest`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await self._rung.wait()
        self._rung.clear()


class Database:
    """One PostgreSQL, by a pool of connections."""

    def __init__(self, dsn: str, pool: asyncpg.Pool, settings: dict[str, str]) -> None:
        self.dsn = dsn
        self._pool = pool
        self._settings = settings

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Give a connection inside a transaction; commit at the end, roll back on an error.

        Raises:
            DatabaseAwayError: The database does not answer; nothing was committed, or it is
                unknown whether it was (only when the connection broke during COMMIT).
        """
        with away_is_temporary():
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection

    async def listen(self, channels: Iterable[str], bell: Bell) -> None:
        """Ring `bell` for every NOTIFY on `channels`; reconnect for ever. Never returns."""
        pause = 0.1
        while True:
            try:
                await self._listen_once(tuple(channels), bell)
            except _AWAY:
                pause = min(_LONGEST_PAUSE, pause * 2)
            else:
                pause = 0.1
            # The loops of many hosts should not come back all at the same moment.
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    async def _listen_once(self, channels: tuple[str, ...], bell: Bell) -> None:
        """Listen until the connection is lost."""
        connection = await asyncpg.connect(self.dsn, timeout=_BEAT, server_settings=self._settings)
        try:
            for channel in channels:
                await connection.add_listener(channel, lambda *_: bell.ring())
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            bell.listening = True
            bell.ring()
            while not lost.is_set():
                # A connection that is only half there shows when it is used.
                await connection.fetchval("SELECT 1", timeout=_BEAT)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT):
                        await lost.wait()
        finally:
            bell.listening = False
            connection.terminate()


@contextlib.contextmanager
def away_is_temporary() -> Iterator[None]:
    """Turn every way of not reaching the database into DatabaseAwayError."""
    try:
        yield
    except _AWAY as error:
        raise DatabaseAwayError(str(error) or type(error).__name__) from error


@contextlib.asynccontextmanager
async def open_database(
    dsn: str, *, pool: int, longest: timedelta, program: str
) -> AsyncIterator[Database]:
    """Open a pool; connections are made when they are needed, so the database may be away.

    Args:
        dsn: As libpq takes it; several hosts with target_session_attrs=read-write for failover.
        pool: Most connections.
        longest: Time for one statement, and for making a connection.
        program: application_name, to be seen in pg_stat_activity.
    """
    settings = {"application_name": program, "jit": "off", "timezone": "UTC"}
    made = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=pool,
        timeout=longest.total_seconds(),
        command_timeout=longest.total_seconds(),
        server_settings=settings,
    )
    try:
        yield Database(dsn, made, settings)
    finally:
        try:
            async with asyncio.timeout(2):
                await made.close()
        except TimeoutError:  # a connection hangs in a frozen server
            made.terminate()
