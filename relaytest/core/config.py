"""The configuration: every limit, delay and name that an operator may set, with its default.

One model for each section of the TOML file. Durations are written "90s", "5min", "4h", "5d" or
"2w", a plain number is seconds; networks and addresses as usual; `host:port` with brackets
around an IPv6 host.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import IPv6Network
from typing import Any, Literal

from pydantic import (
    Field,
    IPvAnyAddress,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from relaytest.core.dsn import without_password
from relaytest.core.errors import ConfigError
from relaytest.core.fields import Dsn, Duration, Endpoint, HostName, NetworkField, Section
from relaytest.core.mailing import Mail
from relaytest.core.nomination import Samples
from relaytest.core.policy import Listing
from relaytest.core.probe import MOST_EXTRA, Extra, Helo, template_fault
from relaytest.core.publishing import Publish
from relaytest.core.target import NEVER, Network, Scope
from relaytest.core.token import LENGTH
from relaytest.core.values import parse_endpoint, parse_host_name
from relaytest.core.website import Web

_MAPPED = IPv6Network("::ffff:0:0/96")  # addresses in it are taken for the IPv4 they mean
SECRET = ("database.dsn", "database.listen_dsn")  # never shown as they are
# `"token@domain"` must fit into a local part of 64 octets (RFC 5321 section 4.5.3.1.1)
LONGEST_SINK_DOMAIN = 64 - LENGTH - len('"@"')


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return host (without brackets) and port of a checked endpoint.

    >>> split_endpoint("[::1]:25")
    ('::1', 25)
    """
    host, _, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Database(Section):
    """Where PostgreSQL is."""

    dsn: Dsn = Field("", description="PostgreSQL to use; empty: the private one under --data")
    pooled: bool = Field(default=False, description="dsn leads to a PgBouncer of transactions")
    listen_dsn: Dsn = Field(
        "", description="PostgreSQL itself if pooled; empty: look for changes every second"
    )
    pool: int = Field(8, ge=2, le=200, description="connections of one process")
    timeout: Duration = Field(timedelta(seconds=10), description="of one statement")


class Identity(Section):
    """Who we are to the servers that we test."""

    ehlo_name: str = Field(
        "", description="name in EHLO, must resolve both ways; empty: the first sink domain"
    )
    sources: list[IPvAnyAddress] = Field(
        [], max_length=16, description="our addresses to probe from; empty: the system's choice"
    )
    contact: str = Field(
        "", pattern=r"^[ -~]{0,200}$", description="mailbox or URL for objections, in every message"
    )
    vantage: str = Field("default", pattern=r"^[a-z0-9-]{1,40}$", description="name of this place")

    @field_validator("ehlo_name")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_host_name(value) if value else ""


class ScopeSection(Section):
    """What may be tested besides global unicast, and what never."""

    allow: list[NetworkField] = Field([], description="special-purpose networks (labs, tests)")
    deny: list[NetworkField] = Field([], description="networks that are never contacted")

    @field_validator("allow", "deny")
    @classmethod
    def _in_one_spelling(cls, networks: list[Network]) -> list[Network]:
        for network in networks:
            if network.version == 6 and network.subnet_of(_MAPPED):
                raise ValueError(f"{network}: write it as an IPv4 network")
        return networks

    @field_validator("allow")
    @classmethod
    def _possible(cls, networks: list[Network]) -> list[Network]:
        for network in networks:
            for never in NEVER:
                if network.overlaps(never):
                    raise ValueError(f"{network} has {never} in it, where no mail server can be")
        return networks

    def rules(self) -> Scope:
        """Return the section as core.target wants it."""
        return Scope(tuple(self.allow), tuple(self.deny))


class Dns(Section):
    """Look-ups of the target's names."""

    nameservers: list[Endpoint] = Field([], description="address:port; empty: the system's")
    timeout: Duration = Field(timedelta(seconds=2), description="of one look-up, all tries")


