"""Tokens: mailboxes that nobody can guess, and that say which form of which trial they prove.

A token is a local part of 26 lower-case base32 letters, safe under case folding and inside
every probe form. It holds the kind of mailbox, the form, the trial, and an HMAC over them. The
trial's row, which is written before a token of it is sent and never changed, fixes address,
port and time, so the HMAC binds those too.

Only a token that comes back as *envelope recipient* proves anything: bodies are quoted.
"""

import base64
import enum
import hashlib
import hmac
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

LENGTH = 26  # letters of a token

_LAYOUT = struct.Struct(">BHBI")  # mailbox, form, trial (high octet, low four octets)
_MAC_OCTETS = 8
_SHAPE = re.compile(r"[a-z2-7]{26}")
_ANYWHERE = re.compile(r"[a-z2-7]{26,}", re.IGNORECASE)  # letters may touch it: =3DTOKEN
_PADDING = "======"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]  # two letters are ten bits
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
        trial: Id of the trial (of the sink check for Mailbox.SELF), 1 .. 2**40 - 1.
    """

    mailbox: Mailbox
    form: int
    trial: int


def issue(key: bytes, token: Token) -> str:
    """Return the local part for `token`.

    >>> text = issue(b"k" * 32, Token(Mailbox.FORWARD, 257, 7))
    >>> len(text), verify([b"k" * 32], text.upper()).trial
    (26, 7)
    """
    if not 0 < token.trial <= _MAX_TRIAL:
        raise ValueError(f"trial {token.trial} does not fit into 5 octets")
    body = _LAYOUT.pack(
        token.mailbox.value, token.form, token.trial >> 32, token.trial & 0xFFFFFFFF
    )
    return _letters(body + _mac(key, body))


def verify(keys: Iterable[bytes], local_part: str) -> Token | None:
    """Return what `local_part` says if one of `keys` signed it, else None.

    Args:
        keys: The key in use and those it replaced; any of them may have signed.
        local_part: As it arrived; letter case does not matter.
    """
    text = local_part.lower()
    if not local_part.isascii() or not _SHAPE.fullmatch(text):
        return None
    octets = base64.b32decode(text.upper() + _PADDING)
    body, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
    if _letters(octets) != text:  # the last letter has two bits to spare: one spelling only
        return None
    if not any(hmac.compare_digest(_mac(key, body), mac) for key in keys):
        return None
    mailbox, form, high, low = _LAYOUT.unpack(body)
    return Token(Mailbox(mailbox), form, high << 32 | low)


def mask(text: str) -> str:
    """Hide what may be a token, for pages that anybody can read.

    Who knows a token can send mail to it and so forge a proof.

    >>> mask("RCPT TO:<abcdefghijklmnopqrstuvwxyz@sink.example>")
    'RCPT TO:<(token)@sink.example>'
    """
    return _ANYWHERE.sub("(token)", text)


def mask_octets(octets: bytes) -> bytes:
    """Hide what may be a token, and change no other octet."""
    return mask(octets.decode("latin-1")).encode("latin-1")


def _letters(octets: bytes) -> str:
    """Base32 of 16 octets (RFC 4648 section 6) in lower case; the library's is ten times slower."""
    value = int.from_bytes(octets, "big") << 2
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"relaytest token 1" + body, hashlib.sha256)[:_MAC_OCTETS]
