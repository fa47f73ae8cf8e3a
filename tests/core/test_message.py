"""The message of a probe: small, plain, and giving nothing away."""

import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from email.utils import parsedate_to_datetime
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.config import LONGEST_SINK_DOMAIN
from relaytest.core.message import compose, compose_check, is_ours
from relaytest.core.probe import parse_battery
from relaytest.core.token import LENGTH

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
FORM = next(form for form in BATTERY.forms if form.id == "S-EXT/R-P-H")
NOW = datetime(2026, 11, 2, 10, 20, 30, tzinfo=UTC)
SENDER = "s" * LENGTH + "@sink.example"


def composed(form=FORM, **changes):
    arguments: dict[str, Any] = {
        "trial": 7,
        "mailbox": SENDER,
        "ehlo_name": "probe.checker.example",
        "contact": "abuse@checker.example",
        "now": NOW,
    }
    return compose(form, **(arguments | changes))


MESSAGES = {
    "probe": composed(),
    "probe-without-contact": composed(contact=""),
    "check": compose_check(5, ehlo_name="probe.checker.example", now=NOW),
}


def parsed(octets):
    return message_from_bytes(octets, policy=default)


def lines_of(octets):
    return octets.decode("ascii").split("\r\n")


messages = pytest.mark.parametrize("octets", MESSAGES.values(), ids=MESSAGES)


@messages
def test_a_message_is_ascii(octets):
    assert octets.isascii()


@messages
def test_every_line_ends_with_crlf(octets):
    assert octets.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)


@messages
def test_no_line_is_longer_than_78_characters(octets):
    assert max(len(line) for line in octets.split(b"\r\n")) <= 78


@messages
def test_the_header_is_well_formed(octets):
    assert parsed(octets).defects == []


@messages
def test_the_date_is_the_time_of_sending(octets):
    assert parsedate_to_datetime(parsed(octets)["Date"]) == NOW


@messages
def test_every_header_field_of_rfc_5322_is_there_once(octets):
    message = parsed(octets)
    assert [len(message.get_all(name, [])) for name in ("From", "To", "Date", "Message-ID")] == [
        1,
        1,
        1,
        1,
    ]


@messages
def test_a_vacation_answer_is_told_not_to_come(octets):
    assert parsed(octets)["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_no_subject_has_what_honeypots_look_for(form):
    subject = parsed(composed(form))["Subject"].lower()
    assert not re.search(r"test|relay|\d+\.\d+|\[|:", subject)


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_each_form_has_a_message_of_its_own(form):
    assert {f"Reference: 7-{form.number}", f"Envelope form: {form.id}"} <= {
        *lines_of(composed(form))
    }


def test_the_reference_is_trial_and_form():
    message = parsed(composed(trial=4711))
    assert message["Message-ID"] == f"<4711-{FORM.number}@probe.checker.example>"
    assert message["Subject"] == f"Mail routing notice 4711-{FORM.number}"


OURS = composed()


@pytest.mark.parametrize(
    ("change", "ours"),
    [
        (lambda octets: octets, True),
        (lambda octets: b"Received: from a by b\r\n" + octets, True),
        (lambda octets: octets.replace(b"\r\n", b"\n"), True),
        (lambda octets: octets.replace(b"Message-ID: <", b"Message-ID: <new."), True),
        (lambda octets: octets.replace(b"From: Mail routing check", b"From: x"), True),
        (lambda octets: octets.replace(b"Subject: ", b"Subject: [external] "), True),
        (lambda _: b'From: "Mail routing check" <x@x>\r\n\r\n', True),
        (lambda _: b"Subject: Mail routing\r\n notice 7-%d\r\n\r\n" % FORM.number, True),
        (lambda octets: b"Subject: Undelivered\r\n\r\n" + octets, False),
        (lambda _: b"", False),
        (lambda _: b"Subject: Re: Mail routing notice 7-1\r\n\r\n", False),
    ],
)
def test_what_is_left_of_our_header_is_known_and_a_quoted_one_is_not(change, ours):
    assert is_ours(change(OURS), trial=7, form=FORM.number) is ours


def test_answers_to_the_header_go_to_the_reverse_path_mailbox():
    assert parsed(composed())["From"].addresses[0].addr_spec == SENDER


def test_an_answer_to_all_recipients_reaches_nobody_else():
    assert parsed(composed())["To"].addresses == ()


@pytest.mark.parametrize("words", ["relay", "nominated", "strangers", "probe.checker.example"])
def test_the_text_says_openly_what_it_is_why_and_from_whom(words):
    assert words in parsed(composed()).get_content()


def test_the_contact_is_shown():
    assert "Questions and objections: abuse@checker.example" in lines_of(composed())


def test_without_a_contact_objections_go_to_our_postmaster():
    contact = "Questions and objections: postmaster@probe.checker.example"
    assert contact in lines_of(composed(contact=""))


@given(st.text(max_size=200).filter(str.isprintable))
@settings(derandomize=True, deadline=None)
def test_any_printable_contact_keeps_the_message_ascii(contact):
    assert composed(contact=contact).isascii()


def test_the_longest_names_that_can_be_configured_keep_within_the_limit_of_rfc_5321():
    longest = composed(
        trial=2**40 - 1,
        mailbox=f"{'s' * LENGTH}@{'d' * LONGEST_SINK_DOMAIN}",
        ehlo_name="n" * 253,
        contact="c" * 200,
    )
    assert max(len(line) for line in longest.split(b"\r\n")) <= 998


def test_a_sink_check_names_its_number_and_comes_from_us():
    message = parsed(MESSAGES["check"])
    assert message["Message-ID"] == "<check.5@probe.checker.example>"
    assert message["From"].addresses[0].addr_spec == "postmaster@probe.checker.example"
