"""Values of any kind in the configuration."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from relaytest.core.config import Config, options, parse_config
from relaytest.core.errors import ConfigError
from relaytest.core.values import format_value
from tests.fuzz.target import Target

_OPTIONS = dict(options())
_SPOTS = (
    st.sampled_from(["30s", "5min", "1.5h", "9" * 400 + "d", "0.0000001ms", "٣s", "", " "])
    | st.sampled_from(["\x00", "\n", "\udcff"])
    | st.sampled_from(["192.0.2.0/24", "::/0", "::ffff:0:0/96", "fe80::%eth0/64", "192.0.2.1"])
    | st.sampled_from(["0/0", "[::1]:25"])
    | st.sampled_from(["127.0.0.1:2525", "127.0.0.1:٢٥", ":25", "[::1%1]:25", "[[::1]]:25"])
    | st.sampled_from(["127.0.0.1:0000025"])
    | st.sampled_from(["sink.example", "a" * 64 + ".example", "Sink.Example.", "\u017fink.example"])
    | st.sampled_from(["a.1", "..", "quick"])
    | st.sampled_from(["also", "json", "info", "<${user}@${sink}>", "<>", "<${sender}>", "X-A"])
    | st.sampled_from(["own", "%(user)s"])
)
_SCALARS = (
    _SPOTS
    | st.text(max_size=12)
    | st.integers(-(1 << 70), 1 << 70)
    | st.integers(0, 100)
    | st.floats()
    | st.booleans()
    | st.just(datetime(2026, 1, 1, tzinfo=UTC))
    | st.just(timedelta(days=1))
    | st.none()
)
_EXTRAS = st.dictionaries(
    st.sampled_from(["id", "mail_from", "rcpt_to", "helo", "more"]), _SCALARS, max_size=5
)
_VALUES = st.recursive(
    _SCALARS | _EXTRAS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_SPOTS, inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(sorted(_OPTIONS)) | st.sampled_from(sorted(_OPTIONS)).map(
    lambda key: key.replace("s", "z", 1)
)

# Whole sections may be anything, too.
INPUTS = st.tuples(
    st.dictionaries(_KEYS, _VALUES, max_size=6),
    st.dictionaries(st.sampled_from(list(Config.model_fields)) | _SPOTS, _VALUES, max_size=1),
)


def check(value: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """A configuration or a ConfigError; and what was taken is taken again, and can be shown."""
    options_, sections = value
    values: dict[str, Any] = {}
    for key, one in options_.items():
        section, _, option = key.partition(".")
        values.setdefault(section, {})[option] = one
    values |= sections
    try:
        config = parse_config(values)
    except ConfigError as error:
        told = str(error)
        assert told.strip()
        return
    assert parse_config(config.model_dump()) == config
    for key in _OPTIONS:
        section, _, option = key.partition(".")
        format_value(getattr(getattr(config, section), option))
    config.scope.rules()
    config.battery.extras()


TARGET = Target("any values give a configuration or a sentence", INPUTS, check)
