"""The configuration: its defaults, what may be set, and what is said to mistakes."""

import tomllib
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from relaytest.core.config import (
    LONGEST_SINK_DOMAIN,
    Config,
    options,
    parse_config,
)
from relaytest.core.errors import ConfigError
from relaytest.core.probe import Extra, Helo
from relaytest.core.target import Scope
from relaytest.core.token import LENGTH

SECTIONS = [
    "database",
    "identity",
    "scope",
    "dns",
    "battery",
    "timing",
    "politeness",
    "sink",
    "samples",
    "listing",
    "retention",
    "publish",
    "answer",
    "web",
    "mail",
    "metrics",
    "log",
]


def extra(**changes):
    """A form of the operator's own, as it stands in the file."""
    form = {"id": "X-MINE", "mail_from": "<root@${host}>", "rcpt_to": "<${user}%${sink}@${domain}>"}
    return form | changes


def only(key, value):
    """The tables of a configuration that sets one option."""
    section, _, option = key.partition(".")
    return {section: {option: value}}


def set_to(key, value):
    """Read a configuration that sets one option; return what it becomes."""
    section, _, option = key.partition(".")
    return getattr(getattr(parse_config(only(key, value)), section), option)


# ---- the whole


def test_an_empty_configuration_is_the_defaults():
    assert parse_config({}) == Config()


def test_the_defaults_are_valid_when_written_out():
    assert parse_config(Config().model_dump()) == Config()


def test_the_sections_are_these():
    assert list(Config.model_fields) == SECTIONS


def test_every_option_is_told_with_its_section():
    dumped = Config().model_dump()
    told = [key for key, _ in options()]
    assert told == [f"{section}.{key}" for section in SECTIONS for key in dumped[section]]


@pytest.mark.parametrize(("key", "field"), [*options()], ids=[key for key, _ in options()])
def test_every_option_has_a_description(key, field):
    assert field.description


def test_a_configuration_cannot_be_changed_after_reading():
    with pytest.raises(ValidationError, match="frozen"):
        parse_config({}).battery.depth = "full"  # type: ignore[misc]  # that is the test


def test_a_form_of_ones_own_is_read_as_it_was_written():
    config = parse_config({"battery": {"extra": [extra(), extra(id="X-2", helo="localhost")]}})
    assert config.battery.extras() == (
        Extra("X-MINE", "<root@${host}>", "<${user}%${sink}@${domain}>"),
        Extra("X-2", "<root@${host}>", "<${user}%${sink}@${domain}>", Helo.LOCALHOST),
    )


def test_thirty_forms_of_ones_own_are_not_too_many():
    forms = [extra(id=f"X-{n}") for n in range(30)]
    assert len(parse_config({"battery": {"extra": forms}}).battery.extras()) == 30


def test_a_form_of_ones_own_is_shown_as_it_is_written():
    shown = str(parse_config({"battery": {"extra": [extra()]}}).battery.extra[0])
    read = tomllib.loads(f"form = {shown}")["form"]
    assert read == extra(helo="own")


@pytest.mark.parametrize(("depth", "tier"), [("quick", 2), ("full", 255)])
def test_the_depth_is_the_highest_tier_that_is_sent(depth, tier):
    assert parse_config({"battery": {"depth": depth}}).tier == tier


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timing.patience", timedelta(days=5)),
        ("timing.grace", timedelta(seconds=60)),
        (
            "timing.retries",
            [timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=4)],
        ),
        ("politeness.forms_per_session", 8),
        ("politeness.odd_forms_per_session", 2),
        ("listing.recheck_every", timedelta(days=7)),
        ("publish.ttl", timedelta(minutes=5)),
        ("battery.depth", "quick"),
        ("scope.allow", []),
        ("sink.domains", []),
    ],
)
def test_these_defaults_are_promises(key, value):
    section, _, option = key.partition(".")
    assert getattr(getattr(Config(), section), option) == value


