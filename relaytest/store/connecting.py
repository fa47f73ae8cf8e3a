"""Making one connection to PostgreSQL: to the host that takes writes, or through a pooler."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from relaytest.core.errors import ConfigError

AWAY = (
    OSError,  # no socket there, refused, or reset; TimeoutError is one too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,  # starting up or shutting down
    asyncpg.InterfaceError,  # the connection was closed under us
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TargetServerAttributeNotMatched,  # no host takes writes: a failover is under way
    asyncpg.ReadOnlySQLTransactionError,  # a failover left us on a standby
    asyncpg.InsufficientResourcesError,  # disk full, out of memory
    asyncpg.InvalidAuthorizationSpecificationError,  # no such role, or a wrong password
    asyncpg.InvalidCatalogNameError,  # no such database: not yet, or one is being restored
)
_POOLED = (  # the statement that we prepared is on another connection of the pooler
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)
_ENDS_WITH_PORT = re.compile(r"(^|[^:]|\]):\d+$")  # an IPv6 address alone has colons, too


def config_fault(error: Exception) -> ConfigError | None:
    """Return what to tell of an error that only a wrong configuration makes."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ConfigError(
            f"the role of database.dsn may not do this: {error}; a superuser grants the roles with "
            "SELECT relaytest.grant_roles()"
        )
    if isinstance(error, _POOLED) or "unsupported startup parameter" in str(error):
        return ConfigError(
            "database.dsn leads to a pooler of transactions such as PgBouncer: set "
            f"database.pooled = true, and database.listen_dsn to PostgreSQL itself ({error})"
        )
    return None


@dataclass(frozen=True, slots=True)
class Door:
    """How connections are made.

    Attributes:
        dsn: As libpq takes it; of several hosts, that one is used which takes writes.
        program: application_name, to be seen in pg_stat_activity.
        longest: Seconds until a connection must stand, and for one statement.
        pooled: It leads to a pooler that gives each transaction another connection.
    """

    dsn: str
    program: str
    longest: float
    pooled: bool = False

    async def open(self, *_: object, **more: object) -> asyncpg.Connection:
        """Connect to the first host that takes writes; each may use its share of the time.

        With asyncpg's own limit for all of them a first host that swallows packets would keep
        the others from ever being asked.

        Args:
            more: Options of asyncpg.connect.

        Raises:
            ConfigError: There is a pooler that we were not told of.
        """
        hosts = tuple(hosts_of(self.dsn))
        options: dict[str, Any] = {**more, **self._options(len(hosts))}
        error: BaseException | None = None
        for host, port in hosts or ((None, None),):
            try:
                return await asyncpg.connect(self.dsn, host=host, port=port, **options)
            except AWAY as failure:
                if fault := config_fault(failure):
                    raise fault from None
                error = failure
        assert error is not None
        raise error

    def _options(self, hosts: int) -> dict[str, Any]:
        settings = {"application_name": self.program, "timezone": "UTC"}
        options: dict[str, Any] = {"server_settings": settings, "command_timeout": self.longest}
        if self.pooled:
            options["statement_cache_size"] = 0
        else:
            settings["jit"] = "off"  # PgBouncer refuses what it cannot hand on
        if hosts > 1 and "target_session_attrs" not in self.dsn:
            options["target_session_attrs"] = "read-write"
        return options | {"timeout": self.longest / max(1, hosts)}


def hosts_of(dsn: str) -> Iterator[tuple[str, int | None]]:
    """Yield (host, port or None) of a DSN that names several; nothing for any other.

    >>> list(hosts_of("postgresql://u:p@db1:5433,[::1]/x"))
    [('db1', 5433), ('::1', None)]
    >>> list(hosts_of("postgresql:///x?host=/run/one,/run/two&port=5432"))
    [('/run/one', 5432), ('/run/two', 5432)]
    """
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    places = (parts.netloc.rpartition("@")[2] or query.get("host", "")).split(",")
    if len(places) == 1:
        return
    ports = query.get("port", "").split(",")
    for place, other in zip(places, itertools.cycle(ports)):
        host, _, port = place.rpartition(":") if _ENDS_WITH_PORT.search(place) else (place, "", "")
        number = port or other
        yield host.strip("[]"), int(number) if number else None
