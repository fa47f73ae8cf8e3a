"""Listings as DNSBL data (RFC 5782), for rbldnsd(8) and for the built-in answerer.

Test entries and the exclusion of 127.0.0.1 are made here and never come from the listing table:
127.0.0.2 must always be listed, one entry for each return code should be, and 127.0.0.1 must
never be (RFC 5782 section 5). IPv6 has the same entries in v4-mapped form.
"""

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from relaytest.core.config import Config
from relaytest.core.publishing import Publish
from relaytest.core.target import Address

OPEN_RELAY = 2  # last octet of the answer for a confirmed open relay: 127.0.0.2
OUTPUT = 3  # for the exit of one, in a zone of its own
CODES = (OPEN_RELAY,)
PATH = " MX 0 ."  # record of a name above an entry, in rbldnsd's generic files
_STAMP = "%Y:%m:%d:%H:%M:%S"
_OCTETS = re.compile(r"(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){0,3}", re.ASCII)
_NIBBLES = re.compile(r"[0-9a-f](\.[0-9a-f]){0,31}")


@dataclass(frozen=True, slots=True)
class Apex:
    """What the zone says of itself.

    Attributes:
        zone: Its name, without a final dot.
        nameservers: Their names; the first is the SOA's MNAME.
        hostmaster: The SOA's RNAME, with a dot for the @.
        ttl: Of entries, of the SOA and of negative answers (RFC 2308 section 3).
        text: TXT of an entry; the address is appended.
        code: Last octet of the A records of its entries.
        also: Further codes in it, each with its text. An address is there once, under its least.
        versions: Of IP; others are not in it.
        shut: The list is at its end: empty, without test entries (RFC 6471 section 3.4).
    """

    zone: str
    nameservers: tuple[str, ...]
    hostmaster: str
    ttl: timedelta
    text: str
    code: int = OPEN_RELAY
    also: tuple[tuple[int, str], ...] = ()
    versions: tuple[int, ...] = (4, 6)
    shut: bool = False

    @property
    def codes(self) -> tuple[int, ...]:
        """Those with a test entry: 127.0.0.2 in every list, and its own (RFC 5782 section 5)."""
        return () if self.shut else tuple(sorted({*CODES, *self.texts}))

    @property
    def texts(self) -> dict[int, str]:
        """Of the entries of each code that is in it, its own first."""
        return {self.code: self.text, **dict(self.also)}

    @property
    def about(self) -> str:
        """TXT of the zone itself (RFC 5782 section 5)."""
        return f"{self.zone}: DNS list of tested open relays"

    @property
    def seconds(self) -> int:
        """The TTL as DNS counts it."""
        return int(self.ttl.total_seconds())


def entry_text(lookup_url: str) -> str:
    """Return the TXT of an entry, up to the address that is appended (RFC 5782 section 2.1)."""
    return (
        f"Open relay, tested and confirmed; see {lookup_url}"
        if lookup_url
        else ("Open relay, tested and confirmed: ")
    )


def apex_of(publish: Publish) -> Apex:
    """Return what the configuration says of the zone."""
    return Apex(
        zone=publish.zone,
        nameservers=tuple(publish.nameservers) or (f"ns.{publish.zone}",),
        hostmaster=publish.hostmaster,
        ttl=publish.ttl,
        text=entry_text(publish.lookup_url),
    )


def outputs_of(apex: Apex) -> Apex:
    """Return the zone for the exits of multi-hop relays: below the list's own, never inside it."""
    text = apex.text.replace("Open relay, tested and confirmed", "Exit of an open relay")
    return replace(apex, zone=f"outputs.{apex.zone}", code=OUTPUT, text=text)


def zones_of(config: Config) -> tuple[Apex, ...]:
    """Return the zones that are published, the list itself first."""
    apex = apex_of(config.publish)
    zones = [apex]
    if config.listing.outputs:
        outputs = outputs_of(apex)
        zones.append(outputs)
        if config.publish.combined:
            also = ((outputs.code, outputs.text),)
            zones.append(replace(apex, zone=f"all.{apex.zone}", also=also))
    if config.publish.by_version:
        zones += [
            replace(apex, zone=f"v{version}.{apex.zone}", versions=(version,))
            for version in apex.versions
        ]
    return tuple(zones)


