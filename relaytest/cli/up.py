"""`relaytest up`: everything on this machine, with a PostgreSQL of our own unless one is given."""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from relaytest.cli import demo
from relaytest.cli.logs import start_log
from relaytest.cli.running import (
    check_places,
    open_configured,
    run_daemons,
    stopping_on_signals,
    upgrade,
)
from relaytest.core.config import Config
from relaytest.core.errors import ClusterError
from relaytest.daemons import answerer, metrics, notifier, publisher, scheduler, sink, web, worker
from relaytest.daemons.loop import Stop
from relaytest.store.cluster import Cluster
from relaytest.store.database import Database

_PLACES = ("sink.listen", "web.listen", "answer.listen")
_DAEMONS = (worker.run, sink.run, scheduler.run, publisher.run, web.run, notifier.run, answerer.run)


async def up(config: Config, data: Path, *, show_demo: bool, once: bool) -> int:
    """Start all, show where each is, run until a signal; return the exit status.

    Args:
        config: publish.directory and publish.server are filled in where empty.
        data: Folder for the database, the zone and the log.
        show_demo: Let the main job run before the user's eyes, in a data folder of its own.
        once: End when the demo is over.
    """
    console = Console()
    if show_demo:
        data, config = data / "demo", demo.configured(config)
    data = data.absolute()
    config = _filled_in(config, data)
    with _only_one(data), contextlib.ExitStack() as files:
        if show_demo:
            log = files.enter_context((data / "relaytest.log").open("a", encoding="utf-8"))
            start_log(config.log, log)
        else:
            start_log(config.log)
        check_places(config, _PLACES)
        async with (
            stopping_on_signals() as stop,
            _postgres(config, data, console) as dsn,
            open_configured(config, dsn, "up") as database,
        ):
            applied = await upgrade(database, config)
            _print_summary(console, config, data, dsn, applied)
            async with metrics.served(config, metrics.Place("up")):
                return await _serve(config, database, stop, console, show_demo=show_demo, once=once)


async def _serve(
    config: Config,
    database: Database,
    stop: Stop,
    console: Console,
    *,
    show_demo: bool,
    once: bool,
) -> int:
    if not show_demo:
        console.print("Ctrl-C stops it; the data stays.")
        await run_daemons(_DAEMONS, config, database, stop)
        return 0
    story = demo.Demo(console, once=once)
    await run_daemons((*_DAEMONS, story.run), config, database, stop)
    return 0 if story.went_well or not once else 1


def _filled_in(config: Config, data: Path) -> Config:
    publish = config.publish
    update = {
        "directory": publish.directory or str(data / "zone"),
        "server": publish.server or config.answer.listen,
    }
    return config.model_copy(update={"publish": publish.model_copy(update=update)})


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the data folder; the kernel lets go of it however we end.

    Raises:
        ClusterError: Another `up` holds it.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ClusterError(
                f"relaytest is already running here: process {lock.read().strip() or 'unknown'} "
                f"uses {data}; stop it, or choose another folder with --data"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.asynccontextmanager
async def _postgres(config: Config, data: Path, console: Console) -> AsyncIterator[str]:
    """Give the DSN of the configured database, or of our own, which ends with us."""
    if config.database.dsn:
        yield config.database.dsn
        return
    named = os.environ.get("RELAYTEST_PG_BIN")
    cluster = Cluster(data / "pg", binaries=Path(named) if named else None)
    async with contextlib.AsyncExitStack() as ending:
        with console.status("starting PostgreSQL"):
            ending.push_async_callback(cluster.stop)
            await cluster.start()
            ending.push_async_callback(cluster.stop, always=True)
        yield cluster.dsn()


def _print_summary(
    console: Console, config: Config, data: Path, dsn: str, applied: list[str]
) -> None:
    """Say where everything is, each in one line, however long: they are there to be copied."""
    console.print("[italic]relaytest is up")
    schema = f"  ({len(applied)} migrations applied)" if applied else ""
    domains = ", ".join(config.sink.domains)
    for name, where in (
        ("web", f"http://{config.web.listen}/"),
        ("sink", f"{', '.join(config.sink.listen)}  for {domains or '(sink.domains is not set)'}"),
        ("dns", f"{config.answer.listen}  zone {config.publish.zone}"),
        ("zone files", config.publish.directory),
        ("database", (dsn if not config.database.dsn else "as configured") + schema),
        ("data", str(data)),
        ("worker", "ready" if domains else "idle until sink.domains is set; try --demo"),
    ):
        console.print(f"[bold]{name:<10}[/]  {escape(where)}", soft_wrap=True, highlight=False)
