"""Samples of spam, whose recipients nobody is to learn."""

from hypothesis import strategies as st

from relaytest.core.redaction import public_view
from tests.fuzz.target import Target

_LOCALS = st.sampled_from(["ann", "ann.miller", "Ann+shop", "a_b-c", "x1", "bob"])
_MAILBOXES = st.builds(
    lambda local, domain: f"{local}@{domain}",
    _LOCALS,
    st.sampled_from(["ours.example", "Ours.Example", "x.org"]),
)
_FIELDS = st.sampled_from(
    ["To: {}", "to:{}", "Cc: Somebody <{}>, x@y.example", "X-Original-To:\r\n {}"]
) | st.sampled_from(
    ['To: "A, B" <{}>', "Received: from x by y for <{}>; now", "received: by y for {}; now"]
)
_AROUND = st.sampled_from(["{}", "<{}>", "Dear {}!", "to={}&x", '"{}"', "\t{}\n"]) | st.just(
    "http://x.example/?u={}"
)
_NOISE = st.binary(max_size=40)

INPUTS = st.tuples(
    _MAILBOXES, st.lists(_FIELDS, min_size=1, max_size=3), st.lists(_AROUND, max_size=4), _NOISE
)


def check(value: tuple[str, list[str], list[str], bytes]) -> None:
    """A recipient that a header names is nowhere in what is shown."""
    mailbox, fields, around, noise = value
    header = "".join(f"{field.format(mailbox)}\r\n" for field in fields)
    body = "\r\n".join(one.format(mailbox.upper()) for one in around)
    view = public_view(f"{header}Subject: hello\r\n\r\n{body}\r\n".encode() + noise, b"key")
    assert mailbox.lower().encode() not in view.lower()
    for octets in (noise, header.encode() + noise):
        assert len(public_view(octets, b"key")) < 100_000


TARGET = Target("nobody learns who got the spam", INPUTS, check)
