"""The message that a probe carries: small, plain, and honest about what it is.

It names neither the tested server nor the word "test" in its Subject (honeypots that relay for
testers only look there), carries nothing that a stranger typed, and does not contain the
forward-path: a bounce that quotes it must not give the token away, and an answer to all
recipients must not reach the mailbox that proves relay.
"""

import re
from datetime import datetime
from email.utils import format_datetime

from relaytest.core.probe import Form

_TEXT = """\
From: Mail routing check <{mailbox}>
To: undisclosed-recipients:;
Date: {date}
Message-ID: <{reference}@{ehlo_name}>
Subject: Mail routing notice {reference}
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

This message checks whether a mail server passes on mail between
strangers ("third-party relay"). It was addressed to a mailbox of the
checker itself and concerns nobody else. If you can read it at its
destination, the server it was handed to has relayed it.

Reference: {reference}
Envelope form: {form}
Sent by: {ehlo_name}
Why: the server was nominated for the DNS list of open relays, is on
it, or its owner asked for a new check.
Questions and objections: {contact}
"""


def compose(
    form: Form, *, trial: int, mailbox: str, ehlo_name: str, contact: str, now: datetime
) -> bytes:
    """Return the message for one form, lines ended by CRLF, ASCII only.

    Args:
        form: Named in the text, so that an owner can find it in the evidence.
        trial: Makes the reference.
        mailbox: Reverse-path mailbox, for answers that go to the header's sender.
        ehlo_name: Our name.
        contact: Where to object; from the configuration.
        now: For the Date field.
    """
    text = _TEXT.format(
        mailbox=mailbox,
        date=format_datetime(now),
        reference=f"{trial}-{form.number}",
        ehlo_name=ehlo_name,
        form=form.id,
        contact=contact or f"postmaster@{ehlo_name}",
    )
    return text.replace("\n", "\r\n").encode("ascii", "replace")


def is_ours(message: bytes, *, trial: int, form: int) -> bool:
    r"""Whether the header of a message is that of a probe's, or what is left of it.

    A bounce or a notice has a header of its own, and quotes ours further down, if at all.

    >>> is_ours(b"Received: x\r\nMessage-ID: <7-257@probe.example>\r\n\r\n", trial=7, form=257)
    True
    >>> is_ours(b"Subject: Held\r\n\r\nMessage-ID: <7-257@probe.example>\r\n", trial=7, form=257)
    False
    """
    header = re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0]
    reference = b"%d-%d" % (trial, form)
    fields = (
        rb"Message-ID:\s*<" + reference + rb"@",
        rb"Subject:\s*Mail\s+routing\s+notice\s+" + reference + rb"\s*$",
        rb'From:\s*"?Mail\s+routing\s+check\b',
    )
    ours = rb"^(" + rb"|".join(fields) + rb")"
    return re.search(ours, header, re.IGNORECASE | re.MULTILINE) is not None


_CHECK = """\
From: Mail routing check <postmaster@{ehlo_name}>
To: undisclosed-recipients:;
Date: {date}
Message-ID: <check.{check}@{ehlo_name}>
Subject: Sink check {check}
Auto-Submitted: auto-generated

The sink sends this to itself, to know that mail for it arrives.
"""


def compose_check(check: int, *, ehlo_name: str, now: datetime) -> bytes:
    """Return the message that the sink sends to itself."""
    text = _CHECK.format(check=check, ehlo_name=ehlo_name, date=format_datetime(now))
    return text.replace("\n", "\r\n").encode("ascii")
