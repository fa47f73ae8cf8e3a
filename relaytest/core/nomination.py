"""What may be put on file as a sample of spam: the beginning of one mail message."""

import email.policy
import itertools
import re
from collections.abc import Iterator
from email.parser import BytesHeaderParser

from pydantic import Field, field_validator

from relaytest.core.fields import NetworkField, Section
from relaytest.core.paths import mailbox_of

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_HEADER = 64 * 1024  # octets that are looked at
_MOST = 10  # samples in one mail
_MOST_PARTS = 100  # of one multipart
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
    r"""Return the messages that a mail forwards as attachments, octet for octet; else itself.

    The mail is cut at its boundaries (RFC 2046 section 5.1.1) and never written anew: what a
    library writes differs from what came, and it refuses to write what is odd enough.

    >>> samples_in(b"Subject: buy\\r\\n\\r\\nBuy!")
    [b'Subject: buy\\r\\n\\r\\nBuy!']
    """
    return list(itertools.islice(_attached(mail, 0), _MOST)) or [mail]


def _attached(part: bytes, depth: int) -> Iterator[bytes]:
    header, body = _cut(part)
    kind, boundary = _kind_of(header)
    if depth > _DEEPEST:
        return
    if kind == "message/rfc822":
        yield body
    elif kind.startswith("multipart/") and boundary:
        line = re.compile(rb"(?:^|\r?\n)--" + re.escape(boundary) + rb"(?:--)?[ \t]*(?:\r?\n|$)")
        for inner in line.split(body, maxsplit=_MOST_PARTS)[1:_MOST_PARTS]:
            yield from _attached(inner, depth + 1)


def _cut(part: bytes) -> tuple[bytes, bytes]:
    """Return header and body; a part without a header begins with an empty line."""
    if match := re.match(rb"\r?\n", part):
        return b"", part[match.end() :]
    header, *rest = _HEADER_END.split(part, maxsplit=1)
    return header[:_LONGEST_HEADER], rest[0] if rest else b""


def _kind_of(header: bytes) -> tuple[str, bytes]:
    """Return media type and boundary, by the library that knows all their spellings."""
    fields = BytesHeaderParser(policy=email.policy.compat32).parsebytes(header + b"\r\n\r\n")
    try:
        boundary = fields.get_boundary("")
    except (ValueError, LookupError, TypeError):  # RFC 2231 gone wrong
        boundary = ""
    return fields.get_content_type(), boundary.encode("utf-8", "surrogateescape")
