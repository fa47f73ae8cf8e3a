"""Samples of spam: what is taken for a mail message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.nomination import Samples, sample_fault, samples_in


@pytest.mark.parametrize(
    "octets",
    [
        b"Received: from x by y\r\n\r\nBuy!",
        b"\r\nSubject: Buy!",
        b"From spammer@example.com Thu Jan  1 00:00:00 2026\nX: y\n",
        b">From x\nX: y",
        b"X-Odd :\xff\xfe\x00",
    ],
)
def test_a_message_is_taken(octets):
    assert sample_fault(octets) is None


@pytest.mark.parametrize(
    ("octets", "told"),
    [
        (b"", "it is empty"),
        (b" \r\n\t\n", "it is empty"),
        (b"Buy cheap pills!", 'not with "Buy cheap pills!"'),
        (b"\x7fELF\x00", "must begin with a header field"),
        (b" : folded", "must begin with a header field"),
        (b"one\ntwo", 'not with "one"'),
    ],
)
def test_anything_else_is_told(octets, told):
    assert told in sample_fault(octets)


# --- messages that a mail forwards


def forwarding(*attached: bytes, boundary=b"x") -> bytes:
    parts = b"".join(
        b"--%b\r\nContent-Type: message/rfc822\r\n\r\n%b\r\n" % (boundary, one) for one in attached
    )
    text = b"--%b\r\nContent-Type: text/plain\r\n\r\nSee below.\r\n" % boundary
    kind = b'Received: from us\r\nContent-Type: multipart/mixed; boundary="%b"\r\n\r\n' % boundary
    return kind + text + parts + b"--%b--\r\n" % boundary


LONG = b"Received: from a ([11.0.0.1])\r\n\tby b; " + b"x" * 300
ODD = b"%b\r\nSubject: \xff\xfe =?utf-8?q?=FF?=\r\nX: %b\r\n\r\n\xff From here\r\n" % (
    LONG,
    b"y " * 200,
)


@pytest.mark.parametrize(
    "inside", [ODD, b"Subject: x\r\n\r\n", forwarding(b"A: b\r\n\r\nc", boundary=b"y")]
)
def test_an_attached_message_is_the_sample_octet_for_octet(inside):
    (found,) = samples_in(forwarding(inside))
    lines = [line.rstrip(b"\r") for line in found.rstrip().split(b"\n")]
    assert lines == [line.rstrip(b"\r") for line in inside.rstrip().split(b"\n")]


def test_several_are_several_samples_but_not_without_end():
    assert len(samples_in(forwarding(*[b"A: b\r\n\r\nc"] * 3))) == 3
    assert len(samples_in(forwarding(*[b"A: b\r\n\r\nc"] * 50))) == 10


def test_a_mail_without_any_is_the_sample_itself():
    for mail in (ODD, b"", b"\x00" * 100, b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x"):
        assert samples_in(mail) == [mail]


@given(st.binary(max_size=500), st.integers(0, 500))
def test_any_mail_has_samples(noise, cut):
    mail = forwarding(ODD)
    assert samples_in(mail[:cut] + noise + mail[cut:])


@pytest.mark.parametrize("mailbox", ["x", "@b.example", "a@b", "a b@", "a@"])
def test_a_mailbox_for_samples_is_a_mailbox(mailbox):
    with pytest.raises(ValueError, match="must be a mailbox"):
        Samples(mailbox=mailbox)
