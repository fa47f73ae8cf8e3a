"""Reports to the network that a listed server is in, as abuse desks read them by program.

Abuse Reporting Format, RFC 5965: a text for people, fields for programs, and the message that
came back. RFC 6650 says how one that nobody asked for has to be: to the right mailbox, with all
that is needed to act, and with a way to stop it.
"""

import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from relaytest import __version__
from relaytest.core.mailing import (
    Letter,
    NotAMailboxError,
    Outcome,
    Slip,
    parse_mailbox,
    printable,
)
from relaytest.core.target import Address
from relaytest.core.token import mask, mask_octets

_MOST_TEXTS = 10  # of one answer, and mailboxes of one text
_LONGEST_LINE = 998  # RFC 5321 section 4.5.3.1.6, without CRLF


@dataclass(frozen=True, slots=True)
class Returned:
    """A message of ours that came back.

    Attributes:
        peer: Who handed it to us.
        reverse_path: As it came, brackets included.
        forward_path: Likewise.
        message: As the sink stored it, which may be the beginning only.
        size: Octets that came.
        copies: How often it came.
    """

    peer: Address
    received_at: datetime
    reverse_path: bytes
    forward_path: bytes
    message: bytes
    size: int
    copies: int


def contact_of(texts: Iterable[str]) -> str:
    """Return the first mailbox of the TXT records of an address; "": there is none.

    >>> contact_of(["see https://a.example", "nobody, Abuse@A.Example,noc@a.example"])
    'Abuse@a.example'
    """
    for text in list(texts)[:_MOST_TEXTS]:
        for word in text.split(",")[:_MOST_TEXTS]:
            try:
                return parse_mailbox(word)
            except NotAMailboxError:
                continue
    return ""


def report(letter: Letter, slip: Slip, told: Outcome, returned: Returned, name: str) -> bytes:
    """Return a report of one listing.

    RFC 5965 would have the Subject be that of the reported message; ours there says nothing of
    what this is about, so it is another.

    Args:
        letter: What our mails have in common.
        slip: What this one has of its own.
        told: The listing.
        returned: The message that proves it.
        name: Of the server in the reverse DNS, or "".
    """
    part = _evidence(returned)
    text = _text(letter, slip, told, returned, part.get_content_type())
    message = letter.headed(slip, f"Open relay in your network: {told.address}")
    message["Content-Type"] = "multipart/report; report-type=feedback-report"
    # What contains its own hash nobody can write, so the boundary is not in what came back.
    message.set_boundary(f"report-{hashlib.sha256(returned.message).hexdigest()[:40]}")
    message["MIME-Version"] = "1.0"
    message.attach(_part("text/plain; charset=us-ascii", text))
    fields = _fields(letter, told, returned, name)
    message.attach(_part("message/feedback-report", fields))
    message.attach(part)
    return message.as_bytes()


def _evidence(returned: Returned) -> EmailMessage:
    """Return what came back, octet for octet but for our tokens.

    They are masked here as on the pages, though the message is evidence: it holds the mailbox
    that a bounce goes to and often, in Received, the one that proves relay. They count as long
    as the trial is on file, and whoever knows them can have the server listed or taken off. The
    reader of a report is a stranger to us, and passes it on to others. RFC 6590 lets a report
    be redacted so; the hash of the original is told, and what is attached is the very file that
    the archive of the evidence has.

    A message/rfc822 may not be encoded (RFC 2046 section 5.2.1). What cannot go over any server
    as it is, or is not whole, is represented by its header section, as RFC 5965 provides.
    """
    masked = mask_octets(returned.message)
    if returned.size == len(returned.message) and _mailable(masked):
        return _part("message/rfc822", masked.decode("ascii"))
    header, separator, _ = masked.partition(b"\r\n\r\n")
    shown = binascii.b2a_qp(header + separator[:2], quotetabs=True, istext=True)
    part = _part("text/rfc822-headers", shown.decode("ascii"))
    part["Content-Transfer-Encoding"] = "quoted-printable"
    return part


def _mailable(message: bytes) -> bool:
    lines = message.split(b"\r\n")
    return (
        message.isascii()
        and not any(octet in line for line in lines for octet in (b"\0", b"\r", b"\n"))
        and max(map(len, lines)) <= _LONGEST_LINE
    )


def _fields(letter: Letter, told: Outcome, returned: Returned, name: str) -> str:
    fields = {
        "Feedback-Type": "abuse",
        "User-Agent": f"relaytest/{__version__}",
        "Version": "1",
        "Source-IP": str(told.address),
        "Arrival-Date": format_datetime(returned.received_at),
        "Original-Mail-From": _path(returned.reverse_path),
        "Original-Rcpt-To": _path(returned.forward_path),
        "Reporting-MTA": f"dns; {letter.ehlo_name}",
        "Incidents": str(returned.copies),
    }
    if name:
        fields["Reported-Domain"] = name
    return "".join(f"{key}: {value}\r\n" for key, value in fields.items())


def _path(octets: bytes) -> str:
    """Return a path in one line of ASCII; parentheses would be a comment there."""
    text = mask(octets.decode("latin-1")).replace("(token)", "token")[:256]
    return "".join(one if "!" <= one <= "~" else "?" for one in text) or "<>"


def _part(kind: str, text: str) -> EmailMessage:
    part = EmailMessage(policy=SMTP)
    part["Content-Type"] = kind
    part.set_payload(text)  # a string is written as it is
    return part


def _text(letter: Letter, slip: Slip, told: Outcome, returned: Returned, kind: str) -> str:
    attached = "It is" if kind == "message/rfc822" else "Its header section is"
    octets = f"{'first ' if returned.size > len(returned.message) else ''}{len(returned.message)}"
    exit_ = "" if returned.peer == told.address else f", by way of {returned.peer}"
    text = f"""\
The mail server {told.address} (port {told.port}) in your network passes on mail
between strangers ("open relay") and is therefore on the list {letter.zone}.
We do not call its owner a spammer: such servers are used by others. Please
tell whoever runs it.

At {returned.received_at:%Y-%m-%d %H:%M:%S} UTC a message of ours came back to us through it{exit_}.
{printable(told.explanation)}

{attached} attached, with the secret names of our mailboxes as "(token)".
SHA-256 of the {octets} octets as they came:
{hashlib.sha256(returned.message).hexdigest()}

All that was said, and what came back:
    {letter.url}/evidence/{told.trial}
What to set in its software:
    {letter.url}/fix/{told.address}
When it is closed, anybody can ask for a new test; it is free, and takes it
off the list:
    {letter.url}/lookup/{told.address}

This is the only report of this listing. No mail from us any more:
    {letter.url}/mail/{slip.code}
"""
    return text.replace("\n", "\r\n")
