"""What may be put on file as a sample of spam: the beginning of one mail message."""

import re

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
