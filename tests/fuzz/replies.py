"""Octets of any kind for the reply reader."""

from hypothesis import strategies as st

from relaytest.core.reply import Reply
from relaytest.net.reply_reader import MAX_LINE, MAX_LINES, MAX_REPLY, ReplyReader
from tests.fuzz.octets import CUTS, pieces
from tests.fuzz.target import Target

_WORDS = (
    st.sampled_from([b"250 Ok", b"250-mx.example", b"550 5.7.1 No", b"250", b"421 ", b"354 Go"])
    | st.sampled_from([b"25", b"2"])
    | st.sampled_from([b"-", b" ", b"999 x", b"-50 x", b"2_5 x", b"250\tx", b"\xff", b"\0"])
    | st.sampled_from([b"\r", b"\n", b"\r\n"])
    | st.sampled_from([b"\r\n.\r\n", b"\xc3\xa9", b"250-550 x", "\uff1250 x".encode()])
)
_LINE = st.builds(
    lambda code, separator, text, end: b"%d%b%b%b" % (code, separator, text, end),
    st.sampled_from([220, 250, 354, 421, 550, 200, 599]) | st.integers(0, 1000),
    st.sampled_from([b" ", b"-", b" ", b""]),
    st.binary(max_size=12),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\r\n", b"\r"]),
)
_LONG = st.builds(
    lambda start, octet, count: start + octet * count,
    st.sampled_from([b"250 ", b"250-", b"", b"25"]),
    st.sampled_from([b"x", b"\r", b"250-x\r\n", b"250 x\n", b"-", b"2"]),
    st.sampled_from([MAX_LINE, MAX_LINES]).flatmap(lambda most: st.integers(most - 6, most + 2)),
)
_STREAM = st.lists(_LINE | _LINE | _WORDS | st.binary(max_size=6) | _LONG, max_size=12)

INPUTS = st.tuples(_STREAM.map(b"".join), CUTS)


def read(chunks: list[bytes]) -> tuple[list[Reply], str | None]:
    """Feed a new reader up to its first fault."""
    reader = ReplyReader()
    replies = []
    for chunk in chunks:
        replies += reader.feed(chunk)
        _look_inside(reader, len(chunk))
        if reader.fault:
            break
    return replies, reader.fault


def _look_inside(reader: ReplyReader, fed: int) -> None:
    """What is held is bounded, whatever came."""
    held = sum(map(len, reader._lines))
    assert len(reader._rest) < MAX_LINE or reader.fault
    assert len(reader._rest) <= MAX_LINE + fed
    assert held <= MAX_REPLY + MAX_LINE
    assert len(reader._lines) <= MAX_LINES + 1


def check(value: tuple[bytes, list[int]]) -> None:
    """The cuts do not matter, and every reply is one, made of lines that came."""
    stream, cuts = value
    replies, fault = read([stream])
    assert read(pieces(stream, cuts)) == (replies, fault)
    for reply in replies:
        assert 200 <= reply.code <= 599
        assert reply.lines
        assert not set("\r\n\0") & set("".join(reply.lines))
    lines = [line for line in stream.split(b"\n")[:-1] if line.strip(b"\r")]  # blank: nothing
    told = [line for reply in replies for line in reply.lines]
    for text, line in zip(told, lines, strict=False):
        assert line.rstrip(b"\r")[4:].decode("utf-8", "surrogateescape") == text
    assert len(told) <= len(lines)


TARGET = Target("any octets, cut anyhow, give the same replies or the same fault", INPUTS, check)
