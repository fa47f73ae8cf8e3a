"""A daemon's process: until a signal ends it, and through every reload of its configuration."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from relaytest.cli.common import database as open_ours
from relaytest.cli.logs import start_log
from relaytest.cli.running import (
    DRAIN,
    Daemon,
    await_schema,
    check_places,
    on_signals,
    places_of,
    require_schema,
    run_daemons,
)
from relaytest.cli.settings import data_folder, load
from relaytest.core.config import Config
from relaytest.core.errors import ConfigError, RelaytestError
from relaytest.core.reloading import changed_options, taken_over
from relaytest.daemons import metrics
from relaytest.daemons.loop import Stop
from relaytest.net.service_manager import hold, notify
from relaytest.store.database import Database

_PLACES = {"sink": "sink.listen", "web": "web.listen"}

log = structlog.get_logger("service")


async def serve(
    daemons: Mapping[str, Daemon], file: Path | None, data: Path | None, place: metrics.Place
) -> int:
    """Run daemons until a signal; return the exit status.

    Args:
        daemons: By name.
        file: The configuration's; read again on SIGHUP.
        data: As given with --data.
        place: What we are among the processes of this host.
    """
    service = Service(daemons, file, data)
    config = service.config
    start_log(config.log)
    keys = [_PLACES[name] for name in daemons if name in _PLACES]
    check_places(config, keys)
    with on_signals(service.reactions()):
        async with open_ours(config, data, place.program) as database:
            if config.database.dsn:
                await await_schema(place.program, database, service.stop)
            else:  # nobody but `up` starts the private one
                await require_schema(database)
            hold(place for key in keys for place in places_of(config, key))
            async with metrics.served(config, place):
                await service.run(database)
    return 0


class Service:
    """Runs daemons; when the configuration was read anew, ends them and begins them with it.

    Attributes:
        config: What is in force.
        stop: For the daemons that run now.
    """

    def __init__(self, daemons: Mapping[str, Daemon], file: Path | None, data: Path | None) -> None:
        self._daemons = daemons
        self._file = file
        self._data = data
        self.config = self._read()
        self.stop = Stop()
        self._next: Config | None = None  # to begin anew with
        self._ending = False
        self._running: asyncio.Task[None] | None = None

    def _read(self) -> Config:
        """Read the configuration.

        Raises:
            ConfigError: It is wrong.
        """
        config = load(self._file)
        if config.publish.directory:
            return config
        folder = str(data_folder(self._data) / "zone")
        publish = config.publish.model_copy(update={"directory": folder})
        return config.model_copy(update={"publish": publish})

    def reactions(self) -> dict[signal.Signals, Callable[[], None]]:
        """Return what is done on which signal; SIGHUP of a terminal means that it is gone."""
        quickly, drained = partial(self.end, 2.0), partial(self.end, DRAIN)
        hung_up = quickly if _has_terminal() else self.reload
        return {signal.SIGINT: quickly, signal.SIGTERM: drained, signal.SIGHUP: hung_up}

    def end(self, patience: float) -> None:
        """End; said a second time, break off."""
        if self._ending and self._running is not None:
            self._running.cancel()
        self._ending, self._next = True, None
        notify("STOPPING=1")
        self.stop.set(patience)

    def reload(self) -> None:
        """Begin anew with the configuration as it is now; if it is wrong, say so and go on."""
        if self._ending:
            return
        try:
            wanted = self._read()
        except ConfigError as error:
            metrics.RELOADS.labels("refused").inc()
            log.error("configuration not reloaded: it is wrong", error=str(error))
            return
        config = taken_over(self.config, wanted)
        changed = changed_options(self.config, config)
        if later := changed_options(config, wanted):
            log.warning("these options change with a restart only", options=later)
        metrics.RELOADS.labels("done").inc()
        log.info("configuration reloaded", changed=changed)
        if not changed:
            return
        if self._running is None:  # the database is still awaited
            self.config = config
            return
        self._next = config
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.stop.set(DRAIN)

    async def run(self, database: Database) -> None:
        """Run the daemons until a signal ends them.

        Raises:
            OSError: One of them cannot begin.
            RelaytestError: Likewise; or the database is for a newer program by now.
        """
        self._running = asyncio.current_task()
        former: Config | None = None  # before the last reload
        while True:
            start_log(self.config.log)
            try:
                await run_daemons(self._daemons.values(), self.config, database, self.stop)
            except (OSError, RelaytestError) as error:
                if former is None or self.stop.wished:
                    raise
                metrics.RELOADS.labels("taken-back").inc()
                log.error("not possible; back to the configuration before", error=str(error))
                self._next = former
            if self._next is None:
                return
            former = None if self._next is former else self.config
            self.config, self._next, self.stop = self._next, None, Stop()


def _has_terminal() -> bool:
    """Whether there is a terminal that may hang up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
