"""Who handed a message to us from outside, by the Received lines of our own hosts.

Each server puts its line on top (RFC 5321 section 4.4), so the uppermost ones are ours, and each
of them names who connected to it. We go down from host to host of our own until one names
somebody else: that one is the origin. All lines below were there before, and whoever sent the
message may have made them up; they are not read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from relaytest.core.errors import RelaytestError
from relaytest.core.received import Hop, hops_of
from relaytest.core.target import Address, Network, embedded_ipv4, parse_address

# Nobody outside comes from here: RFC 1918, 1122, 3927, 6598, 4193, 4291.
_INSIDE = tuple(
    ip_network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
        "fe80::/10",
        "::1/128",
    )
)
# Exim and others write what the client called itself inside the comment: ([192.0.2.1] helo=x),
# qmail (HELO x). It is the client's own word.
_HELO = re.compile(r"\b(?:helo|ehlo)[= ]\s*[^\s()]+")
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_ADDRESS = re.compile(r"(?<![\w.:-])(?:ipv6:)?([0-9a-f:.]{2,45})(?![\w.-])")
_PORT = re.compile(r"(?<=\])[:.]\d{1,5}\b")  # Exim's log_selector +incoming_port
_LOCAL = re.compile(r"\bwith (?:lmtp\w*|local\w*|mapi|uucp|bsmtp)\b")


class NoOriginError(RelaytestError):
    """The Received lines do not say who sent the message to us. The text says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from.

    Attributes:
        address: Who handed it to the first host of ours.
        line: The Received line that says so, counted from the top, from 1.
    """

    address: Address
    line: int


def origin_of(message: bytes, trusted: Iterable[Network], labs: Iterable[Network] = ()) -> Origin:
    r"""Return who sent a message to us from outside.

    Args:
        message: Its uppermost Received line must have been written by a host of ours.
        trusted: Our own hosts besides those at private and loopback addresses, from which
            nobody else comes.
        labs: Private networks that are tested, and so are no hosts of ours.

    Raises:
        NoOriginError: It cannot be told.

    >>> spam = b"Received: from x (y [11.0.0.1]) by mx.ours.example\r\n\r\nBuy!"
    >>> origin_of(spam, [])
    Origin(address=IPv4Address('11.0.0.1'), line=1)
    """
    ours, outside = tuple(trusted), tuple(labs)
    hops = hops_of(message)
    if not hops:
        raise NoOriginError("it has no Received line, so nobody says where it came from")
    for number, hop in enumerate(hops, start=1):
        client = _client(hop, number)
        if client is not None and not _is_ours(client, ours, outside):
            return Origin(client, number)
    raise NoOriginError(f"all its {len(hops)} Received lines name hosts of ours")


def is_from_inside(
    message: bytes, trusted: Iterable[Network], labs: Iterable[Network] = ()
) -> bool:
    """Whether all its Received lines name hosts of ours: one of us wrote it.

    Only then may what it forwards be believed to have come to us: a stranger's mail may have
    anything attached.
    """
    ours, outside = tuple(trusted), tuple(labs)
    try:
        clients = [_client(hop, number) for number, hop in enumerate(hops_of(message), start=1)]
    except NoOriginError:
        return False
    return all(client is None or _is_ours(client, ours, outside) for client in clients)


def _client(hop: Hop, number: int) -> Address | None:
    """Return who connected, as the server itself saw it; None: nobody did, it is a local step."""
    clause = _from_clause(hop.text)
    if clause is None:
        return None
    clause = _HELO.sub(" ", _PORT.sub(" ", clause))
    # Postfix and sendmail write first what the client called itself, which may be an address,
    # and then in parentheses whom they saw. Exim writes an address without a name in front.
    comments, rest = _comments(clause)
    found = _addresses(comments) or _addresses(" ".join(_BRACKETS.findall(rest)))
    if len(found) == 1:
        return found.pop()
    if not found and _LOCAL.search(hop.text):
        return None
    what = "several addresses" if found else "no address"
    raise NoOriginError(f"Received line {number} names {what} of whoever sent it: {hop.text[:100]}")


def _from_clause(text: str) -> str | None:
    """Return what is between "from" and "by" of a line; a "by" in a comment is no end.

    Raises:
        NoOriginError: A comment has no end, so that the client's own word may have begun it.
    """
    if not text.startswith("from "):
        return None
    depth = 0
    for match in re.finditer(r"[()]| by ", text):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if match[0] == " by " and depth <= 0:
            return text[len("from ") : match.start()]
    if depth > 0:
        raise NoOriginError(f"a Received line has a comment without an end: {text[:100]}")
    return text[len("from ") :].partition(";")[0]


def _comments(clause: str) -> tuple[str, str]:
    """Return what is in parentheses, and what is not; sendmail has comments in comments."""
    depth, inside, outside = 0, "", ""
    for part in re.split(r"([()])", clause):
        if part in {"(", ")"}:
            depth = max(0, depth + (1 if part == "(" else -1))
        elif depth:
            inside += f"{part} "
        else:
            outside += f"{part} "
    return inside, outside


def _addresses(text: str) -> set[Address]:
    found = set()
    for word in _ADDRESS.findall(text):
        try:
            found.add(parse_address(word.strip(".")))
        except ValueError:
            continue
    return found


def _is_ours(address: Address, ours: tuple[Network, ...], outside: tuple[Network, ...]) -> bool:
    one = embedded_ipv4(address) or address
    if any(one in network for network in ours):
        return True
    return any(one in network for network in _INSIDE) and not any(one in lab for lab in outside)
