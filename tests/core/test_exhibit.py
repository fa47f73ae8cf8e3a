"""What is shown of a trial's evidence: which lines decide, and no more than a page holds."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.exhibit import deciding, within
from relaytest.core.token import Mailbox, Token, issue
from relaytest.core.transcript import Exchange, Transcript

TOKEN = issue(b"k" * 32, Token(Mailbox.FORWARD, 257, 1))
OTHER = issue(b"k" * 32, Token(Mailbox.FORWARD, 258, 1))
KNOWN = {TOKEN.encode()}


def session(*said: str):
    """Lines of a session: "C: ..." is ours, "S: ..." the server's."""
    transcript = Transcript()
    for line in said:
        transcript.add(Exchange(0.0, line.startswith("C: "), line[3:].encode() + b"\r\n"))
    return list(transcript.lines())


def marked(lines, tokens=KNOWN) -> list[str]:
    return [lines[place].octets.decode() for place in sorted(deciding(lines, tokens))]


def test_sender_recipient_and_the_last_word_decide():
    lines = session(
        *("S: 220 mx", "C: MAIL FROM:<x>", f"C: RCPT TO:<{TOKEN.upper()}@s>", "C: DATA"),
        *("S: 250 a", "S: 250 b", "S: 354 c", "C: Hi", "C: ..", "C: .", "S: 250 queued as 7"),
        *("C: MAIL FROM:<y>", f"C: RCPT TO:<{OTHER}@s>", "C: DATA", "S: 250 d", "C: ."),
        "S: 250 queued as 8",
    )
    assert marked(lines) == ["MAIL FROM:<x>", f"RCPT TO:<{TOKEN.upper()}@s>", "250 queued as 7"]
    assert len(marked(lines, {*KNOWN, OTHER.encode()})) == 6


def test_what_was_only_asked_decides_nothing():
    asked = ("C: MAIL FROM:<x>", f"C: RCPT TO:<{TOKEN}@s>")
    assert marked(session(*asked, "C: RSET", "S: 250 a", "S: 250 b", "C: DATA", "C: .")) == []
    assert marked(session(*asked)) == []
    assert marked(session(*asked, "C: DATA", "S: 354 Go", "C: Hi")) == []


def test_without_a_last_word_there_is_none_to_mark():
    lines = session("C: MAIL FROM:<x>", f"C: RCPT TO:<{TOKEN}@s>", "C: DATA", "S: 354 Go", "C: .")
    assert marked(lines) == ["MAIL FROM:<x>", f"RCPT TO:<{TOKEN}@s>", "."]


def test_what_the_server_repeats_decides_nothing():
    lines = session(f"S: RCPT TO:<{TOKEN}@s>", "C: DATA", "C: .", f"C: Subject: RCPT {TOKEN}")
    assert marked(lines) == []
    assert deciding(lines, set()) == set()


def test_so_much_is_shown_and_no_more():
    assert within(["ab", "cd"], 6) == (["ab", "cd"], True)
    assert within(["ab", "cd"], 5) == (["ab"], False)
    assert within(["ab", "cd"], 6, each=2) == (["ab"], False)
    assert within(["<"], 4) == ([], False)  # it takes five in a page
    assert within([], 0) == ([], True)


@pytest.mark.parametrize("before", range(970, 1001))
def test_no_part_of_a_token_is_left_where_a_line_is_cut(before):
    ((shown,), whole) = within(["0" * before + TOKEN], 9999)
    assert whole
    assert "".join(set(shown) - set("0(token)cut ")) == ""
    assert len(shown) <= 1006


@given(st.lists(st.text(max_size=300), max_size=20), st.integers(0, 2000))
def test_a_page_holds_it_whatever_it_is(texts, most):
    shown, _ = within(texts, most)
    assert sum(len(html.escape(text)) + 1 for text in shown) <= most
