"""The probe battery: every way of asking a server to relay, as data (battery.toml).

Paths are bytes and are sent exactly as written: a server that relays
`"victim@sink"@[192.0.2.1]` must be asked with the quotes in place, so no address parser may
touch them on the way (see net.smtp_client).
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from relaytest.core.errors import BatteryError

PLACEHOLDERS = frozenset({"user", "sender", "sink", "host", "domain", "literal"})
CONTROL = 0  # form number of the control recipient (postmaster), which is no form of the battery


_PLACEHOLDER = re.compile(r"\$\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What follows `MAIL FROM:` and `RCPT TO:`, byte for byte.

    The angle brackets are part of a path (RFC 5321 section 4.1.2) and so part of these bytes:
    leaving them out is a form of its own. `b"<>"` is the null reverse-path.
    """

    reverse_path: bytes
    forward_path: bytes


@dataclass(frozen=True, slots=True)
class Path:
    """One row of the sender table or of the recipient table.

    Attributes:
        id: Stable name, such as "S-NULL".
        number: 1..255, stable, never reused.
        template: The path with `${...}` for what differs from target to target.
        catches: Which hole or product the form is for.
        sent_by: The testers that send it too.
        odd: Often counted as a syntax error, so rationed in a session.
    """

    id: str
    number: int
    template: str
    catches: str
    sent_by: tuple[str, ...]
    odd: bool
    _pattern: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A visit fills in some sixty templates; `%` is ten times as fast as string.Template.
        pattern = _PLACEHOLDER.sub(r"%(\1)s", self.template.replace("%", "%%"))
        object.__setattr__(self, "_pattern", pattern)

    def fill(self, values: Mapping[str, str]) -> bytes:
        """Return the path with a text for each placeholder, ASCII only."""
        return (self._pattern % values).encode("ascii")


@dataclass(frozen=True, slots=True)
class Form:
    """One envelope form: a sender with a recipient.

    Attributes:
        tier: 1 is sent first. Tiers 1 and 2 are the quick battery.
    """

    sender: Path
    recipient: Path
    tier: int

    @property
    def id(self) -> str:
        """Stable name, such as "S-EXT/R-PLAIN"."""
        return f"{self.sender.id}/{self.recipient.id}"

    @property
    def number(self) -> int:
        """Stable number, 257..65535; it travels inside the token."""
        return self.sender.number << 8 | self.recipient.number

    @property
    def odd(self) -> bool:
        """Either path is often counted as a syntax error."""
        return self.sender.odd or self.recipient.odd

    @property
    def catches(self) -> str:
        """What the form is for: the recipient's trick, or else the sender's."""
        plain = self.recipient.template == "<${user}@${sink}>"
        return self.sender.catches if plain else self.recipient.catches

    @property
    def sent_by(self) -> tuple[str, ...]:
        """The testers known to send this sender and, in some form, this recipient."""
        if "everyone" in self.recipient.sent_by:
            return self.sender.sent_by
        return self.recipient.sent_by

    @property
    def bounces_to_itself(self) -> bool:
        """Reverse-path and forward-path are one mailbox, so a bounce looks like a copy."""
        return "${user}" in self.sender.template

    def envelope(self, values: Mapping[str, str]) -> Envelope:
        """Fill in the templates.

        Args:
            values: A text for each of PLACEHOLDERS, ASCII only.
        """
        return Envelope(self.sender.fill(values), self.recipient.fill(values))


@dataclass(frozen=True, slots=True)
class Battery:
    """All forms, in sending order."""

    forms: tuple[Form, ...]

    def up_to(self, tier: int) -> tuple[Form, ...]:
        """Return the forms of tiers 1 to `tier`."""
        return tuple(form for form in self.forms if form.tier <= tier)

    def by_number(self) -> dict[int, Form]:
        """Return the forms by their number."""
        return {form.number: form for form in self.forms}


def parse_battery(text: str) -> Battery:
    """Read a battery file (TOML; see battery.toml for the keys).

    Raises:
        BatteryError: Not TOML, or a key is missing, unknown, repeated or of the wrong kind.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BatteryError(f"not TOML: {error}") from None
    _only(tables, {"sender", "recipient", "tier"}, "the battery")
    senders = _paths(tables, "sender")
    recipients = _paths(tables, "recipient")
    forms: dict[str, Form] = {}
    for place, tier in _rows(tables, "tier"):
        for form in _expand(tier, f"tier {place}", senders, recipients):
            forms.setdefault(form.id, form)
    if not forms:
        raise BatteryError("the battery has no form: [[sender]], [[recipient]], [[tier]] needed")
    return Battery(tuple(forms.values()))


def _rows(tables: dict[str, Any], kind: str) -> Iterable[tuple[int, dict[str, Any]]]:
    rows = _need({kind: [], **tables}, kind, list, "the battery")
    for place, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BatteryError(f"{kind} {place} is no table")
        yield place, row


def _paths(tables: dict[str, Any], kind: str) -> dict[str, Path]:
    rows: dict[str, Path] = {}
    for place, table in _rows(tables, kind):
        where = f"{kind} {place} ({table.get('id', 'no id')})"
        _only(table, {"id", "number", "path", "catches", "sent_by", "odd"}, where)
        row = Path(
            id=_need(table, "id", str, where),
            number=_need(table, "number", int, where),
            template=_need(table, "path", str, where),
            catches=_need(table, "catches", str, where),
            sent_by=_texts(table, "sent_by", where),
            odd=_need({"odd": False, **table}, "odd", bool, where),
        )
        _check_path(row, where)
        if row.id in rows or row.number in {other.number for other in rows.values()}:
            raise BatteryError(f"{where}: id or number {row.number} is taken")
        rows[row.id] = row
    return rows


def _check_path(row: Path, where: str) -> None:
    if not 1 <= row.number <= 255:
        raise BatteryError(f"{where}: number is {row.number}; it must be 1 to 255")
    rest = _PLACEHOLDER.sub("", row.template)
    if "$" in rest or not set(_PLACEHOLDER.findall(row.template)) <= PLACEHOLDERS:
        known = ", ".join(sorted(PLACEHOLDERS))
        raise BatteryError(f"{where}: path {row.template!r}: only ${{...}} of {known}")
    if not row.template.isascii() or not row.template.isprintable():
        raise BatteryError(f"{where}: path {row.template!r} must be printable ASCII")


def _expand(
    tier: dict[str, Any], where: str, senders: dict[str, Path], recipients: dict[str, Path]
) -> Iterable[Form]:
    _only(tier, {"number", "senders", "recipients"}, where)
    number = _need(tier, "number", int, where)
    for recipient in _texts(tier, "recipients", where):
        for sender in _texts(tier, "senders", where):
            if sender not in senders or recipient not in recipients:
                raise BatteryError(f"{where}: no such sender or recipient: {sender}, {recipient}")
            yield Form(senders[sender], recipients[recipient], number)


def _only(table: dict[str, Any], keys: set[str], where: str) -> None:
    if unknown := sorted(set(table) - keys):
        raise BatteryError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(keys))}")


_T = TypeVar("_T")


def _need(table: dict[str, Any], key: str, kind: type[_T], where: str) -> _T:
    value = table.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BatteryError(f"{where}: key {key!r} is missing or is no {kind.__name__}")
    return value


def _texts(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    texts = tuple(_need(table, key, list, where))
    if not all(isinstance(text, str) for text in texts):
        raise BatteryError(f"{where}: key {key!r} is no list of texts")
    return texts
