"""Running daemons until a signal comes."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from typing import Any

from relaytest.core.config import Config, split_endpoint
from relaytest.core.errors import (
    ConfigError,
    DatabaseAwayError,
    RelaytestError,
    SchemaError,
)
from relaytest.daemons.loop import Stop, once_there, wait_or_stop
from relaytest.net.service_manager import inherited, notify, watchdog_interval
from relaytest.store import migrations, scope
from relaytest.store.database import Connection, Database, open_database

_STUCK = 900.0  # seconds; no transaction, export or round of look-ups may take so long
_LOOK = 5.0  # seconds between looks at the schema
DRAIN = 20.0  # seconds for visits to end by themselves when a service ends
Daemon = Callable[[Config, Database, Stop], Coroutine[Any, Any, None]]


def run_until_done(work: Coroutine[Any, Any, int]) -> int:
    """Run `work` on uvloop where it is installed, else on asyncio's own loop."""
    raise_file_limit()
    tune_collector()
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def raise_file_limit() -> None:
    """Debian gives a process 1024 descriptors; a worker with 500 targets at once needs more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tune_collector() -> None:
    """Look for cyclic garbage seldom: a worker makes little, and has many live objects to pass.

    With a thousand targets at once the usual thresholds cost a third of its processor time.
    """
    gc.freeze()  # modules live as long as the process
    gc.set_threshold(10_000, 20, 20)


@contextlib.asynccontextmanager
async def stopping_on_signals() -> AsyncIterator[Stop]:
    """Give a Stop that SIGINT, SIGTERM or SIGHUP wishes; a second signal breaks off at once."""
    stop = Stop()
    task = asyncio.current_task()

    def heard() -> None:
        if stop.wished and task is not None:
            task.cancel()
        stop.set()

    with on_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), heard)):
        yield stop


@contextlib.contextmanager
def on_signals(reactions: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """React to signals while the block runs."""
    loop = asyncio.get_running_loop()
    for one, reaction in reactions.items():
        loop.add_signal_handler(one, reaction)
    try:
        yield
    finally:
        for one in reactions:
            loop.remove_signal_handler(one)


async def run_daemons(
    daemons: Collection[Daemon], config: Config, database: Database, stop: Stop
) -> None:
    """Run all of them until the stop is wished; if one fails, all end.

    Raises:
        SchemaError: The database was upgraded meanwhile, for a newer program.
    """
    try:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(_tell_manager(len(daemons), stop)),
                group.create_task(_watch_schema(database, stop)),
            ]
            async with asyncio.TaskGroup() as running:
                for daemon in daemons:
                    running.create_task(daemon(config, database, stop))
            for helper in helpers:
                helper.cancel()
    except* (OSError, RelaytestError) as group_of_errors:
        raise _first(group_of_errors) from None
    if stop.fault is not None:
        raise stop.fault


async def _tell_manager(count: int, stop: Stop) -> None:
    """Say when all daemons have begun, and that we live, if a service manager wants to hear it.

    We live while the loop turns and no piece of work hangs in it.
    """
    await stop.begun(count)
    notify("READY=1")
    interval = watchdog_interval()
    while interval is not None:
        if stop.longest_work() < _STUCK:
            notify("WATCHDOG=1")
        await asyncio.sleep(interval.total_seconds() / 3)


async def _watch_schema(database: Database, stop: Stop) -> None:
    """End if the database has become one for a newer program, which whoever begins us has now."""
    known = await asyncio.to_thread(migrations.shipped)
    while not stop.wished:
        with contextlib.suppress(DatabaseAwayError):  # the daemons tell of that, and wait
            async with database.transaction() as connection:
                try:
                    await migrations.status(connection, known)
                except SchemaError as error:
                    stop.set(DRAIN, error)
        await wait_or_stop(asyncio.sleep(_LOOK), stop)


def _first(group: BaseExceptionGroup[OSError | RelaytestError]) -> OSError | RelaytestError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def check_places(config: Config, keys: Collection[str]) -> None:
    """Refuse to start if an address to listen on is taken or not ours, or given and not wanted.

    Raises:
        ConfigError: Names the key, the address and what is wrong.
    """
    wanted = {endpoint: key for key in keys for endpoint in places_of(config, key)}
    given = inherited()
    for endpoint in given.keys() - wanted.keys():
        raise ConfigError(
            f"the service manager listens on {endpoint} for us, which is not in "
            f"{', '.join(keys) or 'our configuration'}; connections there would wait for ever"
        )
    for endpoint, key in wanted.items():
        if endpoint not in given:
            _check_place(key, endpoint)


def places_of(config: Config, key: str) -> list[str]:
    """Return the addresses of an option such as sink.listen."""
    section, _, option = key.partition(".")
    value: str | list[str] = getattr(getattr(config, section), option)
    return [value] if isinstance(value, str) else value


def _check_place(key: str, endpoint: str) -> None:
    host, port = split_endpoint(endpoint)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
        if key == "answer.listen":
            with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
                datagrams.bind((host, port))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ConfigError(f"{key}: cannot listen on {endpoint}: {why}") from None


def open_configured(
    config: Config, dsn: str, program: str
) -> contextlib.AbstractAsyncContextManager[Database]:
    """Open the database with the configuration's pool and time limit."""
    return open_database(
        dsn,
        pool=config.database.pool,
        longest=config.database.timeout,
        program=f"relaytest {program}",
        pooled=config.database.pooled,
        listen_dsn=config.database.listen_dsn,
    )


async def upgrade(database: Database, config: Config) -> list[str]:
    """Bring the schema up to date, a transaction for each migration; return what was applied."""
    applied: list[str] = []
    known = migrations.shipped()
    while True:
        async with database.transaction() as connection:
            name = await migrations.upgrade_one(connection, known)
        if name is None:
            break
        applied.append(name)
    async with database.transaction() as connection:
        await scope.write_scope(connection, config.scope.rules())
    return applied


async def require_schema(database: Database) -> None:
    """Refuse to run on a database that is older or newer than the program.

    Raises:
        SchemaError: What to do about it.
        DatabaseAwayError: The database does not answer.
    """
    async with database.transaction() as connection:
        await _require_schema(connection)


async def await_schema(program: str, database: Database, stop: Stop) -> None:
    """Likewise, but wait for a database that does not answer yet, as after a boot.

    Raises:
        SchemaError: What to do about it.
    """
    await once_there(program, database, _require_schema, stop)


async def _require_schema(connection: Connection) -> None:
    status = await migrations.status(connection, migrations.shipped())
    if status.pending:
        raise SchemaError(
            f"the database is at schema {status.version}; run `relaytest db upgrade` to apply "
            f"{', '.join(status.pending)}"
        )
