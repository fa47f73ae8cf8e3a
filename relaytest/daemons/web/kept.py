"""What costs the database something is gathered at most once in a while, however many ask."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """A value that is gathered anew when it is asked for and no longer fresh.

    Raises:
        Exception: What gathering raises; nothing is kept then.
    """

    def __init__(self, gather: Callable[[], Awaitable[_T]], fresh: timedelta) -> None:
        self._gather = gather
        self._fresh = fresh.total_seconds()
        self._value: list[_T] = []  # or none yet
        self._until = float("-inf")
        self._gathering = asyncio.Lock()  # of many that come at once one gathers

    async def __call__(self) -> _T:
        """Return the value."""
        loop = asyncio.get_running_loop()
        async with self._gathering:
            if loop.time() > self._until:
                self._value = [await self._gather()]
                self._until = loop.time() + self._fresh
            return self._value[0]
