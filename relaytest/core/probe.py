"""The probe battery: every way of asking a server to relay, as data (battery.toml).

Paths are bytes and are sent exactly as written: a server that relays
`"victim@sink"@[192.0.2.1]` must be asked with the quotes in place, so no address parser may
touch them on the way (see net.smtp_client).
"""

import enum
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relaytest.core.errors import BatteryError
from relaytest.core.peers import Peer, parse_peers, senders_of
from relaytest.core.tables import need, only, rows, texts

# What differs from trial to trial, what is ours, and what is the target's.
PLACEHOLDERS = frozenset(
    {"user", "sender", "sink", "sink_upper", "sink_imcea", "other"}
    | {"host", "host2", "domain", "domain2", "literal", "ip", "arpa", "ptr"}
)
CONTROL = 0  # form number of the control recipient (postmaster), which is no form of the battery
LAST_SHIPPED = 224  # rows with higher numbers are the operator's own
MOST_EXTRA = 30
_EXTRA_TIER = 2  # so that they are part of the quick battery

_PLACEHOLDER = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")
_OUR_DOMAINS = ("${sink}", "${sink_upper}", "${sink_imcea}", "${other}")
_SMTPUTF8 = " SMTPUTF8"  # the parameter without which a path must be ASCII (RFC 6531 section 3.4)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What follows `MAIL FROM:` and `RCPT TO:`, byte for byte.

    The angle brackets are part of a path (RFC 5321 section 4.1.2) and so part of these bytes:
    leaving them out is a form of its own. `b"<>"` is the null reverse-path. Parameters of the
    command are part of them too.
    """

    reverse_path: bytes
    forward_path: bytes


class Helo(enum.Enum):
    """Whom we say we are in EHLO: some servers trust a name of their own, or localhost."""

    OWN = "own"
    LOCALHOST = "localhost"
    HOST = "host"
    DOMAIN = "domain"
    LITERAL = "literal"

    def text(self, values: Mapping[str, str], own: str) -> str:
        """Return the argument of EHLO or HELO.

        Args:
            values: As for Form.envelope; host, domain and literal are needed.
            own: Our own name.
        """
        if self is Helo.OWN:
            return own
        return self.value if self is Helo.LOCALHOST else values[self.value]


@dataclass(frozen=True, slots=True)
class Path:
    """One row of the sender table or of the recipient table.

    Attributes:
        id: Stable name, such as "S-NULL".
        number: 1..255, stable, never reused.
        template: The path with `${...}` for what differs from target to target.
        catches: Which hole or product the form is for.
        odd: Often counted as a syntax error, so rationed in a session.
        helo: Whom we say we are; of senders only.
        needs: EHLO keyword without which the path is not sent.
        wants: Its placeholders.
    """

    id: str
    number: int
    template: str
    catches: str
    odd: bool
    helo: Helo = Helo.OWN
    needs: str | None = None
    wants: frozenset[str] = field(init=False, repr=False, compare=False)
    _pattern: str = field(init=False, repr=False, compare=False)
    _codec: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A visit fills in some sixty templates; `%` is ten times as fast as string.Template.
        pattern = _PLACEHOLDER.sub(r"%(\1)s", self.template.replace("%", "%%"))
        object.__setattr__(self, "_pattern", pattern)
        object.__setattr__(self, "_codec", "ascii" if self.template.isascii() else "utf-8")
        object.__setattr__(self, "wants", frozenset(_PLACEHOLDER.findall(self.template)))

    def fill(self, values: Mapping[str, str]) -> bytes:
        """Return the path with a text for each placeholder; ASCII only if the template is."""
        return (self._pattern % values).encode(self._codec)


@dataclass(frozen=True, slots=True)
class Form:
    """One envelope form: a sender with a recipient.

    Attributes:
        tier: 1 is sent first. Tiers 1 and 2 are the quick battery.
        sent_by: Names of the testers that send it too.
    """

    sender: Path
    recipient: Path
    tier: int
    sent_by: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Stable name, such as "S-EXT/R-PLAIN"; of an operator's own form, its one name."""
        if self.sender.id == self.recipient.id:
            return self.sender.id
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
    def helo(self) -> Helo:
        """Whom we say we are; forms of one session must agree."""
        return self.sender.helo

    @property
    def needs(self) -> frozenset[str]:
        """EHLO keywords without which the form is not sent."""
        return frozenset(one for one in (self.sender.needs, self.recipient.needs) if one)

    @property
    def catches(self) -> str:
        """What the form is for: the recipient's trick, or else the sender's."""
        plain = self.recipient.template == "<${user}@${sink}>"
        return self.sender.catches if plain else self.recipient.catches

    @property
    def claim(self) -> str:
        """What we say of ourselves, for people; with our name in EHLO where that is not ours."""
        mail = f"MAIL FROM:{self.sender.template}"
        if self.helo is Helo.OWN:
            return mail
        name = "localhost" if self.helo is Helo.LOCALHOST else f"${{{self.helo.value}}}"
        return f"EHLO {name}, {mail}"

    @property
    def bounces_to_itself(self) -> bool:
        """Reverse-path and forward-path are one mailbox, so a bounce looks like a copy."""
        return "user" in self.sender.wants

    def envelope(self, values: Mapping[str, str]) -> Envelope:
        """Fill in the templates.

        Args:
            values: A text for each placeholder that the two paths want, ASCII only.
        """
        return Envelope(self.sender.fill(values), self.recipient.fill(values))


