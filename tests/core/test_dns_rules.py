"""Each rule passes on a right list and fails on one that breaks it; no other fails with it."""

from datetime import timedelta
from ipaddress import ip_address

import pytest

from relaytest.core.dns_check import (
    Answer,
    Outcome,
    Question,
    Subject,
    further,
    questions,
)
from relaytest.core.dns_rules import judge
from relaytest.core.zone import Absence, Apex, answer

ZONE = "relays.example"
APEX = Apex(ZONE, ("ns.example",), "hostmaster.example", timedelta(minutes=5), "Open relay: ", 2)
V4, V6 = ip_address("192.0.2.99"), ip_address("2001:db8:1:2:3:4:567:89ab")
SUBJECT = Subject(ZONE, (V4, V6))
NEGATIVE = (300, 300)


def right(question: Question) -> Answer:
    """Answer as a right server of the list would."""
    if question.name == ZONE:
        return Answer("NOERROR", ("a DNS list",), 300)
    if not question.name.endswith(f".{ZONE}") or "outputs" in question.name:
        return Answer("NXDOMAIN", negative=NEGATIVE)
    found = answer(
        question.name.removesuffix(f".{ZONE}"), APEX, lambda one: 2 if one in {V4, V6} else None
    )
    if isinstance(found, Absence):
        rcode = "NXDOMAIN" if found is Absence.NAME else "NOERROR"
        return Answer(rcode, negative=NEGATIVE)
    values = {"A": (f"127.0.0.{found.code}",), "TXT": (found.text,)}.get(question.kind, ())
    return Answer("NOERROR", values, 300 if values else None, None if values else NEGATIVE)


def judged(subject: Subject = SUBJECT, server=right) -> dict[str, Outcome]:
    answers = {question: server(question) for question in questions(subject)}
    answers |= {question: server(question) for question in further(subject, answers)}
    return {result.rule.id: result.outcome for result in judge(subject, answers)}


def test_a_right_list_passes():
    found = judged()
    assert {id_ for id_, outcome in found.items() if outcome is not Outcome.PASSED} == {
        "W4",  # ranges
        "W6",  # no sub-list
        "W10",  # names
        "W16",
        "W19",  # for clients
    }
    assert set(found.values()) == {Outcome.PASSED, Outcome.SKIPPED}
    assert list(found) == [f"W{number}" for number in range(1, 22)]


def reversed_(address) -> str:
    return SUBJECT.name(address)


def says(*names: str, kind: str = "A", **changes):
    """A server that answers some questions otherwise."""

    def server(question: Question) -> Answer | None:
        if question.name in names and question.kind == kind:
            return changes.get("answer")
        return right(question)

    return server


def listed(*values: str, ttl: int = 300) -> Answer:
    return Answer("NOERROR", values, ttl)


