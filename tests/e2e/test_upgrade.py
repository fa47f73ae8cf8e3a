"""An upgrade while daemons work: old ones finish what they do and make room, nothing is lost."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from relaytest.store.migrations import Migration, shipped, upgrade_one
from tests.cli.test_service import start
from tests.daemons.peers import Target
from tests.lab import until

TARGETS = 25
# What a later release might do to the table that workers use all the time.
NEWER = Migration(
    len(shipped()) + 1,
    f"{len(shipped()) + 1:04}_newer",
    "ALTER TABLE relaytest.job ADD COLUMN newer integer; CREATE TABLE relaytest.newer (n integer)",
)
DONE = "SELECT count(*) FROM relaytest.trial WHERE visits = 1 AND ended"


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as place:
        place.bind(str(tmp_path / "notify"))
        yield place


@contextlib.contextmanager
def worker(dsn: str, tmp_path, slots: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run one; whatever happens, it does not stay."""
    allow = '["127.0.0.0/8"]'
    with start(
        *(dsn, tmp_path, "worker"),
        RELAYTEST_POLITENESS__SLOTS=str(slots),
        RELAYTEST_SCOPE__ALLOW=allow,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_workers_make_room_for_a_newer_program_and_nothing_is_lost(
    dsn, connection, tmp_path, manager
):
    async with contextlib.AsyncExitStack() as village:
        for target in (Target(delay=0.1) for _ in range(TARGETS)):
            port = await village.enter_async_context(target.serve())
            await connection.execute(
                "INSERT INTO relaytest.retest (target, port, reason) VALUES ($1, $2, 'operator')",
                target.host,
                port,
            )
        with worker(dsn, tmp_path, 2) as old:
            await until(lambda: some_done(connection), "the first visits")
            async with connection.transaction():
                await upgrade_one(connection, (*shipped(), NEWER))
            status = await ended(old)
        assert status == 78
        done = await connection.fetchval(DONE)
        row = await connection.fetchrow(
            "SELECT count(*) AS open, count(*) FILTER (WHERE leased) AS leased FROM relaytest.job"
        )
        assert (row["open"] + done, row["leased"]) == (TARGETS, 0)
        assert await connection.fetchval("SELECT count(*) FROM relaytest.worker") == 0

        # The program that knows that schema: ours, once nothing tells of it.
        forget = "DELETE FROM relaytest.schema_version WHERE version = $1"
        await connection.execute(forget, NEWER.version)
        with worker(dsn, tmp_path, TARGETS) as new:
            await until(lambda: all_done(connection), "all visits")
            new.terminate()
            assert await ended(new) == 0
        assert await connection.fetchval("SELECT count(*) FROM relaytest.trial") == TARGETS


async def some_done(connection) -> bool | None:
    return await connection.fetchval(DONE) >= 1 or None


async def all_done(connection) -> bool | None:
    return await connection.fetchval(DONE) == TARGETS or None


async def ended(process: "subprocess.Popen[bytes]") -> int:
    async def look() -> int | None:
        return process.poll()

    return await until(look, "its end")
