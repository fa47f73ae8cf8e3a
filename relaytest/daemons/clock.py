"""The one place where the program asks what time it is."""

from datetime import UTC, datetime


def utcnow() -> datetime:
    """Return the current time, aware, UTC."""
    return datetime.now(UTC)