GONE = Answer("NXDOMAIN", negative=NEGATIVE)
TEST = f"2.0.0.127.{ZONE}"
MAPPED = reversed_(ip_address("::ffff:127.0.0.2"))
WRONG = {
    "listed-but-not-found": (says(reversed_(V4), answer=GONE), {"W1"}),
    "no-answer": (says(reversed_(V4), answer=None), {"W1", "W3", "W8"}),
    "servfail": (says(reversed_(V4), answer=Answer("SERVFAIL")), {"W1"}),
    "no-reason": (says(reversed_(V4), kind="TXT", answer=GONE), {"W2"}),
    "a-real-address": (says(reversed_(V4), answer=listed("198.51.100.7")), {"W3", "W8"}),
    "this-host": (says(reversed_(V4), answer=listed("127.0.0.1")), {"W3", "W14"}),
    "lists-everybody": (says(f"1.2.0.192.{ZONE}", answer=listed("127.0.0.2")), {"W5", "W20"}),
    "text-for-everybody": (
        says(f"1.2.0.192.{ZONE}", kind="TXT", answer=listed("Hello")),
        {"W5"},
    ),
    "unlisted-is-unclear": (says(f"1.100.51.198.{ZONE}", answer=Answer("SERVFAIL")), {"W5"}),
    "not-by-nibbles": (says(reversed_(V6), answer=GONE), {"W9"}),
    "kept-for-a-day": (says(TEST, answer=listed("127.0.0.2", ttl=86400)), {"W11"}),
    "no-test-entry": (says(TEST, answer=GONE), {"W12", "W14"}),
    "no-test-text": (says(TEST, kind="TXT", answer=GONE), {"W12", "W14"}),
    "this-host-is-listed": (says(f"1.0.0.127.{ZONE}", answer=listed("127.0.0.2")), {"W13"}),
    "a-value-without-a-test": (says(reversed_(V4), answer=listed("127.0.0.9")), {"W14"}),
    "no-test-entry-of-ipv6": (says(MAPPED, answer=GONE), {"W15"}),
    "this-host-is-listed-as-ipv6": (
        says(reversed_(ip_address("::ffff:127.0.0.1")), answer=listed("127.0.0.2")),
        {"W15"},
    ),
    "a-wildcard": (says(f"no-such-entry-x7.{ZONE}", answer=listed("127.0.0.2")), {"W18"}),
    "absence-is-kept-for-a-day": (
        says(f"1.2.0.192.{ZONE}", answer=Answer("NXDOMAIN", negative=(86400, 7200))),
        {"W20"},
    ),
    "absence-cannot-be-kept": (
        says(f"1.2.0.192.{ZONE}", answer=Answer("NXDOMAIN")),
        {"W20"},
    ),
    "nothing-above-an-entry": (says(f"2.0.192.{ZONE}", answer=GONE), {"W21"}),
    "nothing-above-ipv6": (says(f"1.0.0.2.{ZONE}", answer=GONE), {"W21"}),
}


@pytest.mark.parametrize(("server", "broken"), WRONG.values(), ids=WRONG)
def test_what_breaks_a_rule_is_found_and_nothing_else(server, broken):
    found = judged(server=server)
    bad = {Outcome.FAILED, Outcome.WARNED}
    assert {id_ for id_, outcome in found.items() if outcome in bad} == broken


@pytest.mark.parametrize(("zone", "right_"), [("4.example", False), ("a.example", False)])
def test_a_zone_that_looks_like_part_of_an_address_is_told(zone, right_):
    results = {one.rule.id: one for one in judge(Subject(zone), {})}
    assert (results["W7"].outcome is Outcome.PASSED) is right_


def test_a_should_that_is_not_kept_is_a_warning_and_a_must_a_failure():
    assert judged(server=says(f"2.0.192.{ZONE}", answer=GONE))["W21"] is Outcome.WARNED
    assert judged(server=says(TEST, answer=GONE))["W12"] is Outcome.FAILED


def test_a_list_of_ipv4_addresses_is_not_asked_for_others():
    subject = Subject(ZONE, (V4,), ipv4_only=True)
    assert not [question for question in questions(subject) if len(question.name) > 60]
    assert judged(subject)["W15"] is Outcome.SKIPPED


@pytest.mark.parametrize(("value", "outcome"), [("127.0.0.3", "PASSED"), ("127.0.0.2", "WARNED")])
def test_a_sub_list_is_looked_at_if_there_is_one(value, outcome):
    def server(question: Question) -> Answer:
        if question == Question(f"outputs.{ZONE}", "SOA"):
            return Answer("NOERROR", ("ns. host. 1 2 3 4 5",), 300)
        if question.name == f"3.0.0.127.outputs.{ZONE}":
            return listed(value)
        return right(question)

    assert judged(server=server)["W6"] is Outcome[outcome]


def test_no_server_at_all_passes_nothing_that_it_should_show():
    found = judged(server=lambda _: None)
    assert {id_ for id_, one in found.items() if one is Outcome.PASSED} == {"W7"}


def test_a_listed_documentation_address_is_not_expected_to_be_absent():
    subject = Subject(ZONE, (ip_address("192.0.2.1"),))
    assert ip_address("192.0.2.1") not in subject.unlisted
    assert len(subject.unlisted) == 2