@pytest.mark.parametrize(
    ("identity", "sink", "name"),
    [
        (
            {"ehlo_name": "probe.checker.example"},
            {"domains": ["sink.example"]},
            "probe.checker.example",
        ),
        ({}, {"domains": ["sink.example", "sink2.example"]}, "sink.example"),
        ({}, {}, "relay-probe.invalid"),
    ],
    ids=["configured", "first-sink-domain", "neither"],
)
def test_our_name_is_as_configured_or_else_the_first_sink_domain(identity, sink, name):
    assert parse_config({"identity": identity, "sink": sink}).ehlo_name == name


# ---- what may be set


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("identity.sources", ["192.0.2.9"], [IPv4Address("192.0.2.9")]),
        ("identity.sources", ["2001:db8::9"], [IPv6Address("2001:db8::9")]),
        ("identity.ehlo_name", "Probe.Checker.Example.", "probe.checker.example"),
        ("identity.ehlo_name", "", ""),
        ("identity.vantage", "ams-1", "ams-1"),
        ("scope.allow", ["127.0.0.0/8"], [ip_network("127.0.0.0/8")]),
        ("scope.allow", ["192.0.2.1"], [ip_network("192.0.2.1/32")]),
        ("scope.allow", ["::1"], [ip_network("::1/128")]),
        ("scope.deny", ["224.0.0.0/4"], [ip_network("224.0.0.0/4")]),
        ("dns.nameservers", ["[::1]:53"], ["[::1]:53"]),
        ("timing.retries", ["5min", 60], [timedelta(minutes=5), timedelta(minutes=1)]),
        ("timing.retries", [], []),
        ("sink.check_peer", "192.0.2.1:25", "192.0.2.1:25"),
        ("sink.check_peer", "", ""),
        ("publish.server", "192.0.2.1:53", "192.0.2.1:53"),
        ("publish.server", "", ""),
        ("publish.lookup_url", "https://list.example/?a=", "https://list.example/?a="),
        ("listing.recheck_every", "24h", timedelta(hours=24)),
        ("log.format", "json", "json"),
    ],
)
def test_a_right_value_is_kept_as_what_it_means(key, value, kept):
    assert set_to(key, value) == kept


def test_the_scope_section_is_told_as_rules():
    config = parse_config({"scope": {"allow": ["127.0.0.0/8"], "deny": ["198.51.100.0/24"]}})
    assert config.scope.rules() == Scope(
        (ip_network("127.0.0.0/8"),), (ip_network("198.51.100.0/24"),)
    )


def test_the_longest_sink_domain_leaves_room_for_a_quoted_token():
    domain = f"{'a' * (LONGEST_SINK_DOMAIN - len('.example'))}.example"
    assert len(f'"{"t" * LENGTH}@{domain}"') == 64
    assert set_to("sink.domains", [domain]) == [domain]


# ---- mistakes: one line each, with the key, the value and what would be right

