"""Who lives: workers beat in the database, the scheduler watches, by clocks that never jump.

A worker that cannot beat, because its host froze or its way to the database broke, must stop
visiting before the scheduler gives its jobs to another: else two would visit one target at once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta


class Watch:
    """Tells which workers did not beat for `silence` while we looked on.

    Beats are compared with each other, never with a clock of any host. What we did not see
    ourselves, as the database was away or we were frozen, is held against nobody.
    """

    def __init__(self, silence: timedelta) -> None:
        self._silence = silence.total_seconds()
        self._looked_at = float("-inf")
        self._last: dict[int, tuple[datetime, float]] = {}  # worker: its beat, first seen when

    def silent(self, beats: Mapping[int, datetime], now: float) -> list[int]:
        """Return the workers that are silent.

        Args:
            beats: The last beat of each worker, at this moment.
            now: Of a clock that only goes forward.
        """
        if now - self._looked_at > self._silence / 2:
            self._last.clear()
        self._looked_at = now
        seen = {}
        for worker, beat in beats.items():
            known, since = self._last.get(worker, (beat, now))
            seen[worker] = (beat, since if known == beat else now)
        self._last = seen
        return [worker for worker, (_, since) in seen.items() if now - since > self._silence]


class CutOffError(Exception):
    """We could not beat for too long; another worker may have our jobs by now."""


class Lifeline:
    """Breaks off what a worker holds once it could not beat for `longest`."""

    def __init__(self, longest: timedelta) -> None:
        self._longest = longest.total_seconds()
        self._held: set[asyncio.Timeout] = set()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def cut(self) -> bool:
        """Whether the last beat is too long ago."""
        return self._alarm is None

    def beat(self, began: float) -> None:
        """Note a beat that came through.

        Args:
            began: When it was sent, by the loop's clock: it counts from there.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(began + self._longest, self._break_off)

    def _break_off(self) -> None:
        self._alarm = None
        now = asyncio.get_running_loop().time()
        for limit in self._held:
            limit.reschedule(now)

    def end(self) -> None:
        """Watch no longer."""
        if self._alarm is not None:
            self._alarm.cancel()

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Run the block as long as we beat.

        Raises:
            CutOffError: We do not.
        """
        if self.cut:
            raise CutOffError
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._held.add(limit)
                yield
        except TimeoutError:
            if limit.expired():
                raise CutOffError from None
            raise
        finally:
            self._held.discard(limit)
