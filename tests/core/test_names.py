"""What a target calls itself, read from real greetings and from nonsense."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.names import (
    Found,
    Names,
    Origin,
    domains_of,
    looks_like_host_name,
    names_of,
)
from relaytest.core.reply import Reply

ADDRESS = IPv4Address("192.0.2.1")
ALWAYS: dict[str, Any] = {"ip": "192.0.2.1", "arpa": "1.2.0.192.in-addr.arpa"}
NAMED = Names(
    "mx.shop.example",
    "shop.example",
    "[192.0.2.1]",
    found=(Found("mx.shop.example", Origin.GREETING),),
    **ALWAYS,
)
NAMELESS = Names("[192.0.2.1]", "[192.0.2.1]", "[192.0.2.1]", **ALWAYS)

GREETINGS = {
    "postfix": "mx.shop.example ESMTP Postfix (Debian/GNU)",
    "exim": "mx.shop.example ESMTP Exim 4.96 Mon, 02 Nov 2026 10:00:00 +0000",
    "sendmail": "mx.shop.example ESMTP Sendmail 8.17.1/8.17.1; Mon, 2 Nov 2026 10:00:00 GMT",
    "exchange": "MX.shop.example Microsoft ESMTP MAIL Service ready at Mon, 2 Nov 2026 10:00:00",
    "qmail": "mx.shop.example ESMTP",
    "name-only": "mx.shop.example",
    "final-dot": "mx.shop.example. ESMTP",
    "upper-case": "MX.SHOP.EXAMPLE ESMTP",
}
NONSENSE = {
    "literal": "[192.0.2.1] ESMTP",
    "bare-address": "192.0.2.1 ESMTP",
    "missing-name": "ESMTP ready",
    "underscore": "mx_1.shop.example ESMTP",
    "single-label": "mailserver ESMTP",
    "localhost": "localhost ESMTP",
    "localdomain": "localhost.localdomain ESMTP",
    "any-localdomain": "mail.localdomain ESMTP",
    "below-localhost": "mx.localhost ESMTP",
    "localhost-of": "localhost.shop.example ESMTP",
    "reverse-tree": "1.2.0.192.in-addr.arpa ESMTP",
    "stars": "****************************",
    "empty": "",
    "blank-first": " mx.shop.example ESMTP",
    "empty-label": "mx..shop.example ESMTP",
    "dot": ". ESMTP",
    "hyphen-first": "-mx.shop.example ESMTP",
    "hyphen-last": "mx-.shop.example ESMTP",
    "one-letter-top": "mx.e ESMTP",
    "numeric-top": "mx.shop.1 ESMTP",
    "hyphen-top": "mx.shop- ESMTP",
    "angle": "<mx.shop.example> ESMTP",
    "percent": "mx%shop.example ESMTP",
    "not-ascii": "mäx.shop.example ESMTP",
    "broken-utf8": "m\udcff.shop.example ESMTP",
    "escape": "\x1b[1mmx.shop.example ESMTP",
    "first-label-too-long": f"{'m' * 64}.shop.example ESMTP",
    "last-label-too-long": f"mx.{'e' * 64} ESMTP",
    "too-long": f"{'m.' * 124}example ESMTP",
}


def greeted(text, address=ADDRESS):
    return names_of(address, greeting=Reply(220, (text,)), hello=None, pointer=None)


@pytest.mark.parametrize("text", GREETINGS.values(), ids=GREETINGS)
def test_the_first_word_of_a_greeting_names_the_host(text):
    assert greeted(text) == NAMED


def test_qmails_shortest_greeting_has_a_single_label_and_gives_no_name():
    assert greeted("host ESMTP") == NAMELESS


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
def test_a_greeting_without_a_full_name_leaves_the_literal(text):
    assert greeted(text) == NAMELESS


@pytest.mark.parametrize("length", [62, 63])
def test_a_label_may_have_up_to_63_letters(length):
    assert greeted(f"{'m' * length}.shop.example").host == f"{'m' * length}.shop.example"


def test_only_the_first_line_of_a_greeting_is_read():
    greeting = Reply(220, ("Welcome", "mx.shop.example ESMTP"))
    assert names_of(ADDRESS, greeting=greeting, hello=None, pointer=None) == NAMELESS


@pytest.mark.parametrize(
    ("greeting", "hello", "pointer", "host"),
    [
        ("a.shop.example", "b.shop.example", "c.shop.example", "a.shop.example"),
        ("ESMTP", "b.shop.example Hello", "c.shop.example", "b.shop.example"),
        ("ESMTP", "Hello", "c.shop.example.", "c.shop.example"),
        (None, "b.shop.example", "c.shop.example", "b.shop.example"),
        (None, None, "c.shop.example", "c.shop.example"),
        ("ESMTP", "Hello", "1.2.0.192.in-addr.1", "[192.0.2.1]"),
        (None, None, None, "[192.0.2.1]"),
    ],
    ids=[
        "greeting-first",
        "then-hello",
        "then-dns",
        "no-greeting",
        "dns-alone",
        "none-fits",
        "nothing-said",
    ],
)
def test_what_the_target_says_goes_before_what_dns_says(greeting, hello, pointer, host):
    replies = [None if text is None else Reply(220, (text,)) for text in (greeting, hello)]
    assert names_of(ADDRESS, greeting=replies[0], hello=replies[1], pointer=pointer).host == host


IPV6 = IPv6Address("2001:db8::1")
IPV6_ARPA = f"1.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa"


def test_an_ipv6_target_has_a_literal_with_its_tag_and_no_bare_address():
    literal = "[IPv6:2001:db8::1]"
    assert greeted("ESMTP", IPV6) == Names(literal, literal, literal, arpa=IPV6_ARPA)


def test_a_name_stands_beside_the_ipv6_literal():
    names = greeted("mx.shop.example ESMTP", IPV6)
    assert (names.host, names.literal) == ("mx.shop.example", "[IPv6:2001:db8::1]")


def told(greeting, hello, pointer, confirmed=None):
    replies = [None if text is None else Reply(220, (text,)) for text in (greeting, hello)]
    return names_of(
        ADDRESS, greeting=replies[0], hello=replies[1], pointer=pointer, confirmed=confirmed
    )


@pytest.mark.parametrize(
    ("words", "hosts"),
    [
        (("a.shop.example", "b.shop.example", "c.isp.example"), ("a.shop", "b.shop")),
        (("a.shop.example", "a.shop.example", "c.isp.example"), ("a.shop", "c.isp")),
        (("a.shop.example", "A.Shop.Example.", None), ("a.shop", None)),
        (("ESMTP", "b.shop.example", "c.isp.example"), ("b.shop", "c.isp")),
        (("localhost", "localhost", "c.isp.example"), ("c.isp", None)),
    ],
    ids=["both-said", "one-said-twice", "one-in-two-spellings", "ehlo-and-dns", "dns-only"],
)
def test_the_second_host_is_the_next_that_differs(words, hosts):
    names = told(*words)
    assert (names.host, names.host2) == tuple(one and f"{one}.example" for one in hosts)


@pytest.mark.parametrize(
    ("words", "domains"),
    [
        (("mx.shop.example", None, None), ("shop.example", None)),
        (("mx.shop.example", None, "c.isp.example"), ("shop.example", "isp.example")),
        (("mx.shop.example", "mx2.shop.example", "c.isp.example"), ("shop.example", "isp.example")),
        (("mx.mail.shop.example", None, "c.isp.example"), ("shop.example", "mail.shop.example")),
        (("shop.example", None, None), ("shop.example", None)),
        (("mx.shop.co.uk", None, None), ("shop.co.uk", None)),
        (("ESMTP", None, None), ("[192.0.2.1]", None)),
    ],
    ids=["one", "of-two-hosts", "of-three-hosts", "parent", "host", "public-suffix", "none"],
)
def test_the_second_domain_is_the_next_that_differs(words, domains):
    names = told(*words)
    assert (names.domain, names.domain2) == domains


@pytest.mark.parametrize("confirmed", [True, False, None])
def test_every_name_is_kept_with_its_origin(confirmed):
    names = told("a.shop.example", "A.shop.example hello", "c.isp.example.", confirmed)
    assert names.found == (
        Found("a.shop.example", Origin.GREETING),
        Found("a.shop.example", Origin.HELLO),
        Found("c.isp.example", Origin.POINTER, confirmed),
    )


@pytest.mark.parametrize(
    ("pointer", "name"),
    [("c.isp.example.", "c.isp.example"), ("localhost.", None), ("", None), (None, None)],
    ids=repr,
)
def test_the_name_in_the_reverse_dns_is_known_as_such(pointer, name):
    assert told("mx.shop.example", None, pointer).ptr == name


def test_only_names_that_are_there_have_a_text():
    texts = {"host": "mx.shop.example", "domain": "shop.example", "literal": "[192.0.2.1]"}
    assert NAMED.texts == texts | ALWAYS
    assert told("mx.shop.example", None, "c.isp.example").texts == texts | ALWAYS | {
        "host2": "c.isp.example",
        "domain2": "isp.example",
        "ptr": "c.isp.example",
    }


@pytest.mark.parametrize(
    ("host", "domains"),
    [
        ("mx.shop.example", ["shop.example"]),
        ("shop.example", ["shop.example"]),
        ("mx.mail.shop.example", ["shop.example", "mail.shop.example"]),
        ("a.b.c.shop.example", ["shop.example", "b.c.shop.example"]),
        ("mx.shop.co.uk", ["shop.co.uk"]),
        ("mx.mail.shop.co.jp", ["shop.co.jp", "mail.shop.co.jp"]),
        ("shop.co.uk", ["shop.co.uk"]),
        ("co.uk", ["co.uk"]),
        ("vm-1.compute-1.amazonaws.com", ["vm-1.compute-1.amazonaws.com"]),
        ("mx.me.github.io", ["me.github.io"]),
        ("mx.xn--85x722f.xn--55qx5d.cn", ["xn--85x722f.xn--55qx5d.cn"]),
        ("localhost", ["localhost"]),
    ],
)
def test_the_domains_of_a_host_are_what_was_registered_and_its_parent(host, domains):
    assert list(domains_of(host)) == domains


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("mx.shop.example", True),
        ("shop.example", True),
        ("xn--mx-fka.xn--shp-0na.example", True),
        ("mx", False),
        ("mx.shop.example.", False),
        ("mx.shop.example\n", False),
        ("192.0.2.1", False),
        ("a.b", False),
        ("", False),
    ],
    ids=repr,
)
def test_a_full_host_name_has_a_dot_and_letters_in_its_last_label(text, full):
    assert looks_like_host_name(text) is full


LABEL = st.text(st.sampled_from("aZ09-_.@[]<>%!\0\r\n \udcffä"), max_size=70)
WORDS = st.text(max_size=80) | st.lists(LABEL, max_size=140).map(".".join)


@given(WORDS, WORDS, WORDS)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_whatever_is_said_the_names_fit_into_a_path(greeting, hello, pointer):
    names = told(greeting, hello, pointer)
    assert len(names.found) <= 3
    for name, text in names.texts.items():
        fixed = {"literal": "[192.0.2.1]"} | ALWAYS
        assert text in (names.literal, fixed.get(name)) or looks_like_host_name(text)
        assert len(text) <= 253


@given(WORDS, WORDS, WORDS)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_second_names_differ_from_the_first(greeting, hello, pointer):
    names = told(greeting, hello, pointer)
    assert names.host != names.host2
    assert names.domain != names.domain2
