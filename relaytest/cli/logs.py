"""Where the daemons' events go: standard error, or a file while a live display has the screen."""

import contextlib
import logging
import sys
from typing import TextIO

import structlog

from relaytest.core.config import Log


def start_log(log: Log, stream: TextIO = sys.stderr) -> None:
    """Write events of `log.level` and above to `stream`: JSON, or pretty on a terminal."""
    pretty = log.format == "pretty" or (log.format == "auto" and stream.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        _add_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.StackInfoRenderer(),
            *([] if pretty else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(log.level),
        logger_factory=_Named(stream),
        cache_logger_on_first_use=False,  # a reload may change the level
    )
    # Libraries that log by themselves: only what is serious, in the same place. asyncpg tells of
    # every failed attempt to refill its pool; our own loops say that once.
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)


class _Logger(structlog.PrintLogger):
    """One that knows who logs, and whose full disk or gone terminal is no reason to end."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name

    def msg(self, message: str) -> None:
        """Write a line, if it can be written."""
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _add_name(
    logger: _Logger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Say who logs: a daemon, of which one process may run several."""
    return {"from": logger.name, **event}


class _Named:
    """Makes the loggers; structlog.get_logger("worker") calls it with the name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, name: str) -> _Logger:
        return _Logger(self._stream, name)
