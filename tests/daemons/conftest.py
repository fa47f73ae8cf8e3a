"""Fixtures: a system to begin, and the road to its database."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest
import structlog

from relaytest.daemons import scheduler, sink, worker
from relaytest.store.database import Database, open_database
from tests.daemons.peers import Road
from tests.lab import Lab, lab_config, running

Begin = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture
def begin(database: Database, dsn: str, tmp_path, monkeypatch) -> Begin:
    """Run worker, sink and scheduler, or other daemons; sections go over the lab's own."""
    monkeypatch.setattr(sink, "_GAP", 0.02)  # else each test ends up to a second later
    monkeypatch.setattr(worker, "_LONGEST_SLEEP", timedelta(milliseconds=100))

    def run(*daemons, **sections) -> AbstractAsyncContextManager[Lab]:
        config = lab_config(tmp_path / "zone", **sections)
        return running(config, database, dsn, daemons or (worker.run, sink.run, scheduler.run))

    return run


@pytest.fixture
async def road(dsn: str, tmp_path) -> AsyncIterator[Road]:
    """A way to the test's database that can be cut."""
    way = Road(dsn, tmp_path)
    await way.mend()
    yield way
    await way.cut()


@pytest.fixture
async def shaky(road: Road) -> AsyncIterator[Database]:
    """The test's database at the end of the road."""
    async with open_database(
        road.dsn, pool=10, longest=timedelta(seconds=10), program="shaky"
    ) as opened:
        yield opened


@pytest.fixture
async def nowhere(tmp_path) -> AsyncIterator[Database]:
    """A database that is always away."""
    dsn = f"postgresql://postgres@/none?host={tmp_path}&port=5432"
    async with open_database(
        dsn, pool=2, longest=timedelta(seconds=10), program="nowhere"
    ) as opened:
        yield opened


@pytest.fixture
def logged():
    """What the daemons log in this test."""
    with structlog.testing.capture_logs() as events:
        yield events
