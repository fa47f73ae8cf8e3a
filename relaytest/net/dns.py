"""Look-ups by aiodns: names of targets, where a domain's mail goes, and what a DNSBL answers.

One Resolver for a process: each runs a thread of c-ares. The timeout of c-ares is only a start
value that it adapts, so every look-up has a deadline of ours.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import aiodns

from relaytest.core.errors import RelaytestError
from relaytest.core.target import Address, parse_address

_AT_ONCE = 100  # a burst of thousands loses packets
_NO_NAME, _NO_DATA = 4, 1  # c-ares: ARES_ENOTFOUND, ARES_ENODATA
_NO_SEARCH = 1 << 5  # ARES_FLAG_NOSEARCH: a name is never tried below our own domain
_MOST_EXCHANGERS = 20  # of one domain; gmail.com has five


@dataclass(frozen=True, slots=True)
class MailHost:
    """A host that takes mail for a name.

    Attributes:
        preference: Of its MX record, lower is tried first; None: there is no MX record, and
            the name itself is the host (RFC 5321 section 5.1).
        addresses: IPv4 and IPv6; empty: it has none; None: no answer came.
    """

    name: str
    preference: int | None
    addresses: tuple[Address, ...] | None


class NullMxError(RelaytestError):
    """The domain says that it takes no mail at all (RFC 7505)."""


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
            nameservers=list(nameservers) or None,
            timeout=self._longest / 2,
            tries=2,
            flags=_NO_SEARCH,
        )

    async def addresses(self, name: str) -> list[str] | None:
        """Return the A records of a name, sorted; empty if it has none; None: no answer."""
        found = await self._data(name, "A", "addr")
        return None if found is None else sorted(one for one in found if isinstance(one, str))

    async def texts(self, name: str) -> list[str] | None:
        """Return the TXT records of a name; empty if it has none; None: no answer."""
        found = await self._data(name, "TXT", "data")
        if found is None:
            return None
        return [one.decode("latin-1") for one in found if isinstance(one, bytes)]

    async def _data(self, name: str, kind: str, field: str) -> list[object] | None:
        """Return a field of each record of an answer; None: no answer."""
        try:
            async with self._gate, asyncio.timeout(self._longest):
                answer = await self._resolver.query_dns(name, kind)
        except aiodns.error.DNSError as error:
            return [] if error.args[0] in {_NO_NAME, _NO_DATA} else None
        except TimeoutError:
            return None
        return [getattr(record.data, field, None) for record in answer.answer]

    async def mail_hosts(self, name: str) -> list[MailHost] | None:
        """Return the hosts that take mail for a name, the preferred first; None: no answer.

        Raises:
            NullMxError: There is none, and there is not meant to be one.
        """
        records = await self._exchangers(name)
        if records is None:
            return None
        async with asyncio.TaskGroup() as group:
            asked = [
                (preference, host, group.create_task(self._host(host)))
                for preference, host in records[:_MOST_EXCHANGERS] or [(None, name)]
            ]
        return [MailHost(host, preference, task.result()) for preference, host, task in asked]

    async def _exchangers(self, name: str) -> list[tuple[int | None, str]] | None:
        """Return preference and host of the MX records, in order; None: no answer."""
        try:
            async with self._gate, asyncio.timeout(self._longest):
                answer = await self._resolver.query_dns(name, "MX")
        except aiodns.error.DNSError as error:
            # A name that only our own hosts file knows is worth a look there, DNS or not.
            there = error.args[0] in {_NO_NAME, _NO_DATA} or "." not in name
            return [] if there else None
        except TimeoutError:
            return [] if "." not in name else None
        pairs = (
            (getattr(record.data, "priority", None), getattr(record.data, "exchange", None))
            for record in answer.answer
        )
        found = sorted(
            (preference, host.rstrip("."))
            for preference, host in pairs
            if isinstance(preference, int) and isinstance(host, str)
        )
        if found and not any(host for _, host in found):
            raise NullMxError(name)
        return [(preference, host) for preference, host in found if host]

    async def _host(self, name: str) -> tuple[Address, ...] | None:
        """Return the addresses of a host, also from the hosts file, IPv4 first."""
        try:
            async with self._gate, asyncio.timeout(self._longest):
                found = await self._resolver.getaddrinfo(
                    name, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM
                )
        except aiodns.error.DNSError as error:
            return () if error.args[0] in {_NO_NAME, _NO_DATA} else None
        except TimeoutError:
            return None
        addresses = {parse_address(node.addr[0].decode("ascii")) for node in found.nodes}
        return tuple(sorted(addresses, key=lambda one: (one.version, int(one))))

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
