"""Received lines, of which the lower ones and the client's name are anybody's."""

import contextlib
from ipaddress import IPv4Address, ip_network

from hypothesis import strategies as st

from relaytest.core.origin import NoOriginError, Origin, is_from_inside, origin_of
from relaytest.core.received import MAX_HOPS, hops_of, way_back
from tests.fuzz.target import Target

_TRUSTED = [ip_network("198.51.100.0/24")]
_SENDER = IPv4Address("11.22.33.44")
# What a server writes of a client that calls itself NAME; the last address is what it saw.
_FASHIONS = (
    "from {name} (rdns.example [{seen}]) by mx (Postfix) with ESMTP id 4F2; x",
    "from {name} (unknown [{seen}])\r\n\tby mx (Postfix) with SMTP id 4F2; x",
    "from rdns.example ([{seen}] helo={name}) by mx with esmtps (TLS1.3) (Exim 4.96) id 1q-2; x",
    "from {name} (rdns.example [{seen}] (may be forged)) by mx (8.17.1) with ESMTP id 4A1; x",
    "from unknown (HELO {name}) ({seen}) by mx with SMTP; x",
)
_PIECES = st.sampled_from(
    ["[9.9.9.9]", "9.9.9.9", "(", ")", "([9.9.9.9])", "by", "helo=", "[ipv6:2600::1]", "x", ";"]
) | st.sampled_from(
    ["[11.22.33.44]", "[10.0.0.1]", "localhost", "mx.ours.example", "(a[9.9.9.9])", "[", "]"]
)
# A name has no blank in it: no server takes one.
_NAMES = st.lists(_PIECES, min_size=1, max_size=5).map("".join) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20
)
_OURS = st.lists(st.integers(1, 254).map(lambda host: f"198.51.100.{host}"), max_size=3)
_BELOW = st.binary(max_size=60) | st.lists(_PIECES, max_size=6).map(
    lambda pieces: b"Received: from " + " ".join(pieces).encode() + b"\r\n"
)

INPUTS = st.tuples(_OURS, st.sampled_from(_FASHIONS), _NAMES, _BELOW, st.binary(max_size=120))


def check(value: tuple[list[str], str, str, bytes, bytes]) -> None:
    """Whoever handed it to us is found, or nobody; never one whom the client named."""
    ours, fashion, name, below, noise = value
    lines = [_FASHIONS[0].format(name="mx2.ours.example", seen=one) for one in ours]
    lines.append(fashion.format(name=name, seen=_SENDER))
    message = "".join(f"Received: {line}\r\n" for line in lines).encode() + below
    try:
        found = origin_of(message, _TRUSTED)
    except NoOriginError:
        pass
    else:
        assert found == Origin(_SENDER, len(lines))
    assert not is_from_inside(message, _TRUSTED)
    for octets in (message, noise, b"Received: " + noise):
        _read(octets)


def _read(octets: bytes) -> None:
    """Whatever it is, it can be read."""
    assert len(hops_of(octets)) <= MAX_HOPS
    assert all(len(step.text) <= 500 for step in way_back(octets, _SENDER, [], _SENDER))
    with contextlib.suppress(NoOriginError):
        origin_of(octets, _TRUSTED)


TARGET = Target("a sender's own words nominate nobody else", INPUTS, check)