TOO_LONG = f"{'a' * (LONGEST_SINK_DOMAIN - len('.example') + 1)}.example"
MISTAKES = {
    "pool-too-small": ("database.pool", 1, "1", "greater than or equal to 2"),
    "pool-no-number": ("database.pool", "many", "'many'", "valid integer"),
    "ehlo-name": ("identity.ehlo_name", "probe", "'probe'", "must be a full domain name"),
    "source": ("identity.sources", ["mx"], "'mx'", "valid IPv4 or IPv6 address"),
    "vantage": ("identity.vantage", "A b", "'A b'", "match pattern"),
    "contact-too-long": ("identity.contact", "c" * 201, "c" * 201, "200"),
    "contact-of-two-lines": ("identity.contact", "a\rb", "'a\\rb'", ""),
    "network": ("scope.allow", ["lab"], "'lab'", 'must be a network such as "192.0.2.0/24"'),
    "host-bits": ("scope.allow", ["192.0.2.1/24"], "'192.0.2.1/24'", "has host bits set"),
    "host-bits-denied": ("scope.deny", ["192.0.2.1/24"], "'192.0.2.1/24'", "host bits set"),
    "multicast": ("scope.allow", ["224.0.0.0/4"], "224.0.0.0/4", "where no mail server can be"),
    "everything": ("scope.allow", ["0.0.0.0/0"], "0.0.0.0/0", "where no mail server can be"),
    "mapped": ("scope.deny", ["::ffff:192.0.2.0/120"], "::ffff", "write it as an IPv4 network"),
    "one-group": ("scope.allow", ["239.1.2.3"], "239.1.2.3/32", "where no mail server can be"),
    "multicast-6": ("scope.allow", ["ff02::/16"], "ff02::/16", "where no mail server can be"),
    "unspecified": ("scope.allow", ["0.0.0.0"], "0.0.0.0/32", "where no mail server can be"),
    "unspecified-6": ("scope.allow", ["::"], "::/128", "where no mail server can be"),
    "nameserver": ("dns.nameservers", ["9.9.9.9"], "'9.9.9.9'", "must be address:port"),
    "depth": ("battery.depth", "deep", "'deep'", "'quick' or 'full'"),
    "extra-id": ("battery.extra", [extra(id="S-EXT")], "'S-EXT'", "should match pattern '^X-"),
    "extra-helo": ("battery.extra", [extra(helo="mx")], "'mx'", "'own', 'localhost', 'host'"),
    "extra-key": ("battery.extra", [extra(odd=True)], "battery.extra.0.odd", "no such key"),
    "extra-elsewhere": (
        "battery.extra",
        [extra(rcpt_to="<${user}@example.org>")],
        "'<${user}@example.org>'",
        "must lead to our sink: ${user} and ${sink} are needed",
    ),
    "extra-without-token": ("battery.extra", [extra(rcpt_to="<a@${sink}>")], "", "must lead to"),
    "extra-placeholder": (
        "battery.extra",
        [extra(mail_from="<${me}>")],
        "'<${me}>'",
        "may have only ${...} of arpa, domain",
    ),
    "extra-not-ascii": ("battery.extra", [extra(mail_from="<ä>")], "'<ä>'", "printable ASCII"),
    "extra-line-end": (
        "battery.extra",
        [extra(mail_from="<>\r\nRSET")],
        "battery.extra.0.mail_from",
        "must be printable ASCII",
    ),
    "extra-loopback": (
        "battery.extra",
        [extra(mail_from="<a@[127.0.0.1]>")],
        "'<a@[127.0.0.1]>'",
        "must not name a loopback address",
    ),
    "extra-empty": ("battery.extra", [extra(mail_from="")], "''", "at least 1 character"),
    "extra-too-long": ("battery.extra", [extra(mail_from="a" * 257)], "aaa", "at most 256"),
    "extra-twice": ("battery.extra", [extra(), extra()], "battery.extra", "X-MINE is there twice"),
    "extra-too-many": (
        "battery.extra",
        [extra(id=f"X-{n}") for n in range(31)],
        "battery.extra",
        "at most 30 items",
    ),
    "duration": ("timing.connect", "soon", "'soon'", "must be a duration such as"),
    "endless-duration": ("timing.patience", float("inf"), "inf", "must be"),
    "retry": ("timing.retries", ["5 minutes"], "'5 minutes'", "must be a duration such as"),
    "impolite": ("politeness.forms_per_session", 9, "9", "less than or equal to 8"),
    "odd": ("politeness.odd_forms_per_session", 3, "3", "less than or equal to 2"),
    "listen": ("sink.listen", ["25"], "'25'", "must be address:port"),
    "port": ("sink.listen", ["0.0.0.0:99999"], "'99999'", "must be 0 to 65535"),
    "domain-too-long": ("sink.domains", [TOO_LONG], TOO_LONG, f"at most {LONGEST_SINK_DOMAIN}"),
    "check-peer": ("sink.check_peer", "sink", "'sink'", "must be address:port"),
    "recheck": ("listing.recheck_every", "23h", "'23h'", "must be 24h or more"),
    "zone": ("publish.zone", "relays", "'relays'", "must be a full domain name"),
    "server": ("publish.server", "ns", "'ns'", "must be address:port"),
    "url-dollar": ("publish.lookup_url", "https://a/$", "'https://a/$'", "plain ASCII without"),
    "url-quote": ("publish.lookup_url", 'https://a/"', "https://a/", "plain ASCII without"),
    "url-backslash": ("publish.lookup_url", "https://a/\\", "https://a/", "plain ASCII without"),
    "url-blank": ("publish.lookup_url", "https://a b/", "'https://a b/'", "plain ASCII without"),
    "url-line-end": ("publish.lookup_url", "https://a/\n", "https://a/", "plain ASCII without"),
    "url-not-ascii": ("publish.lookup_url", "https://ä/", "'https://ä/'", "plain ASCII without"),
    "web": ("web.listen", "8025", "'8025'", "must be address:port"),
    "level": ("log.level", "loud", "'loud'", "'debug', 'info', 'warning' or 'error'"),
}