class ExtraForm(Section):
    """A probe form of the operator's own."""

    id: str = Field(pattern=r"^X-[A-Z0-9][A-Z0-9.-]{0,37}$")
    mail_from: str = Field(min_length=1, max_length=256)  # as long as a path may be (RFC 5321)
    rcpt_to: str = Field(min_length=1, max_length=256)
    helo: Helo = Helo.OWN

    @field_validator("mail_from", "rcpt_to")
    @classmethod
    def _sendable(cls, template: str, info: ValidationInfo) -> str:
        if fault := template_fault(template, recipient=info.field_name == "rcpt_to"):
            raise ValueError(fault)
        if "[127." in template:
            raise ValueError("must not name a loopback address: Domino loops at full load over it")
        return template

    def __str__(self) -> str:
        texts = {"id": self.id, "mail_from": self.mail_from, "rcpt_to": self.rcpt_to}
        shown = [f"{key} = {json.dumps(text)}" for key, text in texts.items()]
        return f'{{{", ".join(shown)}, helo = "{self.helo.value}"}}'


class BatterySection(Section):
    """Which forms are sent."""

    depth: Literal["quick", "full"] = Field("quick", description="quick: tiers 1-2; full: all")
    starttls: Literal["never", "needed", "also"] = Field(
        "also", description="needed: where clear text is refused for it; also: some forms anyway"
    )
    tls_ports: list[int] = Field([465], description="ports where TLS comes first (RFC 8314)")
    extra: list[ExtraForm] = Field(
        [],
        max_length=MOST_EXTRA,
        description="forms of your own, sent with tier 2; add at the end, remove none",
    )

    @field_validator("extra")
    @classmethod
    def _named_apart(cls, extra: list[ExtraForm]) -> list[ExtraForm]:
        ids = [one.id for one in extra]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"{twice[0]} is there twice")
        return extra

    def extras(self) -> tuple[Extra, ...]:
        """Return the forms of one's own as core.probe wants them."""
        return tuple(Extra(one.id, one.mail_from, one.rcpt_to, one.helo) for one in self.extra)


class Timing(Section):
    """Deadlines of a visit, and how long we wait for mail to come back."""

    connect: Duration = Field(timedelta(seconds=20), description="TCP handshake")
    greeting: Duration = Field(timedelta(seconds=60), description="until the 220 (RFC: 5min)")
    command: Duration = Field(timedelta(seconds=60), description="until the next reply")
    end_of_data: Duration = Field(timedelta(minutes=3), description="answer to the final dot")
    session: Duration = Field(timedelta(minutes=4), description="one connection, all in all")
    visit: Duration = Field(timedelta(minutes=10), description="all connections of one visit")
    pause: Duration = Field(
        timedelta(seconds=2), description="before a second try where the first was cut at once"
    )
    settle: Duration = Field(
        timedelta(seconds=1),
        description="wait for more replies, of servers that answer one command twice",
    )
    retries: list[Duration] = Field(
        [timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=4)],
        max_length=20,
        description="delays before the next visit, for deferred and unanswered forms",
    )
    patience: Duration = Field(timedelta(days=5), description="wait for an accepted message")
    grace: Duration = Field(
        timedelta(seconds=60), description="wait for a message that was refused after the dot"
    )


class Politeness(Section):
    """How gently a target is treated."""

    forms_per_session: int = Field(8, ge=1, le=8, description="transactions in one connection")
    odd_forms_per_session: int = Field(2, ge=1, le=2, description="of them likely syntax errors")
    sessions_at_once: int = Field(8, ge=1, le=8, description="connections to one target")
    slots: int = Field(500, ge=1, le=10000, description="targets at once in one worker")
    per_network: int = Field(
        4, ge=1, le=1000, description="targets at once in one /24 or /48, by all workers together"
    )
    request_every: list[Duration] = Field(
        [timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6), timedelta(hours=24)],
        max_length=20,
        description="from a requested test that did not pass to the next request of a removal",
    )
    network_gap: Duration = Field(
        timedelta(0), description="between the starts of two targets in one /24 or /48"
    )


class Sink(Section):
    """Where our messages come back."""

    listen: list[Endpoint] = Field(["127.0.0.1:2525"], description="address:port to listen on")
    domains: list[HostName] = Field(
        [], max_length=8, description="our domains whose MX is the sink; two TLDs in production"
    )
    certificate: str = Field(
        "", description="PEM file with key and chain, for STARTTLS; empty: it is not offered"
    )
    message_octets: int = Field(1 << 20, ge=1 << 12, le=1 << 28, description="kept of a message")
    connections: int = Field(1000, ge=1, description="at once, all in all")
    connections_per_peer: int = Field(50, ge=1, description="at once, from one address")
    session: Duration = Field(timedelta(minutes=15), description="longest session")
    idle: Duration = Field(timedelta(minutes=5), description="longest silence")
    check_every: Duration = Field(
        timedelta(minutes=5),
        ge=timedelta(milliseconds=100),
        description="a message of our own to the sink, to know it works",
    )
    check_peer: str = Field(
        "", description="address:port for it, such as the public one; empty: first `listen`"
    )

    @field_validator("domains")
    @classmethod
    def _short(cls, domains: list[str]) -> list[str]:
        for domain in domains:
            if len(domain) > LONGEST_SINK_DOMAIN:
                raise ValueError(
                    f"{domain!r} has {len(domain)} characters; at most {LONGEST_SINK_DOMAIN}, "
                    'so that "token@domain" fits into a local part (RFC 5321 4.5.3.1.1)'
                )
        return domains

    @field_validator("check_peer")
    @classmethod
    def _peer(cls, value: str) -> str:
        return parse_endpoint(value) if value else ""


