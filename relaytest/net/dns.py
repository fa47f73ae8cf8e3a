"""Look-ups by aiodns: names of targets, and what a DNSBL answers.

One Resolver for a process: each runs a thread of c-ares. The timeout of c-ares is only a start
value that it adapts, so every look-up has a deadline of ours.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

import aiodns

from relaytest.core.target import Address

_AT_ONCE = 100  # a burst of thousands loses packets
_NO_NAME, _NO_DATA = 4, 1  # c-ares: ARES_ENOTFOUND, ARES_ENODATA


class Resolver:
    """Asks the given name servers, or the system's."""

    def __init__(self, nameservers: Sequence[str], longest: timedelta) -> None:
        """Make a resolver inside a running loop.

        Args:
            nameservers: address:port each; empty for the system's.
            longest: Deadline of one look-up with all its tries.
        """
        self._longest = longest.total_seconds()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._resolver = aiodns.DNSResolver(
            nameservers=list(nameservers) or None, timeout=self._longest / 2, tries=2
        )

    async def addresses(self, name: str) -> list[str] | None:
        """Return the A records of a name, sorted; empty if it has none; None: no answer."""
        try:
            async with self._gate, asyncio.timeout(self._longest):
                answer = await self._resolver.query_dns(name, "A")
        except aiodns.error.DNSError as error:
            return [] if error.args[0] in {_NO_NAME, _NO_DATA} else None
        except TimeoutError:
            return None
        found = (getattr(record.data, "addr", None) for record in answer.answer)
        return sorted(address for address in found if isinstance(address, str))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._resolver.close()

    async def pointer(self, address: Address) -> str | None:
        """Return the first name in the reverse DNS, or None if there is none or no answer."""
        with contextlib.suppress(aiodns.error.DNSError, TimeoutError):
            async with self._gate, asyncio.timeout(self._longest):
                answer = await self._resolver.query_dns(address.reverse_pointer, "PTR")
            for record in answer.answer:
                name = getattr(record.data, "dname", None)
                if isinstance(name, str):
                    return name
        return None


async def listed_as(server: str, name: str, longest: timedelta) -> list[str] | None:
    """Ask one DNS server for a DNSBL name, by-passing every cache of ours.

    A resolver of c-ares remembers answers for their TTL, and here the question is whether the
    server's answer has changed; so each question has a resolver of its own.

    Args:
        server: address:port.
        name: See core.zone.query_name.
        longest: Deadline, all tries.

    Returns:
        The A records, sorted; empty: not listed; None: no answer.
    """
    async with Resolver([server], longest) as resolver:
        return await resolver.addresses(name)
