"""What a running daemon takes over of a configuration that was read anew."""

from relaytest.core.config import Config, options

# Connections and sockets outlive a reload.
FIXED = (
    "database.dsn",
    "database.pooled",
    "database.listen_dsn",
    "database.pool",
    "database.timeout",
    "sink.listen",
    "web.listen",
    "metrics.listen",
)


def changed_options(old: Config, new: Config) -> list[str]:
    """Return the names of the options that differ."""
    return [key for key, _ in options() if _value(old, key) != _value(new, key)]


def taken_over(old: Config, new: Config) -> Config:
    """Return the new configuration, with the old values of what needs a restart."""
    kept: dict[str, dict[str, object]] = {}
    for key in FIXED:
        section, _, option = key.partition(".")
        kept.setdefault(section, {})[option] = _value(old, key)
    sections = {name: getattr(new, name).model_copy(update=values) for name, values in kept.items()}
    return new.model_copy(update=sections)


def _value(config: Config, key: str) -> object:
    section, _, option = key.partition(".")
    return getattr(getattr(config, section), option)
