"""Reports to abuse contacts, read by a parser that is not the one that made them."""

import hashlib
import quopri
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from fast_mail_parser import parse_email
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.arf import Returned, contact_of, report
from relaytest.core.mailing import Letter, Outcome, Slip
from relaytest.core.token import Mailbox, Token, issue, mask_octets

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LETTER = Letter("list@relays.example", "https://relays.example", "relays.example", "mx.example")
SLIP = Slip(3, "abuse@net.example", "code-1", NOW)
TOLD = Outcome(ip_address("192.0.2.1"), 25, 7, "open", "The server relays.", listed=True)
FORWARD, REVERSE = (
    issue(b"k" * 32, Token(mailbox, 257, 7)) for mailbox in (Mailbox.FORWARD, Mailbox.REVERSE)
)
MESSAGE = f"""\
Received: from mail.example (mail.example [192.0.2.1])\r
\tby sink.example with ESMTP id 1 for <{FORWARD}@sink.example>;\t  \r
  Fri, 2 Jan 2026 03:04:05 +0000\r
X-Long: {"0 " * 450} \r
From: Mail routing check <{REVERSE}@sink.example>\r
Subject: Mail  routing\tnotice\r
\r
.\r
--report-\r
\r
From here on \r
""".encode()
BACK = Returned(
    peer=ip_address("192.0.2.1"),
    received_at=NOW,
    reverse_path=f"<{REVERSE}@sink.example>".encode(),
    forward_path=f"<{FORWARD}@sink.example>".encode(),
    message=MESSAGE,
    size=len(MESSAGE),
    copies=2,
)


def with_message(message: bytes) -> Returned:
    return replace(BACK, message=message, size=len(message))


def made(returned=BACK, told=TOLD, name="mail.example") -> bytes:
    octets = report(LETTER, SLIP, told, returned, name)
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert octets.isascii()
    return octets


def parts_of(octets: bytes) -> dict[str, bytes]:
    """What the independent parser finds: content by type."""
    mail = parse_email(octets)
    (text,) = mail.text_plain
    found = [("text/plain", text.encode()), *((a.mimetype, a.content) for a in mail.attachments)]
    assert len(found) == 3
    return dict(found)


def fields_of(octets: bytes) -> dict[str, str]:
    lines = parts_of(octets)["message/feedback-report"].decode("ascii").split("\r\n")
    return dict(line.split(": ", 1) for line in lines if line)


def test_a_report_has_the_three_parts_of_its_format():
    mail = parse_email(made())
    (kind,) = mail.headers["Content-Type"]
    assert kind.startswith("multipart/report; report-type=")
    assert "feedback-report" in kind
    assert mail.headers["Auto-Submitted"] == ["auto-generated"]
    assert mail.headers["To"] == ["abuse@net.example"]
    assert mail.headers["List-Unsubscribe"] == ["<https://relays.example/mail/code-1>"]
    assert list(parts_of(made())) == ["text/plain", "message/feedback-report", "message/rfc822"]


def test_programs_read_what_it_is_about():
    fields = fields_of(made())
    assert fields.pop("User-Agent").startswith("relaytest/")
    assert fields == {
        "Feedback-Type": "abuse",
        "Version": "1",
        "Source-IP": "192.0.2.1",
        "Arrival-Date": "Fri, 02 Jan 2026 03:04:05 +0000",
        "Original-Mail-From": "<token@sink.example>",
        "Original-Rcpt-To": "<token@sink.example>",
        "Reporting-MTA": "dns; mx.example",
        "Reported-Domain": "mail.example",
        "Incidents": "2",
    }
    assert "Reported-Domain" not in fields_of(made(name=""))


def test_people_read_all_that_they_need():
    words = " ".join(parts_of(made())["text/plain"].decode().split())
    for part in (
        "192.0.2.1 (port 25) in your network passes on mail",
        "We do not call its owner a spammer",
        "At 2026-01-02 03:04:05 UTC",
        "The server relays.",
        hashlib.sha256(MESSAGE).hexdigest(),
        "https://relays.example/evidence/7",
        "https://relays.example/fix/192.0.2.1",
        "https://relays.example/lookup/192.0.2.1",
        "No mail from us any more: https://relays.example/mail/code-1",
    ):
        assert part in words
    assert "by way of" not in words
    exit_ = replace(BACK, peer=ip_address("192.0.2.9"))
    assert "by way of 192.0.2.9" in " ".join(parts_of(made(exit_))["text/plain"].decode().split())


def test_the_evidence_is_octet_for_octet_what_came_but_for_our_tokens():
    octets = made()
    shown = parts_of(octets)["message/rfc822"]
    secret = (FORWARD.encode(), REVERSE.encode())
    assert shown == MESSAGE.replace(secret[0], b"(token)").replace(secret[1], b"(token)")
    assert not [one for one in secret if one in octets]


ODD = {
    "8-bit": b"Subject: \xe4\r\n\r\nx\r\n",
    "null": b"Subject: a\0b\r\n\r\nx\r\n",
    "lone-lf": b"Subject: x\r\n\r\na\nb\r\n",
    "lone-cr": b"Subject: x\r\n\r\na\rb\r\n",
    "long-line": b"Subject: " + b"0 " * 1000 + b"\r\n\r\nx\r\n",
}


@pytest.mark.parametrize("message", ODD.values(), ids=ODD)
def test_what_no_mail_may_hold_is_shown_by_its_header_section(message):
    octets = made(with_message(message))
    shown = parts_of(octets)["text/rfc822-headers"]
    assert shown == message.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert b"Its header section is attached" in octets


def test_what_is_not_whole_is_shown_by_its_header_section():
    cut = replace(BACK, size=len(MESSAGE) + 1)
    octets = made(cut)
    assert b"SHA-256 of the first " in octets
    shown = parts_of(octets)["text/rfc822-headers"]
    assert shown == mask_octets(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n")


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_whatever_came_back_makes_a_report_that_says_the_same(message, path):
    returned = replace(with_message(message), reverse_path=path, forward_path=path)
    octets = made(returned, replace(TOLD, explanation=message.decode("latin-1")))
    fields = fields_of(octets)
    assert fields["Source-IP"] == "192.0.2.1"
    assert len(fields) == 10
    parts = parts_of(octets)
    if "message/rfc822" in parts:
        assert parts["message/rfc822"] == mask_octets(message)
    else:
        assert "text/rfc822-headers" in parts


def test_the_header_section_in_the_mail_is_quoted_printable():
    octets = made(with_message(ODD["8-bit"]))
    encoded = octets.partition(b"text/rfc822-headers\r\n")[2].partition(b"\r\n\r\n")[2]
    assert quopri.decodestring(encoded).startswith(b"Subject: \xe4\r\n")


# --- contacts


@pytest.mark.parametrize(
    ("texts", "mailbox"),
    [
        (["abuse@net.example"], "abuse@net.example"),
        (["a b@c.example", " Abuse@Net.Example "], "Abuse@net.example"),
        (["x,abuse@net.example,noc@net.example"], "abuse@net.example"),
        ([], ""),
        (["", "no contact", "a@b", "a@[192.0.2.1]", "a@b.example\r\nBcc: c@d.example"], ""),
        (["x"] * 10 + ["abuse@net.example"], ""),
        ([",".join(["x"] * 10 + ["abuse@net.example"])], ""),
    ],
)
def test_the_first_mailbox_of_an_answer_is_the_contact(texts, mailbox):
    assert contact_of(texts) == mailbox
