"""What closes a relay: by the product it looks like, and by the envelope that got through."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass

from relaytest.core.errors import BatteryError
from relaytest.core.probe import Form
from relaytest.core.tables import Table, need, only, rows, texts

_FILE = "the advice"


@dataclass(frozen=True, slots=True)
class Product:
    """A mail server.

    Attributes:
        match: Of what it says, line by line.
        settings: What to set, a text each.
        verify: Commands, or what to see from outside.
        source: Where it is written, a URL.
    """

    name: str
    match: tuple[re.Pattern[str], ...]
    settings: tuple[str, ...]
    verify: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Hole:
    """What an envelope that was relayed shows."""

    name: str
    sender: re.Pattern[str]
    recipient: re.Pattern[str]
    text: str


@dataclass(frozen=True, slots=True)
class Advice:
    """All products and holes, the special ones first."""

    products: tuple[Product, ...]
    holes: tuple[Hole, ...]

    def product_of(self, said: str) -> Product | None:
        """Return what a server looks like by what it said; None: like nothing we know."""
        for product in self.products:
            if any(pattern.search(said) for pattern in product.match):
                return product
        return None

    def holes_of(self, forms: Iterable[Form]) -> tuple[Hole, ...]:
        """Return what the forms that were relayed show, each once.

        Who is open to all is not told of the special ones, too.
        """
        found = {self._hole_of(form) for form in forms}
        if self.holes[-1] in found:
            return self.holes[-1:]
        return tuple(hole for hole in self.holes if hole in found)

    def _hole_of(self, form: Form) -> Hole:
        for hole in self.holes[:-1]:
            sender, recipient = form.sender.template, form.recipient.template
            if hole.sender.search(sender) and hole.recipient.search(recipient):
                return hole
        return self.holes[-1]


def parse_advice(text: str) -> Advice:
    """Read an advice file (TOML; see advice.toml for the keys).

    Raises:
        BatteryError: Not TOML, or a key is missing, unknown or of the wrong kind.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BatteryError(f"{_FILE} is not TOML: {error}") from None
    only(tables, {"product", "hole"}, _FILE)
    products = tuple(_product(where, table) for where, table in rows(tables, "product", _FILE))
    holes = tuple(_hole(where, table) for where, table in rows(tables, "hole", _FILE))
    if not holes:
        raise BatteryError(f"{_FILE} has no [[hole]]; the last one is for what fits no other")
    return Advice(products, holes)


def _product(where: str, table: Table) -> Product:
    only(table, {"name", "match", "settings", "verify", "source"}, where)
    return Product(
        need(table, "name", str, where),
        tuple(_pattern(one, where) for one in texts(table, "match", where)),
        texts(table, "settings", where),
        texts(table, "verify", where),
        need(table, "source", str, where),
    )


def _hole(where: str, table: Table) -> Hole:
    only(table, {"name", "sender", "recipient", "text"}, where)
    filled = {"sender": "", "recipient": "", **table}
    return Hole(
        need(table, "name", str, where),
        _pattern(need(filled, "sender", str, where), where),
        _pattern(need(filled, "recipient", str, where), where),
        need(table, "text", str, where),
    )


def _pattern(text: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise BatteryError(f"{where}: {text!r} is no regular expression: {error}") from None
