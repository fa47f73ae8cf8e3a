"""Values as an operator writes them: durations, host names, places to listen on."""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = 100 * 366 * 86400  # seconds; more would overflow in dates
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)")
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)(?!.*\.\d+$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
)


def parse_duration(value: object) -> timedelta:
    """Read a duration.

    >>> parse_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """
    if isinstance(value, timedelta):
        return value
    seconds: int | float = -1
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 <= seconds <= _LONGEST:
        raise ValueError('must be a duration such as "30s", "5min", "4h" or "5d"')
    return timedelta(seconds=seconds)


def parse_moment(text: str, now: datetime, *, ago: bool) -> datetime:
    """Read a time: a date, a date with a time, or a duration from now.

    Args:
        text: "2026-01-31", "2026-01-31 14:00" (UTC unless it says otherwise), or "30d".
        now: The present.
        ago: A duration goes back from now, not on.

    >>> parse_moment("2h", datetime(2026, 1, 1, tzinfo=UTC), ago=True)
    datetime.datetime(2025, 12, 31, 22, 0, tzinfo=datetime.timezone.utc)
    """
    if _DURATION.fullmatch(text.strip()):
        span = parse_duration(text)
        return now - span if ago else now + span
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f'{text!r} must be a time such as "2026-01-31", "2026-01-31 14:00" or "30d"'
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_value(value: object) -> str:
    """Return a value as it is written in the configuration file.

    >>> format_value(timedelta(hours=36)), format_value([]), format_value(True)
    ('36h', '[]', 'true')
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        for unit in ("d", "h", "min", "s"):
            if seconds and seconds % _UNITS[unit] == 0:
                return f"{seconds / _UNITS[unit]:.0f}{unit}"
        return f"{seconds * 1000:.0f}ms"
    if isinstance(value, list):
        return f"[{', '.join(format_value(one) for one in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def spoken(duration: timedelta) -> str:
    """Return a duration in words.

    >>> spoken(timedelta(minutes=10)), spoken(timedelta(hours=24)), spoken(timedelta(seconds=90))
    ('10 minutes', '1 day', '90 seconds')
    """
    seconds = duration.total_seconds()
    for name, unit in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds and seconds % unit == 0:
            count = int(seconds / unit)
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return f"{seconds:g} seconds"


def parse_host_name(value: object) -> str:
    """Read a host or domain name; letter case and a final dot do not matter."""
    name = value.rstrip(".").lower() if isinstance(value, str) else ""
    if not _HOST_NAME.fullmatch(name):
        raise ValueError('must be a full domain name such as "relay-probe.example.net"')
    return name


def parse_endpoint(value: object) -> str:
    """Check `host:port`, where host is an address and an IPv6 host stands in brackets."""
    text = value.strip() if isinstance(value, str) else ""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (":" in host) != (host == f"[{bare}]") or not _is_address(bare):
        raise ValueError('must be address:port, such as "0.0.0.0:25" or "[::]:25"')
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"port {port!r} must be 0 to 65535")
    return text


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
