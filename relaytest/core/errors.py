"""The errors that relaytest raises itself.

Plain classes with fields, never frozen dataclasses: an exception must let Python set its
traceback. `temporary` says whether the same call may succeed later.
"""

from typing import ClassVar


class RelaytestError(Exception):
    """Base class.

    Attributes:
        temporary: The same call may succeed later; a job that meets it is tried again.
    """

    temporary: ClassVar[bool] = False


class ConfigError(RelaytestError):
    """The configuration is wrong. The text names the key, the value and what would be right."""


class BatteryError(RelaytestError):
    """The battery file is malformed. The text names the table and the key."""


class SchemaError(RelaytestError):
    """The database's schema and this program do not fit. The text says what to do."""


class ClusterError(RelaytestError):
    """The private PostgreSQL could not be found, made or started. The text says what to do."""


class DatabaseAwayError(RelaytestError):
    """The database does not answer just now."""

    temporary = True


class RefusedRequestError(RelaytestError):
    """The database refused a request for a retest. The text is the database's own sentence.

    Attributes:
        hint: What would be right, or "".
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
