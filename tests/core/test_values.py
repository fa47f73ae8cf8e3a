"""Values as an operator writes them: every spelling that is taken, and those that are not."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.config import split_endpoint
from relaytest.core.values import (
    format_value,
    parse_duration,
    parse_endpoint,
    parse_host_name,
    parse_moment,
)

# ---- durations

DURATIONS = {
    "500ms": timedelta(milliseconds=500),
    "90s": timedelta(seconds=90),
    "5min": timedelta(minutes=5),
    "5m": timedelta(minutes=5),
    "4h": timedelta(hours=4),
    "1.5h": timedelta(minutes=90),
    "5d": timedelta(days=5),
    "2w": timedelta(weeks=2),
    " 5 min ": timedelta(minutes=5),
    "0s": timedelta(0),
}


@pytest.mark.parametrize(("text", "duration"), DURATIONS.items(), ids=DURATIONS)
def test_a_duration_is_a_number_with_a_unit(text, duration):
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("value", "duration"),
    [
        (90, timedelta(seconds=90)),
        (0.5, timedelta(milliseconds=500)),
        (0, timedelta(0)),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
    ids=["seconds", "parts-of-a-second", "zero", "duration"],
)
def test_a_plain_number_is_seconds(value, duration):
    assert parse_duration(value) == duration


@pytest.mark.parametrize(
    "value",
    [
        *["", "5", "min", "5 minutes", "-5s", "1h30m", "5S", "1e3s", ".5s", "5s\n5s"],
        *[-1, -0.5, True, None, [], {}, float("nan")],
    ],
    ids=repr,
)
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match='must be a duration such as "30s"'):
        parse_duration(value)


@pytest.mark.parametrize(
    "value",
    [float("inf"), 1e300, 10**400, "99999999999999w", "1" + "0" * 400 + "s"],
    ids=["infinite", "huge-float", "huge-integer", "huge-text", "longest-text"],
)
def test_a_duration_longer_than_can_be_counted_is_refused(value):
    with pytest.raises(ValueError, match="must be"):
        parse_duration(value)


WRITTEN = {
    "2d": timedelta(days=2),
    "36h": timedelta(hours=36),
    "90min": timedelta(minutes=90),
    "90s": timedelta(seconds=90),
    "1500ms": timedelta(milliseconds=1500),
    "0ms": timedelta(0),
    "true": True,
    "false": False,
    "8": 8,
    "quick": "quick",
    "[]": [],
    "[5min, 30min]": [timedelta(minutes=5), timedelta(minutes=30)],
    "[127.0.0.0/8]": [ip_network("127.0.0.0/8")],
}


@pytest.mark.parametrize(("text", "value"), WRITTEN.items(), ids=WRITTEN)
def test_a_value_is_written_as_in_the_configuration_file(text, value):
    assert format_value(value) == text


@given(st.integers(0, 10**12).map(lambda number: timedelta(milliseconds=number)))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_a_duration_that_was_written_is_read_as_the_same(duration):
    assert parse_duration(format_value(duration)) == duration


# ---- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("probe.checker.example", "probe.checker.example"),
        ("Probe.Checker.EXAMPLE", "probe.checker.example"),
        ("probe.checker.example.", "probe.checker.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.checker.example", "1.checker.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
    ids=["plain", "case", "final-dot", "idn", "digit-label", "longest-label"],
)
def test_a_host_name_is_read_whatever_its_case_and_final_dot(text, name):
    assert parse_host_name(text) == name


@pytest.mark.parametrize(
    "value",
    [
        *["", ".", "localhost", "a..example", ".example", "-a.example", "a-.example"],
        *["a_b.example", "a b.example", "mx.example\n", "bücher.example", "a@b.example"],
        *["192.0.2.1", "[192.0.2.1]", "2001:db8::1"],
        *[f"{'a' * 64}.example", f"{'a.' * 124}example", 7, None, ["a.example"]],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_full_domain_name_is_refused(value):
    with pytest.raises(ValueError, match="must be a full domain name"):
        parse_host_name(value)


# ---- endpoints

ENDPOINTS = {
    "0.0.0.0:25": ("0.0.0.0", 25),
    "192.0.2.1:0": ("192.0.2.1", 0),
    "192.0.2.1:65535": ("192.0.2.1", 65535),
    "[::]:25": ("::", 25),
    "[2001:db8::1]:8053": ("2001:db8::1", 8053),
}


@pytest.mark.parametrize("text", ENDPOINTS)
def test_an_endpoint_is_kept_as_written(text):
    assert parse_endpoint(f" {text} ") == text


@pytest.mark.parametrize(("text", "parts"), ENDPOINTS.items(), ids=ENDPOINTS)
def test_an_endpoint_is_split_into_host_and_port(text, parts):
    assert split_endpoint(text) == parts


@pytest.mark.parametrize(
    "value",
    [
        *["", "25", ":25", "0.0.0.0", "::", "[::]", ":::25", "::1:25", "[192.0.2.1]:25"],
        *["[::1:25", "::1]:25", "[[::1]]:25", "localhost:25", "mx.shop.example:25", "*:25"],
        *["192.0.2.0/24:25", 25, None, []],
    ],
    ids=repr,
)
def test_an_endpoint_without_an_address_is_refused(value):
    with pytest.raises(ValueError, match="must be address:port, such as"):
        parse_endpoint(value)


@pytest.mark.parametrize(
    "port", ["", "smtp", "-1", "+25", "65536", "25 25", "²", "\uff12\uff15", "0x19"]
)
def test_a_port_that_is_no_port_is_refused_by_its_name(port):
    with pytest.raises(ValueError, match="must be 0 to 65535"):
        parse_endpoint(f"0.0.0.0:{port}")


NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago", "moment"),
    [
        ("2h", True, NOW - timedelta(hours=2)),
        ("30d", False, NOW + timedelta(days=30)),
        ("2026-01-31", True, datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31 14:00", True, datetime(2026, 1, 31, 14, tzinfo=UTC)),
        (" 2026-01-31T14:00:00Z ", True, datetime(2026, 1, 31, 14, tzinfo=UTC)),
        ("2026-01-31 14:00+02:00", True, datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read(text, ago, moment):
    assert parse_moment(text, NOW, ago=ago) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "-2h", "31.01.2026", "1e9d"])
def test_what_is_no_moment_is_told_with_what_would_be_right(text):
    with pytest.raises(ValueError, match='must be a time such as "2026-01-31"'):
        parse_moment(text, NOW, ago=True)
