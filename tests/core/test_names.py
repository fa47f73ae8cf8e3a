"""What a target calls itself, read from real greetings and from nonsense."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.names import Names, domain_of, looks_like_host_name, names_of
from relaytest.core.reply import Reply

ADDRESS = IPv4Address("192.0.2.1")
NAMED = Names("mx.shop.example", "shop.example", "[192.0.2.1]")
NAMELESS = Names("[192.0.2.1]", "[192.0.2.1]", "[192.0.2.1]")

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


def test_an_ipv6_target_has_a_literal_with_its_tag():
    literal = "[IPv6:2001:db8::1]"
    assert greeted("ESMTP", IPv6Address("2001:db8::1")) == Names(literal, literal, literal)


def test_a_name_stands_beside_the_ipv6_literal():
    names = greeted("mx.shop.example ESMTP", IPv6Address("2001:db8::1"))
    assert names == Names("mx.shop.example", "shop.example", "[IPv6:2001:db8::1]")


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("mx.shop.example", "shop.example"),
        ("a.b.shop.example", "b.shop.example"),
        ("shop.example", "shop.example"),
        ("localhost", "localhost"),
    ],
)
def test_the_domain_is_the_host_without_its_first_label(host, domain):
    assert domain_of(host) == domain


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


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_whatever_is_said_the_names_fit_into_a_path(greeting, hello, pointer):
    names = names_of(
        ADDRESS, greeting=Reply(220, (greeting,)), hello=Reply(250, (hello,)), pointer=pointer
    )
    assert all(
        one == names.literal or looks_like_host_name(one) for one in (names.host, names.domain)
    )
