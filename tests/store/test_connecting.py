"""To PostgreSQL through whatever stands between: several hosts, a failover, a pooler, ice."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from relaytest.core.errors import ConfigError, DatabaseAwayError
from relaytest.store.binaries import command_on, find_binaries
from relaytest.store.cluster import Cluster
from relaytest.store.connecting import hosts_of
from relaytest.store.database import Bell, Database, open_database
from tests.mta.pgbouncer import PgBouncer
from tests.mta.process import fresh_address, fresh_port

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("postgresql://db1/x", []),
        ("postgresql:///x?host=/run/one&port=5432", []),
        ("postgresql://[::1]:5433/x", []),
        ("postgresql://db1,db2/x", [("db1", None), ("db2", None)]),
        ("postgresql://u:p,w@db1:1,db2:2/x", [("db1", 1), ("db2", 2)]),
        ("postgresql://[::1],[::2]:5433/x", [("::1", None), ("::2", 5433)]),
        ("postgresql:///x?host=/a,/b&port=5432", [("/a", 5432), ("/b", 5432)]),
        ("postgresql:///x?host=/a,db,::1&port=1,2,3", [("/a", 1), ("db", 2), ("::1", 3)]),
    ],
)
def test_the_hosts_of_a_dsn_are_found(dsn, hosts):
    assert list(hosts_of(dsn)) == hosts


async def value(database: Database, query: str) -> Any:
    async with database.transaction() as connection:
        return await connection.fetchval(query)


async def test_a_host_that_swallows_packets_keeps_nobody_from_the_next(dsn, cluster):
    """The first one takes connections and never says a word, as a dead machine's address does."""
    with socket.create_server((fresh_address(), 0)) as mute:
        host, port = mute.getsockname()
        name = dsn.partition("?")[0].rpartition("/")[2]
        places = f"host={host},{quote(str(cluster.socket_dir))}&port={port},5432"
        async with open_database(
            f"postgresql://postgres@/{name}?{places}", pool=1, longest=SECOND, program="test"
        ) as database:
            assert await value(database, "SELECT 1") == 1


# --- a frozen server


async def test_a_frozen_backend_costs_one_statement_and_not_the_pool(dsn, connection):
    async with open_database(dsn, pool=1, longest=SECOND / 2, program="test") as database:
        frozen = await value(database, "SELECT pg_backend_pid()")
        os.kill(frozen, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseAwayError):
                await value(database, "SELECT 1")
            assert await value(database, "SELECT pg_backend_pid()") != frozen
        finally:
            os.kill(frozen, signal.SIGCONT)


async def test_a_frozen_listener_is_replaced(dsn, connection, monkeypatch):
    monkeypatch.setattr("relaytest.store.database._BEAT", 0.2)
    bell = Bell()
    async with (
        open_database(dsn, pool=1, longest=SECOND / 2, program="test") as database,
        asyncio.TaskGroup() as group,
    ):
        ears = group.create_task(database.listen(["a_channel"], bell))
        await bell.wait(10 * SECOND)
        frozen = await connection.fetchval(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'test' AND datname = current_database()"
        )
        os.kill(frozen, signal.SIGSTOP)
        try:
            while bell.deaf_since is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.wait_for(_rung(bell), 10)
            await connection.execute("NOTIFY a_channel")
            await asyncio.wait_for(bell.wait(timedelta(minutes=1)), 10)
        finally:
            os.kill(frozen, signal.SIGCONT)
        ears.cancel()


async def _rung(bell: Bell) -> None:
    while bell.deaf_since is not None:
        await bell.wait(SECOND)


