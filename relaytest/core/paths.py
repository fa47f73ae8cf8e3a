"""The paths of MAIL and RCPT: where one ends, and which mailbox it leads to (RFC 5321).

Liberal in what may be written: a relay's peculiar envelope is the very thing we wait for.
"""

import re

# Where a path ends and parameters begin. All repeats are possessive: linear whatever comes.
_STRING = rb'"(?:\\.|[^"\\])*+"'
_PATH = (
    rb'(<(?:%b|[^">])*+>[^ \t]*+'  # section 4.1.2, and what sticks to it
    rb"|<[^>]*+>[^ \t]*+"  # a quote in it is never closed
    rb'|(?:%b|[^ \t"])++(?=[ \t]|\Z)'  # without brackets
    rb"|[^ \t]*+)" % (_STRING, _STRING)
)
FROM = re.compile(rb"(?is)from[ \t]*+:[ \t]*+" + _PATH)
TO = re.compile(rb"(?is)to[ \t]*+:[ \t]*+" + _PATH)
_ROUTE = re.compile(rb'\A@(?:\[[^\]]*+\]|[^:\["])*+:')  # "@a,@[IPv6:2001:db8::1]:" (appendix C)
_QUOTED = re.compile(rb"(?s)" + _STRING)
_QUOTED_PAIR = re.compile(rb"(?s)\\(.)")


def mailbox_of(path: bytes) -> tuple[bytes, bytes]:
    r"""Return local part and domain that a path leads to; no domain is b"".

    The route is ignored, as RFC 5321 section 4.1.1.3 advises. A path that is one quoted string
    is read as what it quotes: relays unquote it to find us and may pass it on as it was.

    >>> mailbox_of(rb'<@relay.example:"t\oken"@Sink.example.>')
    (b'token', b'Sink.example')
    >>> mailbox_of(b'"token@sink.example"'), mailbox_of(b"<postmaster>")
    ((b'token', b'sink.example'), (b'postmaster', b''))
    """
    inside = path[: path.rfind(b">")] if path.startswith(b"<") and b">" in path else path
    mailbox = _unquoted(_ROUTE.sub(b"", inside.strip(b"<> \t"), count=1))
    local_part, at, domain = mailbox.rpartition(b"@")
    return (_unquoted(local_part), domain.removesuffix(b".")) if at else (mailbox, b"")


def _unquoted(text: bytes) -> bytes:
    return _QUOTED_PAIR.sub(rb"\1", text[1:-1]) if _QUOTED.fullmatch(text) else text
