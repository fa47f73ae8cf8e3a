"""What is shown of a sample of spam: nobody may learn from it who got it (RFC 6590).

The recipients' mailboxes are replaced by a keyed hash, the same always alike, wherever they are.
RFC 6590 section 5.3 warns that this is never perfect; so only the headers and the beginning of
the text are shown, nothing that is encoded, and no URL beyond its path.
"""

import email.policy
import hashlib
import hmac
import re
from email.parser import BytesHeaderParser

_TO_US = frozenset(
    (
        *("to", "cc", "bcc", "delivered-to", "x-original-to", "envelope-to", "apparently-to"),
        *("x-envelope-to", "x-rcpt-to", "resent-to", "resent-cc", "resent-bcc", "x-delivered-to"),
        "x-forwarded-to",
    )
)
# Of these the sender may have made the value for each recipient alone.
_PERSONAL = frozenset(
    ("return-path", "list-unsubscribe", "list-unsubscribe-post", "feedback-id", "message-id")
)
_MAILBOX = re.compile(rb"([^\s<>()\[\],;:\"@=]{1,128}|\"[^\"\r\n]{1,128}\")@([A-Za-z0-9.-]{1,253})")
_FOR = re.compile(rb"(?i)\bfor\s+<?([^\s<>;]{1,254}@[A-Za-z0-9.-]{1,253})")
_QUERY = re.compile(rb"(https?://[^\s\"'<>?#]{1,500})[?#][^\s\"'<>]*")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_BODY_LINES = 20
_LINE = 200  # octets shown of a line of the body
_MOST_HEADER = 16 * 1024
_MOST_RECIPIENTS = 50
_MASK = 12  # hex digits: RFC 6590 wants it long enough not to collide


def public_view(sample: bytes, key: bytes) -> bytes:
    r"""Return what of a sample everybody may see.

    Args:
        sample: A message, or its beginning.
        key: Of the list; with it, and only with it, a mask can be found again.

    >>> view = public_view(b"To: Ann <ann@ours.example>\r\nSubject: for ann\r\n\r\nHi Ann!", b"k")
    >>> b"ann" in view.lower(), view.splitlines()[0].endswith(b"@ours.example>")
    (False, True)
    """
    header, body = _parts(sample)
    recipients = _recipients(header)
    masks = {name: _mask(name, key) for name in _names(recipients)}
    shown = b"\n".join(_field(field, key) for field in _fields(header))
    shown += b"\n\n" + _beginning(header, body)
    for mailbox in recipients:  # whole, however short its name is
        shown = re.sub(rb"(?i)(?<![A-Za-z0-9])" + re.escape(mailbox), _masked(mailbox, key), shown)
    for name in sorted(masks, key=len, reverse=True):
        pattern = rb"(?i)(?<![A-Za-z0-9])" + re.escape(name) + rb"(?![A-Za-z0-9])"
        shown = re.sub(pattern, masks[name], shown)
    return _QUERY.sub(rb"\1?(cut)", shown)


def _parts(sample: bytes) -> tuple[bytes, bytes]:
    header, *rest = _HEADER_END.split(sample, maxsplit=1)
    return header[:_MOST_HEADER], rest[0] if rest else b""


def _recipients(header: bytes) -> list[bytes]:
    found: list[bytes] = []
    for field in _fields(header):
        name = field.partition(b":")[0].strip().lower().decode("latin-1")
        if name in _TO_US:
            found += [b"%b@%b" % pair for pair in _MAILBOX.findall(field)]
        elif name == "received":
            found += _FOR.findall(field)
    return list(dict.fromkeys(one.lower() for one in found))[:_MOST_RECIPIENTS]


def _names(recipients: list[bytes]) -> set[bytes]:
    """Return the local parts, and what stands before a + in them; short ones are common words."""
    names = set()
    for one in recipients:
        local = one.partition(b"@")[0].strip(b'"')
        names |= {local, local.partition(b"+")[0]}
        names.add(re.sub(rb"[._-]", b" ", local))  # "Ann Miller" of ann.miller@
    return {name for name in names if len(name) >= 3}


def _mask(text: bytes, key: bytes) -> bytes:
    return hmac.new(key, text.lower(), hashlib.sha256).hexdigest()[:_MASK].encode()


def _fields(header: bytes) -> list[bytes]:
    return re.split(rb"\r?\n(?![ \t])", header)


def _field(field: bytes, key: bytes) -> bytes:
    name, colon, value = field.partition(b":")
    kind = name.strip().lower().decode("latin-1")
    if kind in _PERSONAL:
        return name + colon + b" (not shown)"
    if kind in _TO_US:  # names of people, too
        masked = [_mask(b"%b@%b" % pair, key) + b"@" + pair[1] for pair in _MAILBOX.findall(value)]
        return name + colon + b" " + b", ".join(b"<%b>" % one for one in masked)
    if kind == "received":
        return _FOR.sub(lambda found: b"for <" + _masked(found[1], key), field)
    return field


def _masked(mailbox: bytes, key: bytes) -> bytes:
    domain = mailbox.rpartition(b"@")[2]
    return _mask(mailbox, key) + b"@" + domain


def _beginning(header: bytes, body: bytes) -> bytes:
    """Return the first lines of a body that is text as it stands."""
    fields = BytesHeaderParser(policy=email.policy.compat32).parsebytes(header + b"\n\n")
    encoding = str(fields.get("content-transfer-encoding", "")).strip().lower()
    kind = fields.get_content_type()
    digest = hashlib.sha256(body).digest().hex(" ", 8)  # in parts: whole it might be a token
    told = b"(%d octets, SHA-256 %b)" % (len(body), digest.encode())
    if encoding in {"base64", "quoted-printable"} or kind != "text/plain":
        return b"(%b, not shown) " % kind.encode("ascii", "replace") + told
    lines = [line[:_LINE] for line in body.splitlines()[:_BODY_LINES]]
    return b"\n".join(lines) + b"\n" + told