async def test_work_that_is_cancelled_leaves_a_frozen_backend_at_once(dsn):
    """Else a program could not end while its database is frozen."""
    async with open_database(dsn, pool=1, longest=60 * SECOND, program="test") as database:
        frozen = await value(database, "SELECT pg_backend_pid()")
        os.kill(frozen, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await value(database, "SELECT 1")
            assert await value(database, "SELECT pg_backend_pid()") != frozen
        finally:
            os.kill(frozen, signal.SIGCONT)


# --- a failover


class Pair:
    """A primary with a streaming standby.

    Attributes:
        dsn: Both, the standby first.
    """

    def __init__(self, folder: Path) -> None:
        self.primary = Cluster(folder / "one", durable=False)
        self.standby = Cluster(folder / "two", durable=False)
        hosts = ",".join(quote(str(one.socket_dir)) for one in (self.standby, self.primary))
        self.dsn = f"postgresql://postgres@/relaytest?host={hosts}&port=5432"

    async def start(self) -> None:
        await self.primary.start()
        data = self.standby.data
        data.mkdir(mode=0o700)
        copy = command_on(find_binaries() / "pg_basebackup", data)
        source = ["-h", str(self.primary.socket_dir), "-U", "postgres"]
        await asyncio.to_thread(
            subprocess.run,
            [*copy, *source, "-R", "-c", "fast", "--no-sync"],
            check=True,
            capture_output=True,
        )
        (data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # no data, but copied as such
        await self.standby.start()

    async def fail_over(self) -> None:
        """Kill the primary as a power cut would; make the standby the primary."""
        pid = int((self.primary.data / "postmaster.pid").read_text().partition("\n")[0])
        os.kill(pid, signal.SIGKILL)
        standby = await asyncpg.connect(self.standby.dsn())
        assert await standby.fetchval("SELECT pg_promote()")
        await standby.close()

    async def stop(self) -> None:
        for one in (self.standby, self.primary):
            await one.stop(always=True)


@pytest.fixture
async def pair(tmp_path_factory) -> AsyncIterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    folder.chmod(0o711)
    made = Pair(folder)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_failover_is_followed_and_the_bell_rings(pair):
    bell = Bell()
    async with (
        open_database(pair.dsn, pool=2, longest=5 * SECOND, program="test") as database,
        asyncio.TaskGroup() as group,
    ):
        ears = group.create_task(database.listen(["a_channel"], bell))
        await bell.wait(10 * SECOND)
        assert await value(database, "SELECT pg_is_in_recovery()") is False
        await pair.fail_over()
        with contextlib.suppress(DatabaseAwayError):
            await value(database, "SELECT 1")
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE written (n integer)")
        await asyncio.wait_for(_rung(bell), 30)
        async with database.transaction() as connection:
            await connection.execute("NOTIFY a_channel")
        await asyncio.wait_for(bell.wait(timedelta(minutes=1)), 10)
        ears.cancel()


async def test_a_standby_alone_is_an_absence(pair):
    """Between the death of a primary and the promotion of another nobody takes writes."""
    await pair.primary.stop(always=True)
    async with open_database(pair.dsn, pool=2, longest=2 * SECOND, program="test") as database:
        with pytest.raises(DatabaseAwayError):
            await value(database, "SELECT 1")


async def test_whoever_has_become_a_standby_is_left(database, dsn, connection):
    """A managed database may change roles under open connections."""

    async def write() -> None:
        async with database.transaction() as inside:
            await inside.execute("SET TRANSACTION READ ONLY")
            await inside.execute("DELETE FROM relaytest.job")

    first = await value(database, "SELECT pg_backend_pid()")
    with pytest.raises(DatabaseAwayError, match="read-only"):
        await write()
    assert await value(database, "SELECT pg_backend_pid()") != first


# --- a pooler


@contextlib.contextmanager
def pgbouncer(tmp_path, dsn, **options):
    host = fresh_address()
    with PgBouncer(tmp_path / "pgbouncer", dsn, host, fresh_port(host), **options) as pooler:
        yield pooler


async def test_a_pooler_that_was_told_of_works_and_a_direct_way_hears(tmp_path, dsn, connection):
    bell = Bell()
    with pgbouncer(tmp_path, dsn) as pooler:
        async with (
            open_database(
                pooler.dsn, pool=8, longest=10 * SECOND, program="x", pooled=True, listen_dsn=dsn
            ) as database,
            asyncio.TaskGroup() as group,
        ):
            ears = group.create_task(database.listen(["a_channel"], bell))
            await bell.wait(10 * SECOND)
            async with asyncio.TaskGroup() as many:
                for number in range(40):
                    many.create_task(value(database, f"SELECT {number % 5}"))
            async with database.transaction() as inside:
                await inside.execute("NOTIFY a_channel")
            await asyncio.wait_for(bell.wait(timedelta(minutes=1)), 10)
            assert bell.deaf_since is None
            ears.cancel()


async def test_without_a_direct_way_all_look_by_themselves_and_soon(tmp_path, dsn):
    bell = Bell()
    with pgbouncer(tmp_path, dsn) as pooler:
        async with (
            open_database(
                pooler.dsn, pool=2, longest=10 * SECOND, program="x", pooled=True
            ) as database,
            asyncio.TaskGroup() as group,
        ):
            ears = group.create_task(database.listen(["a_channel"], bell))
            await asyncio.sleep(0)
            await asyncio.wait_for(bell.wait(timedelta(hours=1)), 10)
            assert bell.deaf_since is not None
            ears.cancel()


@pytest.mark.parametrize("ignored", ["", "jit"])
async def test_a_pooler_that_was_not_told_of_is_recognised(tmp_path, dsn, ignored):
    async def use(database: Database) -> None:
        for _ in range(20):
            async with asyncio.TaskGroup() as many:
                for number in range(8):
                    many.create_task(value(database, f"SELECT {number}, pg_sleep(0.001)"))

    with pgbouncer(tmp_path, dsn, ignored=ignored) as pooler:
        async with open_database(pooler.dsn, pool=8, longest=10 * SECOND, program="x") as database:
            with pytest.raises(ExceptionGroup) as caught:
                await use(database)
    assert caught.group_contains(ConfigError, match=r"set database\.pooled = true")