@dataclass(frozen=True, slots=True)
class Extra:
    """A form of the operator's own, already checked (see template_fault)."""

    id: str
    mail_from: str
    rcpt_to: str
    helo: Helo = Helo.OWN

    def form(self, number: int) -> Form:
        """Return it as a form whose two rows have `number`.

        It counts as odd: that costs a few more sessions, and a surprise would cost the session.
        """
        sender = Path(self.id, number, self.mail_from, "a form of our own", True, self.helo)
        recipient = Path(self.id, number, self.rcpt_to, "a form of our own", True)
        return Form(sender, recipient, _EXTRA_TIER)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A known way of asking that is not sent, and why."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Battery:
    """All forms, in sending order.

    Attributes:
        peers: Who else sends them.
        left_out: What is known and not sent.
    """

    forms: tuple[Form, ...]
    peers: tuple[Peer, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def up_to(self, tier: int) -> tuple[Form, ...]:
        """Return the forms of tiers 1 to `tier`."""
        return tuple(form for form in self.forms if form.tier <= tier)

    def by_number(self) -> dict[int, Form]:
        """Return the forms by their number."""
        return {form.number: form for form in self.forms}

    def peer(self, name: str) -> Peer | None:
        """Return the peer of that name, in any letter case."""
        return next((one for one in self.peers if one.name.casefold() == name.casefold()), None)

    def with_extra(self, extras: Sequence[Extra]) -> "Battery":
        """Return the battery with the operator's own forms behind the others of their tier.

        Args:
            extras: At most MOST_EXTRA. The first has number 225/225, the next 226/226: evidence
                refers to them by place.
        """
        own = [one.form(LAST_SHIPPED + place) for place, one in enumerate(extras, start=1)]
        forms = sorted((*self.forms, *own), key=lambda form: form.tier)
        return replace(self, forms=tuple(forms))


def parse_battery(text: str) -> Battery:
    """Read a battery file (TOML; see battery.toml for the keys).

    Raises:
        BatteryError: Not TOML, or a key is missing, unknown, repeated or of the wrong kind.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BatteryError(f"not TOML: {error}") from None
    only(tables, {"sender", "recipient", "tier", "peer", "left_out"}, "the battery")
    senders = _paths(tables, "sender")
    recipients = _paths(tables, "recipient")
    forms: dict[str, Form] = {}
    for where, tier in rows(tables, "tier", "the battery"):
        for form in _expand(tier, where, senders, recipients):
            forms.setdefault(form.id, form)
    if not forms:
        raise BatteryError("the battery has no form: [[sender]], [[recipient]], [[tier]] needed")
    peers = parse_peers(tables, forms)
    sent_by = senders_of(peers)
    told = (replace(form, sent_by=sent_by.get(name, ())) for name, form in forms.items())
    in_order = sorted(told, key=lambda form: form.tier)
    return Battery(tuple(in_order), peers, tuple(_left_out(tables)))


def _paths(tables: dict[str, Any], kind: str) -> dict[str, Path]:
    keys = {"id", "number", "path", "catches", "odd", "needs"}
    found: dict[str, Path] = {}
    for place, table in rows(tables, kind, "the battery"):
        where = f"{place} ({table.get('id', 'no id')})"
        only(table, keys | {"helo"} if kind == "sender" else keys, where)
        row = Path(
            id=need(table, "id", str, where),
            number=need(table, "number", int, where),
            template=need(table, "path", str, where),
            catches=need(table, "catches", str, where),
            odd=need({"odd": False, **table}, "odd", bool, where),
            helo=_helo(table, where),
            needs=need({"needs": "", **table}, "needs", str, where) or None,
        )
        _check_path(row, where, recipient=kind == "recipient")
        if row.id in found or row.number in {other.number for other in found.values()}:
            raise BatteryError(f"{where}: id or number {row.number} is taken")
        found[row.id] = row
    return found


def _helo(table: dict[str, Any], where: str) -> Helo:
    text = need({"helo": "own", **table}, "helo", str, where)
    try:
        return Helo(text)
    except ValueError:
        known = ", ".join(one.value for one in Helo)
        raise BatteryError(f"{where}: helo is {text!r}; it must be one of {known}") from None


def _check_path(row: Path, where: str, *, recipient: bool) -> None:
    if not 1 <= row.number <= LAST_SHIPPED:
        raise BatteryError(f"{where}: number is {row.number}; it must be 1 to {LAST_SHIPPED}")
    if row.needs is not None and not re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", row.needs):
        raise BatteryError(f"{where}: needs is {row.needs!r}; an EHLO keyword in upper case")
    utf8 = row.needs == _SMTPUTF8.strip()
    if fault := template_fault(row.template, recipient=recipient, utf8=utf8):
        raise BatteryError(f"{where}: path {row.template!r} {fault}")


def template_fault(template: str, *, recipient: bool, utf8: bool = False) -> str | None:
    """Return what is wrong with the template of a path, or None.

    Args:
        template: With PLACEHOLDERS.
        recipient: Only the token mailbox at a domain of ours proves relay, so it must be there.
        utf8: It is sent to servers with SMTPUTF8 only and need not be ASCII.

    >>> template_fault("<${user}@example.org>", recipient=True)
    'must lead to our sink: ${user} and ${sink} are needed'
    """
    rest = _PLACEHOLDER.sub("", template)
    if "$" in rest or not set(_PLACEHOLDER.findall(template)) <= PLACEHOLDERS:
        return f"may have only ${{...}} of {', '.join(sorted(PLACEHOLDERS))}"
    if not template.isprintable() or not (utf8 or template.isascii()):
        return "must be printable ASCII"
    ours = "${user}" in template and any(domain in template for domain in _OUR_DOMAINS)
    if recipient and not ours:
        return "must lead to our sink: ${user} and ${sink} are needed"
    return None


def _expand(
    tier: dict[str, Any], where: str, senders: dict[str, Path], recipients: dict[str, Path]
) -> Iterable[Form]:
    only(tier, {"number", "senders", "recipients"}, where)
    number = need(tier, "number", int, where)
    for recipient in texts(tier, "recipients", where):
        for sender in texts(tier, "senders", where):
            if sender not in senders or recipient not in recipients:
                raise BatteryError(f"{where}: no such sender or recipient: {sender}, {recipient}")
            form = Form(senders[sender], recipients[recipient], number)
            asks = form.sender.template.endswith(_SMTPUTF8)
            if not asks and not (form.sender.template + form.recipient.template).isascii():
                raise BatteryError(f"{where}: {form.id} is not ASCII and says no{_SMTPUTF8}")
            yield form


def _left_out(tables: dict[str, Any]) -> Iterator[LeftOut]:
    for where, table in rows(tables, "left_out", "the battery"):
        only(table, {"id", "why"}, where)
        yield LeftOut(need(table, "id", str, where), need(table, "why", str, where))
