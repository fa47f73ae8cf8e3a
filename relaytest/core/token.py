"""Tokens: mailboxes that nobody can guess, and that say which form of which trial they prove.

A token is a local part of 32 lower-case base32 letters, safe under case folding and inside
every probe form. It holds the kind of mailbox, the form, the trial, the minute of issue, and
an HMAC over all of it. The trial's row fixes address and port, so the HMAC binds them too.

Only a token that comes back as *envelope recipient* proves anything: bodies are quoted.
"""

import base64
import binascii
import enum
import hashlib
import hmac
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

LENGTH = 32  # letters of a token
KEY_OCTETS = 32

_LAYOUT = struct.Struct(">BHBIHH")  # kind, form, trial (5 octets: high 1, low 4), minute (4)
_MAC_OCTETS = 8
_SHAPE = re.compile(r"[a-z2-7]{32}")
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_MAX_TRIAL = (1 << 40) - 1


class Mailbox(enum.Enum):
    """What mail to the token's mailbox means."""

    FORWARD = 1  # the forward-path of a probe: a copy here is a relayed message
    REVERSE = 2  # the reverse-path of a probe: a copy here is a bounce or an answer
    SELF = 3  # our own message to our own sink, to know that the sink works


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says.

    Attributes:
        form: Number of the form (core.probe), 0..65535.
        trial: Id of the trial, 1 .. 2**40 - 1.
        issued_at: Aware UTC, cut to the minute.
    """

    mailbox: Mailbox
    form: int
    trial: int
    issued_at: datetime


def issue(key: bytes, token: Token) -> str:
    """Return the local part for `token`.

    >>> moment = datetime(2026, 1, 1, tzinfo=UTC)
    >>> text = issue(b"k" * 32, Token(Mailbox.FORWARD, 257, 7, moment))
    >>> len(text), verify([b"k" * 32], text.upper()).trial
    (32, 7)
    """
    if not 0 < token.trial <= _MAX_TRIAL:
        raise ValueError(f"trial {token.trial} does not fit into 5 octets")
    minute = (token.issued_at - _EPOCH) // timedelta(minutes=1)
    body = _LAYOUT.pack(
        token.mailbox.value,
        token.form,
        token.trial >> 32,
        token.trial & 0xFFFFFFFF,
        minute >> 16,
        minute & 0xFFFF,
    )
    return base64.b32encode(body + _mac(key, body)).decode("ascii").lower()


def verify(keys: list[bytes], local_part: str) -> Token | None:
    """Return what `local_part` says if one of `keys` signed it, else None.

    Args:
        keys: The key in use and those it replaced; any of them may have signed.
        local_part: As it arrived; letter case does not matter.
    """
    text = local_part.lower()
    if not _SHAPE.fullmatch(text):
        return None
    try:
        octets = base64.b32decode(text.upper())
    except binascii.Error:
        return None
    body, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
    if not any(hmac.compare_digest(_mac(key, body), mac) for key in keys):
        return None
    kind, form, high, low, minute_high, minute_low = _LAYOUT.unpack(body)
    minutes = timedelta(minutes=minute_high << 16 | minute_low)
    return Token(Mailbox(kind), form, high << 32 | low, _EPOCH + minutes)


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"relaytest token 1" + body, hashlib.sha256)[:_MAC_OCTETS]
