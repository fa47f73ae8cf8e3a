"""What a reply code means, and what is made of the text."""

import dataclasses

import pytest

from relaytest.core.reply import Reply


@pytest.mark.parametrize(
    ("code", "positive", "transient", "permanent"),
    [
        (200, True, False, False),
        (250, True, False, False),
        (299, True, False, False),
        (354, False, False, False),
        (400, False, True, False),
        (421, False, True, False),
        (499, False, True, False),
        (500, False, False, True),
        (554, False, False, True),
        (599, False, False, True),
    ],
)
def test_the_first_digit_says_what_became_of_the_command(code, positive, transient, permanent):
    reply = Reply(code, ("",))
    assert (reply.positive, reply.transient, reply.permanent) == (positive, transient, permanent)


@pytest.mark.parametrize(
    ("code", "lines", "enhanced"),
    [
        (550, ("5.7.1 Relaying denied",), "5.7.1"),
        (250, ("2.0.0",), "2.0.0"),
        (451, ("4.123.456 later",), "4.123.456"),
        (550, ("5.7.1 first", "5.1.1 last"), "5.1.1"),
        (550, ("5.7.1 first", "last"), None),
        (550, ("",), None),
        (550, ("Relaying denied 5.7.1",), None),
        (550, (" 5.7.1 led by a space",), None),
        (550, ("5.7.1, a comma",), None),
        (550, ("5.7 no",), None),
        (550, ("5.7.1.2 no",), None),
        (550, ("5.7.1234 no",), None),
        (550, ("3.7.1 no such class",), None),
        (550, ("\u0665.7.1 no ASCII digit",), None),
        (550, ("5.\u0667.1 no ASCII digit",), None),
        (550, ("2.7.1 class of another code",), None),
        (250, ("5.7.1 class of another code",), None),
        (354, ("2.0.0 class of another code",), None),
    ],
)
def test_an_enhanced_status_code_begins_the_last_line_and_fits_the_code(code, lines, enhanced):
    assert Reply(code, lines).enhanced == enhanced


def test_the_text_is_all_lines_in_one():
    assert Reply(250, ("  mx.example", "", "PIPELINING  ")).text == "mx.example  PIPELINING"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(250, ("Ok",)), "250 Ok"),
        (Reply(250, ("",)), "250"),
        (Reply(550, ("a", "b"), mixed=True), "550 a b"),
    ],
)
def test_a_reply_can_be_shown(reply, text):
    assert str(reply) == text


def test_a_reply_is_a_value():
    assert Reply(250, ("Ok",)) == Reply(250, ("Ok",), mixed=False)
    assert len({Reply(250, ("Ok",)), Reply(250, ("Ok",))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Reply(250, ("Ok",)).code = 550  # type: ignore[misc]  # that is the test
