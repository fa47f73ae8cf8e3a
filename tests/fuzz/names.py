"""What servers call themselves, up to the commands that carry it."""

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from relaytest.core.names import Names, domains_of, looks_like_host_name, names_of
from relaytest.core.offers import Asker, distinct, ehlo_name, offer
from relaytest.core.probe import Helo
from relaytest.core.reply import Reply
from relaytest.daemons import shipped
from tests.fuzz.target import Target

_ASKER = Asker(bytes(32), "sink.example", "probe.example", "", "sink.test")
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_LABELS = (
    st.sampled_from(["mx", "mail", "co", "uk", "com", "example", "localhost", "arpa"])
    | st.sampled_from(["xn--p1ai", "1", "-a", "a-"])
    | st.sampled_from(["a" * 63, "a" * 64, "", "*", "_smtp", "\u00e9", "\u0130", "\u212a"])
    | st.sampled_from(["\udcff", "[192.0.2.1]"])
)
_NAMES = st.lists(_LABELS, max_size=9).map(".".join) | st.text(max_size=20)
_TEXTS = st.builds(
    lambda name, between, rest: name + between + rest,
    _NAMES,
    st.sampled_from([" ", "", "\t", "\x1b", "."]),
    st.text(max_size=12),
)
_REPLIES = st.none() | st.builds(
    Reply, st.sampled_from([220, 250]), st.lists(_TEXTS, min_size=1, max_size=3).map(tuple)
)
_ADDRESSES = st.integers(0, (1 << 32) - 1).map(IPv4Address) | st.integers(0, (1 << 128) - 1).map(
    IPv6Address
)

INPUTS = st.tuples(_ADDRESSES, _REPLIES, _REPLIES, st.none() | _NAMES)


def check(
    value: tuple[IPv4Address | IPv6Address, Reply | None, Reply | None, str | None],
) -> None:
    """A name is a host name or our literal, and what we send is printable and on one line."""
    address, greeting, hello, pointer = value
    names = names_of(address, greeting=greeting, hello=hello, pointer=pointer)
    for name in (names.host, names.domain, names.host2, names.domain2, names.ptr):
        if name not in {None, names.literal}:
            assert looks_like_host_name(name)
            assert name == name.lower()
            assert all(looks_like_host_name(name) or "." not in name for name in domains_of(name))
    for helo in Helo:
        _sendable(ehlo_name(helo, names, _ASKER).encode("ascii"))
    _check_offers(names)


def _check_offers(names: Names) -> None:
    said = set()
    forms = distinct(shipped.battery().forms, names, asker=_ASKER, keywords={"SMTPUTF8"})
    for form in forms:
        made = offer(form, names, trial=7, asker=_ASKER, now=_NOW)
        assert made.message is not None
        made.message.decode("ascii")
        for path in (made.envelope.reverse_path, made.envelope.forward_path):
            _sendable(path)
        said.add((made.envelope, form.helo.text(names.texts, "probe.example")))
    assert len(said) == len(forms)


def _sendable(octets: bytes) -> None:
    assert octets.decode().isprintable()
    assert len(octets) < 900


TARGET = Target("whatever a server calls itself, what we send is sound", INPUTS, check)
