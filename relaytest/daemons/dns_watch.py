"""Looks whether the DNS server answers the zone; a publication that breaks it is rolled back."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import structlog

from relaytest.core.config import Config
from relaytest.core.zone import Apex, apex_of, self_test
from relaytest.daemons import metrics
from relaytest.daemons.loop import Stop, forever, wait_or_stop
from relaytest.net.dns import listed_as
from relaytest.store.database import Bell

_LOOK = timedelta(minutes=1)  # between looks at what DNS answers
_AGAIN = timedelta(seconds=5)  # a server that reads its files may be silent for a moment
_PATIENCE = 3  # wrong looks, one after the other, until the files are held guilty
_HEAL = 90.0  # seconds; rbldnsd looks at its files once a minute by itself

log = structlog.get_logger("publisher")


class Files(Protocol):
    """What is published, as far as this module needs to know."""

    apex: Apex
    published: Bell

    @property
    def can_roll_back(self) -> bool:
        """Whether the last publication may be the cause, and can be undone."""

    async def roll_back(self) -> None:
        """Undo it."""

    def publish_again(self) -> None:
        """Undo that."""


class DnsWatch:
    """Asks for the test entries of RFC 5782 section 5, after each publication and every minute.

    If they were right before a publication and are wrong after it, the former files are put
    back. If that does not help, the fault is elsewhere, and the new ones are published again.
    """

    def __init__(self, config: Config, files: Files) -> None:
        self._config = config
        self._files = files
        self._told: bool | None = None
        self._right_before = False
        self._wrong_looks = 0
        self._rolled_back_at: float | None = None

    async def begin(self) -> None:
        """Look before the first publication, which may be that of a newer version."""
        self._right_before = not await failing_tests(self._config, self._files.apex)

    async def keep(self, stop: Stop) -> None:
        """Look until `stop`."""
        published = self._files.published
        await wait_or_stop(published.wait(_LOOK), stop)  # a server that starts with us is not up
        await forever("publisher", self.look, published, stop)

    async def look(self) -> timedelta:
        """Look once, and do what follows; return how long to sleep."""
        wrong = await failing_tests(self._config, self._files.apex)
        self._tell(wrong)
        if not wrong:
            self._right_before, self._rolled_back_at, self._wrong_looks = True, None, 0
            return _LOOK
        self._wrong_looks += 1
        if self._rolled_back_at is not None:
            return self._look_after_roll_back()
        if not (self._right_before and self._files.can_roll_back):
            return _LOOK
        if self._wrong_looks >= _PATIENCE:
            await self._roll_back(wrong)
        return _AGAIN

    def _look_after_roll_back(self) -> timedelta:
        assert self._rolled_back_at is not None
        if asyncio.get_running_loop().time() - self._rolled_back_at < _HEAL:
            return _AGAIN
        log.error("roll-back did not help; published again", zone=self._files.apex.zone)
        self._rolled_back_at, self._right_before = None, False
        self._files.publish_again()
        return _LOOK

    async def _roll_back(self, wrong: list[str]) -> None:
        self._rolled_back_at = asyncio.get_running_loop().time()
        try:
            await self._files.roll_back()
        except OSError as error:
            log.error("zone not rolled back", zone=self._files.apex.zone, error=str(error))
            return
        log.error(
            "zone rolled back: with the new files DNS answered wrongly",
            zone=self._files.apex.zone,
            server=self._config.publish.server,
            wrong=wrong,
            advice="it is published again when it changes, or by: relaytest publish --force",
        )

    def _tell(self, wrong: list[str]) -> None:
        """Log when it changes."""
        right = not wrong
        metrics.DNS_RIGHT.labels(self._files.apex.zone).set(right)
        if right is self._told:
            return
        self._told = right
        tell: Callable[..., object] = log.info if right else log.error
        server = self._config.publish.server
        tell("dns self-test", zone=self._files.apex.zone, server=server, wrong=wrong)


async def failing_tests(config: Config, apex: Apex | None = None) -> list[str]:
    """Return what the DNS server answers wrongly, a line for each test entry of a zone."""
    wrong = []
    apex = apex or apex_of(config.publish)
    for name, expected in self_test(apex.zone, apex.codes):
        got = await listed_as(config.publish.server, name, config.dns.timeout)
        if got != ([expected] if expected else []):
            said = "no answer" if got is None else ", ".join(got) or "not listed"
            wrong.append(f"{name}: {said}; right is {expected or 'not listed'}")
    return wrong