class Retention(Section):
    """How long what was found is kept, of targets that are neither listed nor suspected."""

    evidence: Duration = Field(
        timedelta(days=90), ge=timedelta(days=1), description="transcripts and returned messages"
    )
    verdicts: Duration = Field(
        timedelta(days=730), ge=timedelta(days=31), description="verdicts and samples of spam"
    )


class Answer(Section):
    """The built-in DNS answerer of `relaytest up`."""

    listen: Endpoint = Field("127.0.0.1:8053", description="address:port, UDP and TCP")


class Metrics(Section):
    """What Prometheus reads."""

    listen: str = Field(
        "",
        description="address:port for the worker; the other daemons have the ports after it",
    )

    @field_validator("listen")
    @classmethod
    def _place(cls, value: str) -> str:
        return parse_endpoint(value) if value else ""


class Log(Section):
    """The log on standard error."""

    format: Literal["auto", "json", "pretty"] = Field("auto", description="auto: by terminal")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least kept")


class Config(Section):
    """The whole configuration."""

    database: Database = Database()
    identity: Identity = Identity()
    scope: ScopeSection = ScopeSection()
    dns: Dns = Dns()
    battery: BatterySection = BatterySection()
    timing: Timing = Timing()
    politeness: Politeness = Politeness()
    sink: Sink = Sink()
    samples: Samples = Samples()
    listing: Listing = Listing()
    retention: Retention = Retention()
    publish: Publish = Publish()
    answer: Answer = Answer()
    web: Web = Web()
    mail: Mail = Mail()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @property
    def ehlo_name(self) -> str:
        """Our name in EHLO, HELO and Message-ID."""
        return self.identity.ehlo_name or next(iter(self.sink.domains), "relay-probe.invalid")

    @property
    def tier(self) -> int:
        """The highest tier of the battery that is sent."""
        return 2 if self.battery.depth == "quick" else 255

    @model_validator(mode="after")
    def _deadlines_nest(self) -> "Config":
        if self.timing.visit < self.timing.session:
            raise ValueError("timing.visit must not be shorter than timing.session")
        if self.retention.verdicts < self.retention.evidence:
            raise ValueError("retention.verdicts must not be shorter than retention.evidence")
        if self.retention.evidence <= self.timing.patience:
            raise ValueError("retention.evidence must be longer than timing.patience")
        return self


def parse_config(values: Mapping[str, Any]) -> Config:
    """Read the whole configuration from nested tables.

    Raises:
        ConfigError: One line for each mistake: the key, the value, and what would be right.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(complaints(error))) from None


def complaints(error: ValidationError) -> list[str]:
    """Return a line for each mistake: the key, the value, and what would be right."""
    return [_complaint(one) for one in error.errors()]


def _complaint(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(), n=1)
        return f"{key}: no such key{f'; did you mean {near[0]}?' if near else ''}"
    value = error["input"]
    tells = isinstance(value, str | int | float) and key not in SECRET
    said = f" is {value!r}" if tells else ""
    return f"{key}{said}: {error['msg'].removeprefix('Value error, ')}"


def _known_keys() -> list[str]:
    return [key for key, _ in options()] + list(Config.model_fields)


def options() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every option as ("section.key", its field), in the order of this file."""
    for section, field in Config.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, Section)
        for key, option in model.model_fields.items():
            yield f"{section}.{key}", option


def shown(config: Config) -> Config:
    """Return a configuration that may be shown: without passwords."""
    database = config.database
    update = {
        "dsn": without_password(database.dsn),
        "listen_dsn": without_password(database.listen_dsn),
    }
    return config.model_copy(update={"database": database.model_copy(update=update)})
