"""What a scout that failed teaches: one step at a time, and never in a circle."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.dialogue import Answers, Break, Broken, Hello, Outcome, Step
from relaytest.core.manner import PLAIN, Channel, Manner, after
from relaytest.core.plan import Purpose
from relaytest.core.reply import Reply
from relaytest.core.visit import SessionRecord

GREETING = Reply(220, ("mx.example ESMTP",))
WELCOME = Reply(250, ("mx.example", "STARTTLS"))
BUSY = Reply(421, ("4.7.0 Too many connections",))
LATER = Reply(450, ("4.3.2 Not now",))
NEVER = Reply(554, ("No",))
WANTS_TLS = Reply(530, ("5.7.0 Must issue a STARTTLS command first",))


def scout(greeting=None, reply=None, broken=None, verb=b"EHLO", outcomes=()):
    """A session that went so far."""
    end = None if broken is None else Broken(broken, "it broke")
    return SessionRecord(
        Purpose.SCOUT,
        datetime(2026, 11, 24, tzinfo=UTC),
        hello=Hello(greeting, reply, verb, None if reply and reply.positive else end),
        answers=Answers(list(outcomes)),
        broken=end,
    )


LESSONS = {
    "all is well": (scout(GREETING, WELCOME), {}),
    "hangs up at EHLO": (scout(GREETING, broken=Break.CLOSED), {"old": True}),
    "mute at EHLO": (scout(GREETING, broken=Break.TIMEOUT), {"old": True}),
    "421 to EHLO": (scout(GREETING, BUSY), {"old": True}),
    "450 to EHLO": (scout(GREETING, LATER), {"old": True}),
    "554 to EHLO": (scout(GREETING, NEVER), {}),
    "450 to HELO": (scout(GREETING, LATER, verb=b"HELO"), {}),
    "hangs up at once": (scout(broken=Break.CLOSED), {"again": True}),
    "421 at once": (scout(BUSY), {"again": True}),
    "554 at once": (scout(NEVER), {}),
    "mute": (scout(broken=Break.TIMEOUT), {}),
    "no SMTP": (scout(broken=Break.GARBAGE), {}),
    "greets twice": (scout(GREETING, broken=Break.DESYNC), {"settling": True}),
    "answers MAIL twice": (scout(GREETING, WELCOME, Break.DESYNC), {"settling": True}),
    "hangs up at RCPT": (scout(GREETING, WELCOME, Break.CLOSED), {}),
    "wants TLS": (
        scout(GREETING, WELCOME, outcomes=[Outcome(1, Step.MAIL, WANTS_TLS)]),
        {"channel": Channel.STARTTLS},
    ),
    "wants TLS that it has not": (
        scout(GREETING, Reply(250, ("mx.example",)), outcomes=[Outcome(1, Step.MAIL, WANTS_TLS)]),
        {},
    ),
}


@pytest.mark.parametrize(("record", "change"), LESSONS.values(), ids=LESSONS)
def test_a_scout_teaches_one_thing(record, change):
    assert after(PLAIN, record, starttls=True) == replace(PLAIN, **change)


def test_no_connection_teaches_nothing():
    record = SessionRecord(Purpose.SCOUT, datetime(2026, 11, 24, tzinfo=UTC))
    record.broken = Broken(Break.REFUSED, "no connection")
    assert after(PLAIN, record, starttls=True) == PLAIN


def test_where_no_tls_comes_first_it_goes_on_in_clear():
    record = scout(broken=Break.TLS)
    assert after(Manner(Channel.TLS), record, starttls=True) == PLAIN
    assert after(PLAIN, record, starttls=True) == PLAIN


def test_starttls_is_not_used_where_it_is_not_to_be():
    record = scout(GREETING, WELCOME, outcomes=[Outcome(1, Step.MAIL, WANTS_TLS)])
    assert after(PLAIN, record, starttls=False) == PLAIN
    assert record.answers.outcomes


@given(st.lists(st.sampled_from([record for record, _ in LESSONS.values()]), max_size=40))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_whatever_scouts_find_no_manner_comes_back_once_it_was_left(records):
    """So the scouts end: there are few manners."""
    manner, left = PLAIN, []
    for record in records:
        following = after(manner, record, starttls=True)
        if following != manner:
            left.append(manner)
        assert following not in left
        manner = following
