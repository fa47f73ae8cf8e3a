"""What may be put on file as a sample of spam: the beginning of one mail message."""

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import Message

from pydantic import Field, field_validator

from relaytest.core.fields import NetworkField, Section
from relaytest.core.reception import mailbox_of

_AS_IT_IS = email.policy.compat32.clone(max_line_length=0, mangle_from_=False)  # refolds nothing
_MOST = 10  # samples in one mail
_DEEPEST = 5  # mails in mails

LARGEST = 256 * 1024  # octets kept; the headers, which show the way it took, come first

# A header field (RFC 5322 section 2.2), or the line that a mailbox file has before it.
_BEGINNING = re.compile(rb"(From |>From |[!-9;-~]+[ \t]*:)")


def sample_fault(octets: bytes) -> str | None:
    """Return why this is no mail message, or None.

    >>> sample_fault(b"hello")
    'it must begin with a header field such as "Received: from ...", not with "hello"'
    """
    text = octets.lstrip(b"\r\n")
    if not text.strip():
        return "it is empty; a whole message with its headers is wanted"
    if _BEGINNING.match(text):
        return None
    first = text[:40].splitlines()[0].decode("ascii", "replace")
    return f'it must begin with a header field such as "Received: from ...", not with "{first}"'


class Samples(Section):
    """Samples of spam, as nominations."""

    trusted: list[NetworkField] = Field(
        [], description="our own mail hosts, whose Received lines are believed"
    )
    mailbox: str = Field(
        "", description="where those hosts send samples, at a domain whose MX is the sink"
    )

    @field_validator("mailbox")
    @classmethod
    def _mailbox(cls, value: str) -> str:
        local, domain = mailbox_of(f"<{value}>".encode())
        if value and (not local or b"." not in domain):
            raise ValueError('must be a mailbox such as "spam@traps.example.net"')
        return value.lower()


def samples_in(mail: bytes) -> list[bytes]:
    r"""Return the messages that a mail forwards as attachments; else the mail itself.

    >>> samples_in(b"Subject: buy\r\n\r\nBuy!")
    [b'Subject: buy\r\n\r\nBuy!']
    """
    return list(_attached(email.message_from_bytes(mail, policy=_AS_IT_IS), 0))[:_MOST] or [mail]


def _attached(message: Message, depth: int) -> Iterator[bytes]:
    parts = message.get_payload()
    for part in parts if depth <= _DEEPEST and isinstance(parts, list) else ():
        if not isinstance(part, Message):
            continue
        if message.get_content_type() == "message/rfc822":
            yield part.as_bytes(policy=_AS_IT_IS)
        else:
            yield from _attached(part, depth + 1)
