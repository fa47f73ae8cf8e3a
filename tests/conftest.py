"""Fixtures: one PostgreSQL for a run, one database for a test."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from ipaddress import ip_network

import asyncpg
import pytest

from relaytest.core.target import Scope
from relaytest.store import migrations, scope
from relaytest.store.cluster import Cluster
from relaytest.store.database import Database, open_database
from tests.postgres import temporary_cluster

_number = itertools.count()
LAB = Scope(allow=(ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("192.0.2.0/24")))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL whose database `relaytest` has the schema; tests copy that one."""
    with temporary_cluster() as running:
        asyncio.run(_migrate(running.dsn()))
        yield running


async def _migrate(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    while True:
        async with connection.transaction():
            if await migrations.upgrade_one(connection, migrations.shipped()) is None:
                break
    async with connection.transaction():
        await scope.write_scope(connection, LAB)
    await connection.close()


@pytest.fixture
async def dsn(cluster: Cluster) -> AsyncIterator[str]:
    """A new database with the schema and a scope that allows 127/8, ::1 and 192.0.2.0/24."""
    admin = await asyncpg.connect(cluster.dsn("postgres"))
    name = f"test_{next(_number)}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE relaytest")
    yield cluster.dsn(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A bare connection to the test's database, outside any transaction."""
    bare = await asyncpg.connect(dsn)
    yield bare
    await bare.close()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """The test's database as the daemons see it."""
    async with open_database(dsn, pool=10, longest=timedelta(seconds=10), program="test") as opened:
        yield opened
