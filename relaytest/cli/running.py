"""Running daemons until a signal comes."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

from relaytest.core.config import Config, split_endpoint
from relaytest.core.errors import ConfigError, SchemaError
from relaytest.daemons.loop import Stop, once_there
from relaytest.net.service_manager import inherited_listeners, notify, watchdog_interval
from relaytest.store import migrations, scope
from relaytest.store.database import Connection, Database, open_database

_STUCK = 900.0  # seconds; no transaction, export or round of look-ups may take so long
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
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def heard() -> None:
        if stop.wished and task is not None:
            task.cancel()
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for one in signals:
        loop.add_signal_handler(one, heard)
    try:
        yield stop
    finally:
        for one in signals:
            loop.remove_signal_handler(one)


async def run_daemons(
    daemons: Iterable[Daemon], config: Config, database: Database, stop: Stop
) -> None:
    """Run all of them until the stop is wished; if one fails, all end."""
    try:
        async with asyncio.TaskGroup() as group:
            heart = group.create_task(_tell_manager(stop))
            async with asyncio.TaskGroup() as running:
                for daemon in daemons:
                    running.create_task(daemon(config, database, stop))
            heart.cancel()
    except* OSError as group_of_errors:
        raise _first(group_of_errors) from None


async def _tell_manager(stop: Stop) -> None:
    """Say that we are ready, that we live, and that we end, if a service manager wants to hear it.

    We live while the loop turns and no piece of work hangs in it.
    """
    notify("READY=1")
    with stop.calling(lambda: notify("STOPPING=1")):
        interval = watchdog_interval()
        while interval is not None:
            if stop.longest_work() < _STUCK:
                notify("WATCHDOG=1")
            await asyncio.sleep(interval.total_seconds() / 3)
        await asyncio.Event().wait()


def _first(group: BaseExceptionGroup[OSError]) -> OSError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def check_places(config: Config, keys: Iterable[str]) -> None:
    """Refuse to start if an address to listen on is taken or not ours.

    Raises:
        ConfigError: Names the key, the address and what is wrong.
    """
    listeners = inherited_listeners()
    held = set(listeners)
    for one in listeners.values():
        one.close()
    for key in keys:
        section, _, option = key.partition(".")
        value = getattr(getattr(config, section), option)
        for endpoint in [value] if isinstance(value, str) else value:
            if endpoint not in held:
                _check_place(key, endpoint)


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