def query_name(address: Address, zone: str) -> str:
    """Return the name that a client asks for (RFC 5782 sections 2.1 and 2.4).

    >>> query_name(IPv4Address("192.0.2.99"), "relays.example.org")
    '99.2.0.192.relays.example.org'
    """
    suffix = ".in-addr.arpa" if address.version == 4 else ".ip6.arpa"
    return f"{address.reverse_pointer.removesuffix(suffix)}.{zone}"


def render_ip4(apex: Apex, *, stamped_at: datetime, expire_after: timedelta) -> str:
    """Render what stands before the IPv4 entries of an rbldnsd ip4set file.

    `$TIMESTAMP` makes rbldnsd answer SERVFAIL once the file is older than `expire_after`: a
    dead publisher cannot leave stale listings behind for ever. `$MAXRANGE4` ignores ranges.
    """
    names = " ".join(apex.nameservers)
    ttl = apex.seconds
    expires = stamped_at + expire_after
    return (
        f"$SOA {ttl} {apex.nameservers[0]} {apex.hostmaster} 0 1h 15m 2w {ttl}\n"
        f"$NS 1d {names}\n"
        f"$TTL {ttl}\n"
        f"$TIMESTAMP {stamped_at:{_STAMP}} {expires:{_STAMP}}\n"
        f"$MAXRANGE4 /32\n"
        f":127.0.0.{apex.code}:{apex.text}$\n"
        f"!127.0.0.1\n"
        + "".join(
            f"127.0.0.{code} :{code}:Test entry (RFC 5782), no real listing\n"
            for code in apex.codes
        )
    )


def render_ip6(apex: Apex, *, stamped_at: datetime, expire_after: timedelta) -> str:
    """Render what stands before the IPv6 entries of an rbldnsd ip6trie file.

    rbldnsd does not read dotted quads in IPv6 addresses, so the test entries are in hex.
    """
    expires = stamped_at + expire_after
    return (
        f"$TTL {apex.seconds}\n"
        f"$TIMESTAMP {stamped_at:{_STAMP}} {expires:{_STAMP}}\n"
        f":127.0.0.{apex.code}:{apex.text}$\n"
        f"!::ffff:7f00:1\n"
        + "".join(
            f"::ffff:7f00:{code:x} :{code}:Test entry (RFC 5782), no real listing\n"
            for code in apex.codes
        )
    )


def render_apex(apex: Apex) -> str:
    """Render an rbldnsd generic file: the TXT of the zone itself (RFC 5782 section 5).

    And the names above the test entries. Debian's rbldnsd says of the names above an entry that
    they do not exist, by which a resolver may conclude that nothing is below (RFC 8020); so each
    gets a record that means nothing: "no mail here" (RFC 7505). Those above the entries follow.
    """
    tests = [query_name(address, "") for address in _tests(apex.codes)]
    above = {name.rstrip(".").split(".", n)[n] for name in tests for n in range(1, name.count("."))}
    paths = "".join(f"{name}{PATH}\n" for name in sorted(above, key=lambda one: (len(one), one)))
    return f'@ {apex.seconds} TXT "{apex.about}"\n{paths}'


def render_zone(apex: Apex, serial: int) -> str:
    """Render what stands before the entries of a master file (RFC 1035 section 5).

    For NSD, Knot, BIND and their secondaries. Owners of entries are relative to the zone.

    Args:
        apex: The zone.
        serial: Must have grown since the last one (RFC 1982).
    """
    ttl = apex.seconds
    tests = "".join(
        f'{owner} A 127.0.0.{code}\n{owner} TXT "Test entry (RFC 5782), no real listing"\n'
        for code in apex.codes
        for owner in (
            f"{code}.0.0.127",
            query_name(IPv6Address(f"::ffff:127.0.0.{code}"), "").rstrip("."),
        )
    )
    return (
        f"$ORIGIN {apex.zone}.\n$TTL {ttl}\n"
        f"@ SOA {apex.nameservers[0]}. {apex.hostmaster}. {serial} 3600 900 1209600 {ttl}\n"
        + "".join(f"@ 86400 NS {name}.\n" for name in apex.nameservers)
        + f'@ TXT "{apex.about}"\n{tests}'
    )


