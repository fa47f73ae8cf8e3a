"""What a check of a list asks."""

from ipaddress import ip_address

import pytest

from relaytest.core.dns_check import (
    Answer,
    Question,
    Subject,
    codes,
    further,
    in_words,
    parents,
    questions,
)

ZONE = "relays.example"
V4, V6 = ip_address("192.0.2.99"), ip_address("2001:db8::1")
TEST = Question(f"2.0.0.127.{ZONE}", "A")


def test_entries_are_asked_for_with_their_reasons_and_the_names_above_them():
    asked = set(questions(Subject(ZONE, (V4,))))
    for name in ("99.2.0.192", "2.0.0.127"):
        assert {Question(f"{name}.{ZONE}", kind) for kind in ("A", "TXT")} <= asked
    assert {Question(f"{name}.{ZONE}", "A") for name in ("2.0.192", "0.192", "192")} <= asked


def test_nothing_is_asked_twice():
    asked = questions(Subject(ZONE, (V4, V6, V4)))
    assert len(set(asked)) == len(asked)


def test_the_names_above_an_entry_end_below_the_zone():
    assert list(parents(f"99.2.0.192.{ZONE}", ZONE)) == [
        f"{labels}.{ZONE}" for labels in ("2.0.192", "0.192", "192")
    ]


def test_values_that_were_seen_lead_to_their_test_entries():
    subject = Subject(ZONE, (V4,), ipv4_only=True)
    answers = {
        TEST: Answer("NOERROR", ("127.0.0.2",), 300),
        Question(f"99.2.0.192.{ZONE}", "A"): Answer("NOERROR", ("127.0.0.9", "127.1.0.1"), 300),
        Question(f"2.0.0.127.{ZONE}", "TXT"): None,
    }
    assert list(map(str, codes(subject, answers))) == ["127.0.0.2", "127.0.0.9"]
    assert set(further(subject, answers)) == {
        Question(f"9.0.0.127.{ZONE}", "A"),
        Question(f"9.0.0.127.{ZONE}", "TXT"),
    }


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer("NOERROR", ("127.0.0.2",), 300),
            "DNS says that it is listed (127.0.0.2); resolvers may keep an old answer for 300 s",
        ),
        (
            Answer("NXDOMAIN", negative=(60, 300)),
            "DNS says that it is not listed; resolvers may keep an old answer for 60 s",
        ),
        (Answer("NXDOMAIN"), "DNS says that it is not listed"),
        (Answer("SERVFAIL"), "DNS gives no answer at this moment (SERVFAIL)"),
        (None, "DNS gives no answer at this moment"),
    ],
)
def test_an_answer_is_told_in_words(answer, words):
    assert in_words(answer) == words
