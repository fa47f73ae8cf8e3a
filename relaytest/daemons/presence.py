"""A daemon's row in the database, by which an operator sees who is there on which host."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

from relaytest import __version__
from relaytest.core.errors import DatabaseAwayError
from relaytest.daemons.loop import Stop, forever
from relaytest.store import daemons
from relaytest.store.database import Bell, Database

_BEAT = timedelta(seconds=5)


@contextlib.asynccontextmanager
async def present(name: str, database: Database, stop: Stop) -> AsyncIterator[None]:
    """Be seen while the block runs, in which a daemon does its work and needs no more to begin."""
    here = _Presence(name, database, stop)
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(forever(name, here.beat, Bell(), stop))
        yield
        beating.cancel()
    await here.leave()


class _Presence:
    """The row; it is made anew if somebody deleted it."""

    def __init__(self, name: str, database: Database, stop: Stop) -> None:
        self._name = name
        self._database = database
        self._stop = stop
        self._id: int | None = None

    async def beat(self) -> timedelta:
        """Say that we are there."""
        async with self._database.transaction() as connection:
            if self._id is None or not await daemons.beat(connection, self._id):
                self._id = await daemons.join(
                    connection,
                    name=self._name,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    version=__version__,
                )
        self._stop.begin(self._name)
        return _BEAT

    async def leave(self) -> None:
        """Take the row away."""
        if self._id is None:
            return
        with contextlib.suppress(DatabaseAwayError):  # else it is buried one day
            async with self._database.transaction() as connection:
                await daemons.leave(connection, self._id)
