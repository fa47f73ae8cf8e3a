"""Samples of spam: what is taken for a mail message."""

import pytest

from relaytest.core.nomination import sample_fault


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
