"""Our mail to people: plain, short, harmless, and only to what is a mailbox."""

import email
import email.policy
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.mailing import (
    Letter,
    Mail,
    NotAMailboxError,
    Outcome,
    Slip,
    parse_mailbox,
    postmaster_of,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LETTER = Letter("list@relays.example", "https://relays.example", "relays.example", "mx.example")
ADDRESS = ip_address("192.0.2.1")
TOKEN = "aeaqcaaaaaaac4u3t2enjwg3ki"


def outcome(explanation="The server relays.", *, listed=True) -> Outcome:
    return Outcome(ADDRESS, 25, 7, "open", explanation, listed)


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("a@b.example", "a@b.example"),
        (" Ann.O'Neil+x@B.Example. ", "Ann.O'Neil+x@b.example"),
        ("x" * 64 + "@b.example", "x" * 64 + "@b.example"),
    ],
)
def test_a_mailbox_is_taken(text, mailbox):
    assert parse_mailbox(text) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a@", "@b.example", "a@b", "a b@c.example", "a@b@c.example", "a..b@c.example"),
        *("a@b.example\r\nBcc: x@y.example", "a\r\n@b.example", "<a@b.example>", '"a b"@c.example'),
        *(
            "a@[192.0.2.1]",
            "x" * 65 + "@b.example",
            "a@" + "b" * 250 + ".example",
            "\u00e4@b.example",
        ),
        *("a%b@c.example", "a,b@c.example", "a@b.example,c@d.example", "a@b.example\x00"),
    ],
)
def test_what_is_no_mailbox_is_refused(text):
    with pytest.raises(NotAMailboxError):
        parse_mailbox(text)


@given(st.text(max_size=300))
def test_whatever_is_taken_is_one_word_without_controls(text):
    try:
        mailbox = parse_mailbox(text)
    except NotAMailboxError:
        return
    assert mailbox.isascii()
    assert mailbox.isprintable()
    assert not set(mailbox) & set(' <>",;:%()[]\\')
    assert mailbox.count("@") == 1


def slip(to="a@b.example") -> Slip:
    return Slip(3, to, "code-1", NOW)


def read(octets: bytes):
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert b"\n" not in octets.replace(b"\r\n", b"")
    return email.message_from_bytes(octets, policy=email.policy.default)


def test_a_confirmation_says_what_it_is_for():
    message = read(LETTER.confirm(slip(), ADDRESS))
    assert (message["To"], message["Auto-Submitted"]) == ("a@b.example", "auto-generated")
    assert "list@relays.example" in message["From"]
    assert message["Message-ID"] == "<mail-3@mx.example>"
    assert "https://relays.example/mail/code-1" in message.get_content()
    assert "192.0.2.1" in message.get_content()


@pytest.mark.parametrize(("listed", "said"), [(True, "It is on"), (False, "It is not on")])
def test_an_outcome_has_verdict_state_and_links(listed, said):
    text = read(LETTER.outcome(slip(), outcome(listed=listed))).get_content()
    for part in (said, "Verdict: open", "/evidence/7", "/fix/192.0.2.1", "/mail/code-1"):
        assert part in text


def test_a_notice_goes_to_the_postmaster_and_calls_nobody_a_spammer():
    to = postmaster_of(ip_address("2001:db8::1"))
    assert to == "postmaster@[IPv6:2001:db8::1]"
    text = read(LETTER.notice(slip(to), outcome())).get_content()
    assert "We do not call you a spammer" in " ".join(text.split())
    assert "https://relays.example/lookup/192.0.2.1" in text


def test_every_mail_has_a_link_to_stop_them():
    for octets in (
        LETTER.confirm(slip(), ADDRESS),
        LETTER.outcome(slip(), outcome()),
        LETTER.notice(slip("postmaster@[192.0.2.1]"), outcome()),
    ):
        message = read(octets)
        assert message["List-Unsubscribe"] == "<https://relays.example/mail/code-1>"
        assert "https://relays.example/mail/code-1\r\n" in message.get_content()


@given(st.text(max_size=500))
def test_what_a_server_said_makes_no_line_of_ours_and_shows_no_token(said):
    octets = LETTER.outcome(slip(), outcome(f"{said} {TOKEN} {said}"))
    message = read(octets)
    assert TOKEN not in octets.decode("ascii")
    assert set(message.keys()) == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"),
        *("X-Auto-Response-Suppress", "Content-Type", "Content-Transfer-Encoding"),
        "List-Unsubscribe",
    }


@pytest.mark.parametrize(
    "values", [{"smarthost": "x"}, {"sender": "x"}, {"sender": "a@b.example\r\nX: y"}]
)
def test_the_configuration_is_checked(values):
    with pytest.raises(ValueError, match=r"mailbox|address:port"):
        Mail(**values)


def test_without_a_smarthost_and_a_sender_no_mail_is_possible():
    assert not Mail(smarthost="127.0.0.1:25").possible
    assert not Mail(sender="a@b.example").possible
    assert Mail(smarthost="127.0.0.1:25", sender="a@b.example").possible
