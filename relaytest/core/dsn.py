"""Addresses of databases as an operator writes them, which may hold a password."""

import re
from urllib.parse import urlsplit

_SCHEMES = ("postgresql", "postgres")
_PORT = re.compile(r"(?:^|[^:]|\]):([^:\]]*)$")  # an IPv6 address alone has colons, too
_IN_FRONT = re.compile(r"(://[^:/?#]*):[^/?#]*@")  # user:password@
_IN_QUERY = re.compile(r"([?&](?:ssl)?password=)[^&#]*")


def parse_dsn(value: object) -> str:
    """Check the URI of a database; an error shows nothing of it.

    >>> parse_dsn("postgresql://relaytest@db1,db2:5433/relaytest")
    'postgresql://relaytest@db1,db2:5433/relaytest'
    """
    text = value.strip() if isinstance(value, str) else "?"
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    hosts = parts.netloc.rpartition("@")[2].split(",")
    ports = [
        host.rpartition(":")[2] for host in hosts if re.search(r"(^|[^:\]]|\]):[^:\]]*$", host)
    ]
    if text and not (parts.scheme in _SCHEMES and all(p.isdecimal() or not p for p in ports)):
        raise ValueError('must be a URI such as "postgresql://user:password@host:5432/database"')
    return text


def without_password(dsn: str) -> str:
    """Return a DSN as it may be shown.

    >>> without_password("postgresql://u:secret@h/d?password=secret&x=1")
    'postgresql://u:***@h/d?password=***&x=1'
    """
    return _IN_QUERY.sub(r"\1***", _IN_FRONT.sub(r"\1:***@", dsn))