def serial_of(head: str) -> int:
    """Return the serial of a master file of ours, from its first lines; 0 if it has none."""
    found = re.search(r"^@ SOA \S+ \S+ (\d+) ", head, re.MULTILINE)
    return int(found[1]) if found else 0


def renumbered(head: str, serial: int) -> str:
    """Return the first lines of a master file of ours with another serial; others as they are."""
    return re.sub(r"^(@ SOA \S+ \S+ )\d+ ", rf"\g<1>{serial} ", head, count=1, flags=re.MULTILINE)


def _tests(codes: Iterable[int]) -> Iterator[Address]:
    """Yield the addresses of the test entries."""
    for code in codes:
        yield IPv4Address(f"127.0.0.{code}")
        yield IPv6Address(f"::ffff:127.0.0.{code}")


def self_test(zone: str, codes: Iterable[int] = CODES) -> Iterator[tuple[str, str | None]]:
    """Yield (name, the address it must answer or None for "not listed") for a live zone."""
    for code in codes:
        yield query_name(IPv4Address(f"127.0.0.{code}"), zone), f"127.0.0.{code}"
        yield query_name(IPv6Address(f"::ffff:127.0.0.{code}"), zone), f"127.0.0.{code}"
    yield query_name(IPv4Address("127.0.0.1"), zone), None
    yield query_name(IPv6Address("::ffff:127.0.0.1"), zone), None


class Absence(enum.Enum):
    """How a name has no entry."""

    NAME = "NXDOMAIN"  # there is no such name
    DATA = "NODATA"  # the name exists, because names below it may (RFC 8020 section 2)


@dataclass(frozen=True, slots=True)
class Entry:
    """The name is an entry.

    Attributes:
        code: Last octet of the A record.
        text: The TXT record.
    """

    code: int
    text: str


Question = Address | Absence


def parse_question(labels: str) -> Question:
    """Read the part of a query name before the zone, lower-case, without its last dot.

    Every name on the way to a possible entry exists: a resolver that minimises names (RFC 9156)
    would take NXDOMAIN for it as proof that nothing is below.

    >>> parse_question("99.2.0.192"), parse_question("2.0.192").value
    (IPv4Address('192.0.2.99'), 'NODATA')
    """
    parts = labels.split(".")
    if _OCTETS.fullmatch(labels) and all(int(part) < 256 for part in parts):
        if len(parts) == 4:
            return IPv4Address(".".join(reversed(parts)))
        return Absence.DATA
    if not _NIBBLES.fullmatch(labels):
        return Absence.NAME
    if len(parts) < 32:
        return Absence.DATA
    digits = "".join(reversed(parts))
    address = IPv6Address(int(digits, 16))
    return address.ipv4_mapped or address


def answer(labels: str, apex: Apex, listed: Callable[[Address], int | None]) -> Entry | Absence:
    """Answer one question.

    Args:
        labels: See `parse_question`.
        apex: For the text.
        listed: Returns the code of an address, or None.
    """
    question = parse_question(labels)
    if isinstance(question, Absence):
        return question
    if question in _TEST_NETWORK and (code := int(question) & 255) in apex.codes:
        return Entry(code, "Test entry (RFC 5782), no real listing")
    never = apex.shut or question == _NEVER_LISTED or question.version not in apex.versions
    found = None if never else listed(question)
    if found is None:
        # 1.0.0.2 is both the IPv4 address 2.0.0.1 and the way to all of 2001::/16
        return Absence.DATA if _NIBBLES.fullmatch(labels) and len(labels) == 7 else Absence.NAME
    return Entry(found, f"{apex.texts.get(found, apex.text)}{question}")


_NEVER_LISTED = IPv4Address("127.0.0.1")
_TEST_NETWORK = IPv4Network("127.0.0.0/24")
