"""One DNS question to one server, with all that the answer says: code, TTL, negative TTL.

A resolver's library hides what a check of a zone is about; so these are plain messages, by
dnspython, UDP first and TCP where the answer does not fit.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from relaytest.core.config import split_endpoint
from relaytest.core.dns_check import Answer, Question
from relaytest.core.errors import ConfigError

_AT_ONCE = 20  # questions in flight: a courtesy to servers of others
_TRIES = 2
_MOST_VALUES, _LONGEST_VALUE = 20, 400  # of an answer, and characters of one
_UDP = 1232  # octets (DNS flag day 2020)


def system_server() -> str:
    """Return the first name server of this machine, as address:port.

    Raises:
        ConfigError: It has none.
    """
    try:
        resolver = dns.resolver.Resolver()
        return f"[{resolver.nameservers[0]}]:{resolver.port}"
    except (dns.exception.DNSException, IndexError, OSError) as error:
        raise ConfigError(
            f"this machine has no name server; name one with --server ({error})"
        ) from None


async def ask_all(
    server: str,
    questions: Iterable[Question],
    longest: timedelta,
    told: Callable[[], object] = lambda: None,
) -> dict[Question, Answer | None]:
    """Ask all questions, some at a time.

    Args:
        server: address:port.
        questions: Each is asked once, and once more if no answer came.
        longest: For one try.
        told: Called after each.

    Returns:
        The answers; None where none came that fits the question.
    """
    gate, found = asyncio.Semaphore(_AT_ONCE), {}

    async def one(question: Question) -> None:
        async with gate:
            found[question] = await ask(server, question, longest)
        told()

    async with asyncio.TaskGroup() as group:
        for question in questions:
            group.create_task(one(question))
    return found


async def ask(server: str, question: Question, longest: timedelta) -> Answer | None:
    """Ask one question; None: no answer came, or none that fits."""
    host, port = split_endpoint(server)
    try:
        query = dns.message.make_query(question.name, question.kind, payload=_UDP)
    except (dns.exception.DNSException, UnicodeError):
        return None
    for _ in range(_TRIES):
        try:
            response, _by_tcp = await dns.asyncquery.udp_with_fallback(
                query, host, longest.total_seconds(), port, ignore_unexpected=True
            )
        except (dns.exception.DNSException, OSError, EOFError, ValueError):
            continue
        if response.rcode() == dns.rcode.FORMERR and query.edns >= 0:
            query.use_edns(False)  # rbldnsd and others know no EDNS
            continue
        return _read(response, query)
    return None


def _read(response: dns.message.Message, query: dns.message.Message) -> Answer:
    wanted = query.question[0]
    found = [one for one in response.answer if one.rdtype == wanted.rdtype]
    soa = next((one for one in response.authority if one.rdtype == dns.rdatatype.SOA), None)
    values = [_text(rdata) for rrset in found for rdata in rrset]
    return Answer(
        dns.rcode.to_text(response.rcode()),
        tuple(sorted(values)[:_MOST_VALUES]),
        min((one.ttl for one in found), default=None),
        (soa.ttl, next(iter(soa)).minimum) if soa is not None else None,
    )


def _text(rdata: dns.rdata.Rdata) -> str:
    strings = getattr(rdata, "strings", None)  # TXT; the others have a text of their own
    text = b"".join(strings).decode("ascii", "backslashreplace") if strings else rdata.to_text()
    return text[:_LONGEST_VALUE]
