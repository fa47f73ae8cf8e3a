"""What a reload takes over, and what waits for a restart."""

from relaytest.core.config import Config, options, parse_config
from relaytest.core.reloading import FIXED, changed_options, taken_over

OLD = parse_config({"sink": {"listen": ["192.0.2.1:25"]}, "log": {"level": "info"}})
NEW = parse_config(
    {"sink": {"listen": ["192.0.2.2:25"], "idle": "1min"}, "log": {"level": "debug"}}
)


def test_what_differs_is_named():
    assert changed_options(OLD, NEW) == ["sink.listen", "sink.idle", "log.level"]
    assert changed_options(OLD, OLD) == []


def test_sockets_stay_and_all_else_is_new():
    config = taken_over(OLD, NEW)
    assert changed_options(OLD, config) == ["sink.idle", "log.level"]
    assert changed_options(config, NEW) == ["sink.listen"]


def test_what_is_fixed_are_options():
    assert set(FIXED) <= {key for key, _ in options()}
    assert taken_over(Config(), Config()) == Config()
