"""The data that comes with the program."""

from functools import cache
from importlib.resources import files

from relaytest.core.advice import Advice, parse_advice
from relaytest.core.config import Config
from relaytest.core.probe import Battery, parse_battery


@cache
def battery() -> Battery:
    """Return the shipped battery (core/battery.toml)."""
    return parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))


@cache
def advice() -> Advice:
    """Return the shipped advice (core/advice.toml)."""
    return parse_advice((files("relaytest.core") / "advice.toml").read_text(encoding="utf-8"))


def battery_of(config: Config) -> Battery:
    """Return the shipped battery with the operator's own forms."""
    return battery().with_extra(config.battery.extras())
