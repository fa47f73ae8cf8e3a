"""Which mailbox a path leads to."""

import pytest

from relaytest.core.paths import mailbox_of


@pytest.mark.parametrize(
    ("path", "mailbox"),
    [
        (rb'<"a\@\\b"@c.example>', (rb"a@\b", b"c.example")),
        (b"<a@b@c.example>", (b"a@b", b"c.example")),
        (b"<a@[192.0.2.1]>", (b"a", b"[192.0.2.1]")),
        (b"<a@c.example..>", (b"a", b"c.example.")),
        (b'<"a"b"@c.example>', (b'"a"b"', b"c.example")),
        (b'<"">', (b"", b"")),
        (b"<@c.example>", (b"", b"c.example")),
        (b'<@"b:a@c.example>', (b'@"b:a', b"c.example")),
    ],
)
def test_mailbox_of_a_path(path, mailbox):
    assert mailbox_of(path) == mailbox
