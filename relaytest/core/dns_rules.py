"""What RFC 5782 demands of a DNSBL, as rules to judge a server's answers by.

RFC 2308 (negative answers) and RFC 8020 (what NXDOMAIN says of the names below) stand beside it,
since a listing that is not seen is none.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address

from relaytest.core.dns_check import (
    NEVER,
    NOBODY,
    NOERROR,
    NXDOMAIN,
    TEST,
    Answer,
    Answers,
    Outcome,
    Question,
    Result,
    Rule,
    Subject,
    codes,
    parents,
    values,
)
from relaytest.core.target import Address

_LONGEST_TTL = 3600  # seconds that resolvers may keep an entry or its absence

_Finding = tuple[Outcome, str, Question | None]
_Judge = Callable[[Subject, Answers], _Finding]
_RULES: list[tuple[Rule, _Judge]] = []


def _rule(number: int, source: str, level: str, text: str) -> Callable[[_Judge], _Judge]:
    def add(judge: _Judge) -> _Judge:
        _RULES.append((Rule(f"W{number}", source, level, text), judge))
        return judge

    return add


def _never_applies(number: int, source: str, level: str, text: str, why: str) -> None:
    _rule(number, source, level, text)(lambda _, __: (Outcome.SKIPPED, why, None))


def judge(subject: Subject, answers: Answers) -> tuple[Result, ...]:
    """Judge all answers; a question without an answer fails what it was asked for."""
    results = []
    for rule, look in _RULES:
        outcome, why, question = look(subject, answers)
        if outcome is Outcome.FAILED and rule.level.startswith(("SHOULD", "MAY")):
            outcome = Outcome.WARNED
        answer = answers.get(question) if question else None
        results.append(Result(rule, outcome, why, question, answer))
    return tuple(results)


def _first_fault(
    answers: Answers, asked: Iterable[Question], fault: Callable[[Question, Answer], str | None]
) -> _Finding | None:
    """Return the first question whose answer is at fault, or that has none."""
    for question in asked:
        answer = answers.get(question)
        why = "no answer" if answer is None else fault(question, answer)
        if why:
            return Outcome.FAILED, why, question
    return None


def _all(
    answers: Answers,
    asked: Sequence[Question],
    fault: Callable[[Question, Answer], str | None],
    nothing: str,
) -> _Finding:
    if not asked:
        return Outcome.SKIPPED, nothing, None
    return _first_fault(answers, asked, fault) or (Outcome.PASSED, "", asked[0])


def _not_listed(_: Question, answer: Answer) -> str | None:
    return None if answer.values else f"not listed: {answer}"


def _listed(_: Question, answer: Answer) -> str | None:
    return None if answer.absent else f"it has records, or no clear answer: {answer}"


def _of(subject: Subject, addresses: Iterable[Address], kind: str) -> list[Question]:
    return [Question(subject.name(one), kind) for one in addresses]


_TELL = "tell some with --listed"


@_rule(1, "RFC 5782 2.1", "MUST", "every listed IPv4 address has an A record")
def _w1(subject: Subject, answers: Answers) -> _Finding:
    asked = _of(subject, (one for one in subject.listed if one.version == 4), "A")
    return _all(answers, asked, _not_listed, f"no listed address known; {_TELL}")


@_rule(2, "RFC 5782 2.1", "SHOULD", "entries have a TXT record with the reason")
def _w2(subject: Subject, answers: Answers) -> _Finding:
    asked = _of(subject, subject.listed or (TEST,), "TXT")
    return _all(answers, asked, lambda _, answer: None if answer.values else "no TXT", "")


@_rule(3, "RFC 5782 2.1", "MUST NOT", "values of A records could be used as addresses")
def _w3(subject: Subject, answers: Answers) -> _Finding:
    def fault(_: Question, answer: Answer) -> str | None:
        wrong = [
            value for value in answer.values if value == str(NEVER) or not value.startswith("127.")
        ]
        return f"{', '.join(wrong)} is no value of a DNSBL" if wrong else None

    return _all(answers, _of(subject, subject.entries, "A"), fault, "")


_never_applies(
    4,
    "RFC 5782 2.1",
    "MUST",
    "a listed range answers for every address in it",
    "single addresses only",
)


@_rule(5, "RFC 5782 2.1", "MUST NOT", "addresses that are not listed have records")
def _w5(subject: Subject, answers: Answers) -> _Finding:
    asked = [
        question
        for kind in ("A", "TXT", "AAAA")
        for question in _of(subject, subject.unlisted, kind)
    ]
    return _all(answers, asked, _listed, "all documentation addresses are listed")


@_rule(6, "RFC 5782 2.3", "SHOULD", "sub-lists are sub-zones and values, and both agree")
def _w6(subject: Subject, answers: Answers) -> _Finding:
    soa = Question(f"outputs.{subject.zone}", "SOA")
    if not values(answers, soa):
        return Outcome.SKIPPED, f"no zone {soa.name}", None
    test = Question(f"3.0.0.127.{soa.name}", "A")
    if values(answers, test) == ("127.0.0.3",):
        return Outcome.PASSED, "", test
    return Outcome.FAILED, "its test entry does not answer 127.0.0.3", test


@_rule(7, "RFC 5782 2.3", "MUST", "the label of a list has two characters, one of them no digit")
def _w7(subject: Subject, _: Answers) -> _Finding:
    label = subject.zone.partition(".")[0]
    if len(label) > 1 and not label.isdigit():
        return Outcome.PASSED, label, None
    return Outcome.FAILED, f"{label!r} could be an octet or a nibble", None


@_rule(8, "RFC 5782 2.3", "SHOULD", "all A records are in 127.0.0.0/8")
def _w8(subject: Subject, answers: Answers) -> _Finding:
    def fault(_: Question, answer: Answer) -> str | None:
        wrong = [value for value in answer.values if not value.startswith("127.")]
        return f"{', '.join(wrong)} is outside" if wrong else None

    return _all(answers, _of(subject, subject.entries, "A"), fault, "")


@_rule(9, "RFC 5782 2.4", "MUST", "a listed IPv6 address is found by its 32 nibbles")
def _w9(subject: Subject, answers: Answers) -> _Finding:
    asked = _of(subject, (one for one in subject.listed if one.version == 6), "A")
    return _all(answers, asked, _not_listed, f"no listed IPv6 address known; {_TELL}")


_never_applies(10, "RFC 5782 3", "MUST", "listed names have A records", "a list of addresses")


@_rule(11, "RFC 5782 4", "SHOULD", "TTLs fit how often the list changes")
def _w11(subject: Subject, answers: Answers) -> _Finding:
    def fault(_: Question, answer: Answer) -> str | None:
        if answer.ttl is not None and answer.ttl > _LONGEST_TTL:
            return f"resolvers keep an entry for {answer.ttl} s"
        return None

    return _all(answers, _of(subject, subject.entries[:1], "A"), fault, "")


@_rule(12, "RFC 5782 5", "MUST", "127.0.0.2 is listed, with A and TXT")
def _w12(subject: Subject, answers: Answers) -> _Finding:
    asked = [Question(subject.name(TEST), kind) for kind in ("A", "TXT")]
    return _all(answers, asked, _not_listed, "")


@_rule(13, "RFC 5782 5", "MUST NOT", "127.0.0.1 is listed")
def _w13(subject: Subject, answers: Answers) -> _Finding:
    return _all(answers, _of(subject, [NEVER], "A"), _listed, "")


@_rule(14, "RFC 5782 5", "SHOULD", "each value has a test entry: 127.0.0.n answers 127.0.0.n")
def _w14(subject: Subject, answers: Answers) -> _Finding:
    def fault(question: Question, answer: Answer) -> str | None:
        octet = question.name.partition(".")[0]
        if question.kind == "TXT":
            return None if answer.values else "no TXT"
        right = f"127.0.0.{octet}" in answer.values
        return None if right else f"answers {answer}"

    asked = [q for kind in ("A", "TXT") for q in _of(subject, codes(subject, answers), kind)]
    return _all(answers, asked, fault, "no value was seen")


@_rule(15, "RFC 5782 5", "MUST", "::FFFF:7F00:2 is listed and ::FFFF:7F00:1 is not")
def _w15(subject: Subject, answers: Answers) -> _Finding:
    if subject.ipv4_only:
        return Outcome.SKIPPED, "a list of IPv4 addresses", None
    there, never = (Question(subject.name(IPv6Address(f"::ffff:127.0.0.{n}")), "A") for n in (2, 1))
    return (
        _first_fault(answers, [there], _not_listed)
        or _first_fault(answers, [never], _listed)
        or (Outcome.PASSED, "", there)
    )


_never_applies(16, "RFC 5782 5", "MUST", "TEST is listed and INVALID is not", "a list of addresses")


@_rule(17, "RFC 5782 5", "MAY", "the zone itself says what the list is")
def _w17(subject: Subject, answers: Answers) -> _Finding:
    asked = Question(subject.zone, "TXT")
    if values(answers, asked):
        return Outcome.PASSED, "", asked
    return Outcome.SKIPPED, "no TXT at the zone's name", asked


@_rule(18, "RFC 5782 2.4, 6", "MUST NOT", "a wildcard lists what is no address")
def _w18(subject: Subject, answers: Answers) -> _Finding:
    return _all(answers, [Question(f"{NOBODY}.{subject.zone}", "A")], _listed, "")


_never_applies(
    19,
    "RFC 5782 6",
    "SHOULD",
    "clients check the test entries before they use a list",
    "which is what this command does",
)


@_rule(20, "RFC 2308 3", "SHOULD", "the absence of an entry is not kept for long")
def _w20(subject: Subject, answers: Answers) -> _Finding:
    def fault(_: Question, answer: Answer) -> str | None:
        if answer.negative is None:
            return "no SOA beside the negative answer: resolvers do not keep it at all"
        kept = min(answer.negative)
        return f"kept for {kept} s" if kept > _LONGEST_TTL else None

    return _all(answers, _of(subject, subject.unlisted[:1], "A"), fault, "nothing is unlisted")


@_rule(21, "RFC 8020 2", "SHOULD", "names above an entry exist (for strict QNAME minimisation)")
def _w21(subject: Subject, answers: Answers) -> _Finding:
    names = (subject.name(one) for one in subject.entries)
    above = itertools.chain.from_iterable(parents(name, subject.zone) for name in names)
    asked = [Question(name, "A") for name in dict.fromkeys(above)]

    def fault(_: Question, answer: Answer) -> str | None:
        if answer.rcode == NXDOMAIN:
            return "NXDOMAIN says that nothing is below it; resolvers may believe that"
        return None if answer.rcode == NOERROR else str(answer)

    return _all(answers, asked, fault, "")
