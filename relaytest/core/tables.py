"""Reading TOML tables of our own data files: what is wrong is told with its place."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from relaytest.core.errors import BatteryError

Table = Mapping[str, Any]
_T = TypeVar("_T")


def rows(tables: Table, kind: str, file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each table of an array of tables with a name for its place.

    >>> list(rows({"tier": [{"number": 1}]}, "tier", "the battery"))
    [('tier 1', {'number': 1})]
    """
    for place, row in enumerate(need({kind: [], **tables}, kind, list, file), start=1):
        if not isinstance(row, dict):
            raise BatteryError(f"{kind} {place} is no table")
        yield f"{kind} {place}", row


def only(table: Table, keys: set[str], where: str) -> None:
    """Refuse a table with a key that means nothing.

    Raises:
        BatteryError: It has one.
    """
    if unknown := sorted(set(table) - keys):
        raise BatteryError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(keys))}")


def need(table: Table, key: str, kind: type[_T], where: str) -> _T:
    """Return the value of a key.

    Raises:
        BatteryError: It is missing or of another kind.
    """
    value = table.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BatteryError(f"{where}: key {key!r} is missing or is no {kind.__name__}")
    return value


def texts(table: Table, key: str, where: str) -> tuple[str, ...]:
    """Return the list of texts of a key.

    Raises:
        BatteryError: It is missing or is no list of texts.
    """
    found = tuple(need(table, key, list, where))
    if not all(isinstance(text, str) for text in found):
        raise BatteryError(f"{where}: key {key!r} is no list of texts")
    return found
