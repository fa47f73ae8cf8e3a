"""A check of a DNSBL: what to ask its server, and how answers and results look.

For our own zones and for any other list. The rules are in core.dns_rules.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from relaytest.core.target import Address
from relaytest.core.zone import query_name

NXDOMAIN, NOERROR = "NXDOMAIN", "NOERROR"
TEST = IPv4Address("127.0.0.2")
NEVER = IPv4Address("127.0.0.1")
_UNLISTED = (ip_address("192.0.2.1"), ip_address("198.51.100.1"), ip_address("2001:db8::1"))
NOBODY = "no-such-entry-x7"  # neither octets nor nibbles


@dataclass(frozen=True, slots=True, order=True)
class Question:
    """One question.

    Attributes:
        name: Without the final dot.
        kind: A, AAAA, TXT or SOA.
    """

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        rcode: As DNS names it, such as NOERROR.
        values: Records of the kind asked for, as text.
        ttl: Of those, seconds; None if there are none.
        negative: TTL and MINIMUM of the SOA in the authority section; None if there is none.
    """

    rcode: str
    values: tuple[str, ...] = ()
    ttl: int | None = None
    negative: tuple[int, int] | None = None

    @property
    def absent(self) -> bool:
        """The name or the record is said not to be there; a failure says nothing."""
        return self.rcode == NXDOMAIN or (self.rcode == NOERROR and not self.values)

    def __str__(self) -> str:
        if self.values:
            return ", ".join(self.values)
        return "NODATA" if self.rcode == NOERROR else self.rcode


def in_words(answer: Answer | None) -> str:
    """Tell what DNS says of an address, and how long resolvers keep that when it has changed."""
    if answer is None or not (answer.values or answer.absent):
        return "DNS gives no answer at this moment" + (f" ({answer})" if answer else "")
    kept = answer.ttl if answer.values else min(answer.negative or (0,))
    memory = f"; resolvers may keep an old answer for {kept} s" if kept else ""
    if answer.values:
        return f"DNS says that it is listed ({answer}){memory}"
    return f"DNS says that it is not listed{memory}"


Answers = Mapping[Question, Answer | None]


class Outcome(enum.Enum):
    """What became of a rule."""

    PASSED = "pass"
    WARNED = "warn"  # a SHOULD
    FAILED = "fail"
    SKIPPED = "-"  # says nothing here


@dataclass(frozen=True, slots=True)
class Rule:
    """One demand.

    Attributes:
        id: W1 to W21.
        source: RFC and section.
        level: The RFC's word.
    """

    id: str
    source: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """A rule, what became of it, and the question and answer that show it."""

    rule: Rule
    outcome: Outcome
    why: str
    question: Question | None = None
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked.

    Attributes:
        zone: Name of the list.
        listed: Addresses that should be on it.
        ipv4_only: The list has no IPv6 addresses.
    """

    zone: str
    listed: tuple[Address, ...] = ()
    ipv4_only: bool = False

    def name(self, address: Address) -> str:
        """Return what a client asks for."""
        return query_name(address, self.zone)

    @property
    def unlisted(self) -> tuple[Address, ...]:
        """Documentation addresses, which nobody has, so that no list should have them."""
        return tuple(
            one
            for one in _UNLISTED
            if one not in self.listed and not (self.ipv4_only and one.version == 6)
        )

    @property
    def entries(self) -> tuple[Address, ...]:
        """What must be listed: the test entries, and what we were told of."""
        tests: tuple[Address, ...] = (TEST,)
        if not self.ipv4_only:
            tests += (IPv6Address("::ffff:127.0.0.2"),)
        return (*tests, *self.listed)


def questions(subject: Subject) -> tuple[Question, ...]:
    """Return all that is asked, but for what `further` adds."""
    present = [subject.name(one) for one in subject.entries]
    absent = [subject.name(one) for one in subject.unlisted]
    never: list[Address] = [NEVER]
    if not subject.ipv4_only:
        never.append(IPv6Address("::ffff:127.0.0.1"))
    absent += [subject.name(one) for one in never]
    above = {name for one in present for name in parents(one, subject.zone)}
    asked = [
        *(Question(name, kind) for name in present for kind in ("A", "TXT")),
        *(Question(name, kind) for name in absent for kind in ("A", "TXT", "AAAA")),
        *(Question(name, "A") for name in sorted(above)),
        Question(subject.zone, "SOA"),
        Question(subject.zone, "TXT"),
        Question(f"{NOBODY}.{subject.zone}", "A"),
        Question(f"outputs.{subject.zone}", "SOA"),
        Question(f"3.0.0.127.outputs.{subject.zone}", "A"),
    ]
    return tuple(dict.fromkeys(asked))


def further(subject: Subject, answers: Answers) -> tuple[Question, ...]:
    """Return what is to be asked once the codes of the list are known: their test entries."""
    asked = (Question(subject.name(c), k) for c in codes(subject, answers) for k in ("A", "TXT"))
    return tuple(question for question in asked if question not in answers)


def codes(subject: Subject, answers: Answers) -> tuple[IPv4Address, ...]:
    """Return the values that were seen, as addresses of their test entries."""
    found = {
        value
        for one in subject.entries
        for value in values(answers, Question(subject.name(one), "A"))
    }
    return tuple(sorted(IPv4Address(value) for value in found if value.startswith("127.0.0.")))


def values(answers: Answers, question: Question) -> tuple[str, ...]:
    """Return the records that came for a question; none if no answer came."""
    answer = answers.get(question)
    return answer.values if answer else ()


def parents(name: str, zone: str) -> Iterator[str]:
    """Yield the names between an entry and its zone (for 2.0.0.127: 0.0.127, 0.127, 127)."""
    labels = name.removesuffix(f".{zone}").split(".")
    for first in range(1, len(labels)):
        yield ".".join([*labels[first:], zone])
