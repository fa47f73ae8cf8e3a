"""What a visit found, as it is stored and judged."""

from datetime import UTC, datetime

import pytest

from relaytest.core.dialogue import Answers, Break, Broken, Hello, Outcome, Step
from relaytest.core.evidence import Asked, Met
from relaytest.core.plan import Purpose
from relaytest.core.reply import Reply
from relaytest.core.visit import SessionRecord, asked_in

NOW = datetime(2026, 11, 2, 10, 20, 30, tzinfo=UTC)
GREETING = Reply(220, ("mx.shop.example ESMTP",))
EHLO = Reply(250, ("mx.shop.example",))
NO_SERVICE = Reply(554, ("No SMTP service here",))
DENIED = Reply(554, ("5.7.1 Relay access denied",))
HELLO = Hello(GREETING, EHLO)


def record(**found):
    return SessionRecord(Purpose.ASK, NOW, **found)


SESSIONS = {
    "complete": (record(hello=HELLO), "complete"),
    "hung-up": (record(hello=HELLO, answers=Answers(hung_up=True)), "hung-up"),
    "banner": (record(hello=Hello(NO_SERVICE)), "rejected"),
    "ehlo-and-helo": (record(hello=Hello(GREETING, NO_SERVICE, b"HELO")), "rejected"),
    "no-hello": (record(), "rejected"),
    **{kind.value: (record(hello=HELLO, broken=Broken(kind, "so")), kind.value) for kind in Break},
    "broken-before-hello": (record(broken=Broken(Break.REFUSED, "nobody")), "refused"),
    "broken-after-421": (
        record(hello=HELLO, answers=Answers(hung_up=True), broken=Broken(Break.CLOSED, "hung up")),
        "closed",
    ),
}


@pytest.mark.parametrize(("session", "ended"), SESSIONS.values(), ids=SESSIONS)
def test_a_session_tells_how_it_ended(session, ended):
    assert session.ended == ended


@pytest.mark.parametrize(("session", "ended"), SESSIONS.values(), ids=SESSIONS)
def test_only_a_session_that_was_cut_short_shows_strain(session, ended):
    assert session.strained is (ended not in {"complete", "desync"})


def test_a_session_that_was_only_slow_shows_no_strain():
    slow = record(hello=HELLO, broken=Broken(Break.TIMEOUT, "the session took too long"))
    assert slow.strained
    slow.answers.outcomes.append(Outcome(1, Step.RCPT, EHLO))
    assert not slow.strained


def test_the_pace_is_seconds_for_each_form():
    session = record(hello=HELLO)
    assert session.pace == 0.0
    session.seconds = 6.0
    session.answers.outcomes += [Outcome(number, Step.RCPT, EHLO) for number in (1, 2, 3)]
    assert session.pace == 2.0


def test_the_judge_learns_both_first_replies():
    assert record(hello=HELLO).met(3) == Met(3, "complete", "", GREETING, EHLO)


def test_the_judge_learns_what_broke_a_session():
    broken = record(broken=Broken(Break.TIMEOUT, "no greeting in 60 s"))
    assert broken.met(1) == Met(1, "timeout", "no greeting in 60 s", None, None)


def test_the_outcomes_of_all_sessions_are_those_of_the_visit():
    first = record(answers=Answers([Outcome(257, Step.RCPT, DENIED)]))
    second = record(
        answers=Answers([Outcome(258, Step.RCPT, DENIED), Outcome(259, Step.END_OF_DATA, None)])
    )
    assert asked_in([first, record(), second], 2) == (
        Asked(257, Step.RCPT, DENIED, 2),
        Asked(258, Step.RCPT, DENIED, 2),
        Asked(259, Step.END_OF_DATA, None, 2),
    )


def test_no_session_means_nothing_asked():
    assert asked_in([], 1) == ()


def test_records_share_nothing():
    one, other = record(), record()
    one.answers.outcomes.append(Outcome(257, Step.RCPT, DENIED))
    assert other.answers.outcomes == []
