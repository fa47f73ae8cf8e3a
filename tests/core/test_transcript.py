"""The record of a session keeps every octet, shows it safely, and is bounded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.transcript import (
    MAX_EXCHANGES,
    MAX_OCTETS,
    Exchange,
    Transcript,
    visible,
)


def record(*pieces):
    """A transcript of pieces one second apart; those with a leading ">" were sent."""
    talk = Transcript()
    for after, piece in enumerate(pieces):
        sent = piece.startswith(b">")
        talk.add(Exchange(float(after), sent, piece.removeprefix(b">")))
    return talk


def test_each_direction_is_kept_as_it_came():
    talk = record(b"220 mx\r\n", b">EHLO x\r\n", b"250 \xff\0\r\n")
    assert talk.exchanges == [
        Exchange(0.0, False, b"220 mx\r\n"),
        Exchange(1.0, True, b"EHLO x\r\n"),
        Exchange(2.0, False, b"250 \xff\0\r\n"),
    ]
    assert (talk.size, talk.dropped) == (24, 0)


def test_the_pieces_of_a_line_are_one_exchange_with_the_time_of_the_first():
    assert record(b"22", b"0 m", b"x\r\n", b"250 Ok\r\n").exchanges == [
        Exchange(0.0, False, b"220 mx\r\n"),
        Exchange(3.0, False, b"250 Ok\r\n"),
    ]


def test_a_line_that_the_other_side_breaks_into_stays_broken():
    talk = record(b"250-a", b">QUIT\r\n", b"b\r\n", b">x", b">y\r\n")
    assert [one.octets for one in talk.exchanges] == [b"250-a", b"QUIT\r\n", b"b\r\n", b"xy\r\n"]


def test_nothing_is_no_exchange():
    assert record(b"", b">") == Transcript()


@pytest.mark.parametrize("last", [b"x", b"x" * 100])
def test_what_fits_is_kept_and_the_rest_counted(last):
    talk = record(b"a" * (MAX_OCTETS - 2) + b"\n", b"b" + last, b"c\n", b">d\n")
    assert talk.size == MAX_OCTETS == sum(len(one.octets) for one in talk.exchanges)
    assert talk.exchanges[-1].octets == b"b"
    assert talk.dropped == len(last) + 4


def test_one_piece_may_fill_it():
    talk = record(b"a" * (MAX_OCTETS + 7))
    assert (talk.size, talk.dropped, len(talk.exchanges)) == (MAX_OCTETS, 7, 1)


def test_after_the_first_gap_nothing_more_is_kept():
    """Otherwise it would look as if the server had said these two things one after the other."""
    talk = record(*[b"x\n"] * MAX_EXCHANGES, b"long line\n", b"y\n", b">z\n")
    assert (len(talk.exchanges), talk.dropped) == (MAX_EXCHANGES, 14)
    assert {one.octets for one in talk.exchanges} == {b"x\n"}


def test_a_line_does_not_go_on_after_a_gap():
    talk = record(*[b"x\n"] * (MAX_EXCHANGES - 1), b"22", b">y\n", b"0\r\n")
    assert (talk.exchanges[-1].octets, talk.dropped) == (b"22", 5)


def test_the_last_exchange_may_still_get_the_rest_of_its_line():
    talk = record(*[b"x\n"] * (MAX_EXCHANGES - 1), b"22", b"0\r\n", b"z\n")
    assert talk.exchanges[-1].octets == b"220\r\n"
    assert talk.dropped == 2


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=8)), max_size=30))
def test_no_octet_is_lost_or_moved(pieces):
    talk = Transcript()
    for sent, octets in pieces:
        talk.add(Exchange(0.0, sent, octets))
    for way in (True, False):
        wanted = b"".join(octets for sent, octets in pieces if sent is way)
        assert b"".join(one.octets for one in talk.exchanges if one.sent is way) == wanted
    assert talk.size == sum(len(octets) for _, octets in pieces)
    assert all(one.octets for one in talk.exchanges)


def test_the_text_has_a_line_for_each_wire_line_with_times():
    talk = record(b"220-mx\r\n22", b"0 x\n", b">EHLO y\r\n")
    assert talk.as_text().splitlines() == [
        "   0.000 S: 220-mx",
        "   0.000 S: 220 x",
        "   2.000 C: EHLO y",
    ]


def test_a_bare_cr_shows_instead_of_making_a_line():
    assert record(b"250 Ok\r550 No\r\r\n").as_text() == "   0.000 S: 250 Ok\\x0d550 No\\x0d"


def test_the_text_is_harmless_and_says_what_is_missing():
    talk = record(b"\x1b]0;x\x07\xc2\x9b\n" + b"a" * MAX_OCTETS)
    first, *_, last = talk.as_text().splitlines()
    assert first == "   0.000 S: \\x1b]0;x\\x07\\xc2\\x9b"
    assert last == "(9 more octets were not kept)"


def test_an_empty_transcript_is_an_empty_text():
    assert Transcript().as_text() == ""


@given(st.binary())
@settings(derandomize=True)
def test_visible_text_is_printable_and_tells_all_octets_apart(octets):
    text = visible(octets)
    assert text.isascii()
    assert text.isprintable()
    assert text.encode().decode("unicode_escape").encode("latin-1") == octets