@pytest.mark.parametrize(("key", "value", "shown", "right"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_key_value_and_what_would_be_right(key, value, shown, right):
    with pytest.raises(ConfigError) as told:
        parse_config(only(key, value))
    line = str(told.value)
    assert line.startswith(key)
    assert shown in line
    assert right in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"sink": {"domain": []}}, "sink.domain: no such key; did you mean sink.domains?"),
        ({"timing": {"patiens": "1d"}}, "timing.patiens: no such key; did you mean timing.pat"),
        ({"listening": {}}, "listening: no such key; did you mean listing?"),
        ({"sink": {"qqqqqqqqq": 1}}, "sink.qqqqqqqqq: no such key"),
        ({"qqqqqqqqq": 1}, "qqqqqqqqq: no such key"),
    ],
    ids=["option", "misspelt-option", "section", "unlike-any-option", "unlike-any-section"],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tables, line):
    with pytest.raises(ConfigError) as told:
        parse_config(tables)
    assert str(told.value).startswith(line)


def test_no_key_is_suggested_that_is_not_near():
    with pytest.raises(ConfigError) as told:
        parse_config({"qqqqqqqqq": 1})
    assert str(told.value) == "qqqqqqqqq: no such key"


def test_every_mistake_has_a_line():
    with pytest.raises(ConfigError) as told:
        parse_config({"database": {"pool": 0}, "sink": {"x": 1}, "log": {"level": "loud"}})
    assert [line.partition(" ")[0].rstrip(":") for line in str(told.value).splitlines()] == [
        "database.pool",
        "sink.x",
        "log.level",
    ]


def test_a_section_must_be_a_table():
    with pytest.raises(ConfigError, match="sink is 5: Input should be a valid dictionary"):
        parse_config({"sink": 5})


def test_a_value_that_is_no_scalar_is_not_quoted():
    with pytest.raises(ConfigError, match=r"^database\.pool: Input should be a valid integer$"):
        parse_config(only("database.pool", [1]))


def test_a_visit_is_not_shorter_than_a_session():
    with pytest.raises(
        ConfigError, match=r"timing\.visit must not be shorter than timing\.session"
    ):
        parse_config({"timing": {"visit": "1min", "session": "2min"}})


def test_a_visit_may_be_as_long_as_a_session():
    config = parse_config({"timing": {"visit": "2min", "session": "2min"}})
    assert config.timing.visit == config.timing.session


def test_a_list_has_an_end():
    with pytest.raises(ConfigError, match=r"sink\.domains: .* at most 8"):
        parse_config(only("sink.domains", ["sink.example"] * 9))


toml_values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@given(st.sampled_from([key for key, _ in options()]), toml_values)
@example("timing.connect", float("inf"))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_value_of_any_option_is_taken_or_refused_by_its_key(key, value):
    try:
        told = key if parse_config(only(key, value)) else ""
    except ConfigError as error:
        told = str(error)
    section = key.partition(".")[0]
    assert told.startswith((key, f"{section}: ", "configuration: "))
